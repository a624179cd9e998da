"""The optimisers' steps of several seeds: one after another in torch, or all at once over one flat memory.

Letters: K seeds, P weights and biases of all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mast_train.engines.base import Parts
from mast_train.engines.joint import lay_out


class InTurn:
    """Seed by seed, by torch's own optimisers. What every other way is tested against."""

    def __init__(self, parts: Sequence[Parts]) -> None:
        self._parts = list(parts)

    def set_rates(self, rates: Sequence[float]) -> None:
        """The learning rates [K] of the next steps."""
        for part, rate in zip(self._parts, rates, strict=True):
            for group in part.optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0)

    def clear(self) -> None:
        for part in self._parts:  # by hand: torch's zero_grad takes 0.1 ms for its hooks
            for group in part.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def step(self, max_norm: float) -> Tensor:
        """Mask the gradients, clip those of each seed's parties by their global norm, step; a seed's norms before
        clipping [K]."""
        norms = []
        for part in self._parts:
            for masks in part.masks.values():
                masks.apply_to_gradients()
            parties = [group["params"] for group in part.optimizer.param_groups]
            each = [nn.utils.clip_grad_norm_(parameters, max_norm) for parameters in parties]
            norms.append(each[0] if len(each) == 1 else torch.linalg.vector_norm(torch.stack(each)))
            part.optimizer.step()
        return torch.stack(norms)


class Flat:
    """All seeds in one pass over flat memory [P]: Adam (Kingma & Ba 2015) or RMSprop, as torch.optim computes them.

    Parameters, gradients, masks and moments of all seeds are laid out here; the seeds' own tensors, the masks and the
    entries of their optimisers' state become views of it, so saving and topology evolution go on as before. Steps can
    be recorded in a CUDA graph: rates are read from the device.
    """

    def __init__(self, parts: Sequence[Parts]) -> None:
        """Raises ValueError for an optimiser other than Adam and RMSprop."""
        self.optimizer = parts[0].optimizer
        if not isinstance(self.optimizer, torch.optim.Adam | torch.optim.RMSprop):
            raise ValueError(f"{type(self.optimizer).__name__} cannot be stepped for all seeds at once")
        self.moments = ("exp_avg", "exp_avg_sq") if isinstance(self.optimizer, torch.optim.Adam) else ("square_avg",)
        self._wholes: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        learned = [(key, name, p) for key in parts[0].masks for name, p in parts[0].networks[key].named_parameters()]
        device, k = learned[0][2].device, len(parts)
        total = k * sum(parameter.numel() for _, _, parameter in learned)
        self._parameters, self._gradients = (torch.zeros(total, device=device) for _ in range(2))
        self._moments = [torch.zeros(total, device=device) for _ in self.moments]
        self._mask = torch.ones(total, dtype=torch.bool, device=device)
        self._seed_of = torch.empty(total, dtype=torch.int32, device=device)
        self._steps, self._rates = torch.zeros(k, device=device), torch.zeros(k, device=device)
        self._parts = list(parts)
        start = 0
        for key, name, parameter in learned:
            end = start + k * parameter.numel()
            self._take(key, name, slice(start, end), (k, *parameter.shape))
            start = end

    def _take(self, key: str, name: str, place: slice, shape: tuple[int, ...]) -> None:
        """Lay out one parameter of all seeds."""
        own = [dict(part.networks[key].named_parameters())[name] for part in self._parts]
        states = [part.optimizer.state[parameter] for part, parameter in zip(self._parts, own, strict=True)]
        masks = [part.masks[key].state_dict().get(name) for part in self._parts]
        whole = lay_out(own, self._parameters[place].view(shape))
        gradients = self._gradients[place].view(shape)
        self._wholes[key, name] = whole, gradients
        seeds = torch.arange(shape[0], dtype=torch.int32, device=whole.device)
        self._seed_of[place] = seeds.repeat_interleave(whole[0].numel())
        for k, state in enumerate(states):
            self._keep_state(state, k, place, shape)
        if masks[0] is not None:
            lay_out([mask for mask in masks if mask is not None], self._mask[place].view(shape))
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient

    def _keep_state(self, state: dict[str, Any], k: int, place: slice, shape: tuple[int, ...]) -> None:
        """An optimiser's state of one parameter of seed k: moved here where it has begun, begun where it has not."""
        if "step" in state:
            self._steps[k] = state["step"]
        for name, flat in zip(self.moments, self._moments, strict=True):
            mine = flat[place].view(shape)[k]
            if name in state:
                mine.copy_(state[name])
            state[name] = mine
        state["step"] = self._steps[k]

    def whole(self, key: str, name: str) -> tuple[Tensor, Tensor]:
        """A parameter of all seeds and its gradient, each [K,...]."""
        return self._wholes[key, name]

    def mask(self, key: str, name: str) -> Tensor:
        """Where a parameter of all seeds has connections: bool [K,...], all true where nothing masks it."""
        whole = self._wholes[key, name][0]
        return self._mask[whole.storage_offset() : whole.storage_offset() + whole.numel()].view(whole.shape)

    def set_rates(self, rates: Sequence[float]) -> None:
        """The learning rates [K] of the next steps."""
        self._rates.copy_(torch.tensor(rates), non_blocking=True)

    def clear(self) -> None:
        self._gradients.zero_()

    @torch.no_grad()
    def step(self, max_norm: float) -> Tensor:
        """Mask the gradients, clip each seed's by their global norm, step; the norms before clipping [K]."""
        g = self._gradients.mul_(self._mask)
        parts = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for _, gradient in self._wholes.values()]
        norms = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        g.mul_(self._spread((max_norm / (norms + 1e-6)).clamp(max=1.0)))
        self._steps += 1
        if len(self._moments) == 2:
            self._adam(g)
        else:
            self._rmsprop(g)
        return norms

    def _adam(self, g: Tensor) -> None:
        (first, second), settings = self._moments, self.optimizer.defaults
        beta1, beta2 = settings["betas"]
        first.lerp_(g, 1.0 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        root = self._spread(self._left(beta2).sqrt())
        denominator = second.sqrt().div_(root).add_(settings["eps"])
        self._parameters.sub_(self._spread(self._rates / self._left(beta1)) * first.div(denominator))

    def _left(self, decay: float) -> Tensor:
        """1 - decay^steps [K]; in float32 the difference itself would lose four digits in the first steps."""
        return -torch.expm1(self._steps * math.log(decay))

    def _rmsprop(self, g: Tensor) -> None:
        (second,), settings = self._moments, self.optimizer.defaults
        second.mul_(settings["alpha"]).addcmul_(g, g, value=1.0 - settings["alpha"])
        self._parameters.sub_(self._spread(self._rates) * g.div(second.sqrt().add_(settings["eps"])))

    def _spread(self, by_seed: Tensor) -> Tensor:
        """[K] -> each weight's own [P]."""
        return by_seed if len(by_seed) == 1 else by_seed.index_select(0, self._seed_of)
