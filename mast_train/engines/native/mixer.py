"""QMIX's mixing network in C, on the connections of its masks, forward and backward. The torch module is the oracle.

Letters: K repeats, R rows (transitions), N agents, S state, M states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mast_train.engines.native.extension import check_level, extension
from mast_train.engines.native.gradients import Gradients
from mast_train.engines.native.structure import Structure
from mast_train.networks.mixers import MonotonicMixer

MEANS = 5
"""MIXER_MEANS of mixer.h."""


class SparseMixer:
    """Native forward and backward of `mixer`, whose weights it reads at every call.

    masks: the weights' bool masks by parameter name ("w1_in.weight"), as of Masks.state_dict(); a name left out is
    full. They may change in place. None: the connections are the weights that are not 0, for target networks; no
    gradients then. level: one of `native.levels()`. Raises ValueError.
    """

    def __init__(self, mixer: MonotonicMixer, masks: Mapping[str, Tensor] | None, level: str | None = None) -> None:
        self.mixer, self.level = mixer, check_level(level)
        self.parameters = dict(mixer.named_parameters())
        weights = {name: parameter for name, parameter in self.parameters.items() if name.endswith(".weight")}
        self.structure = Structure(self._build, weights, masks)
        self._gradients = Gradients(self.parameters)

    def _build(self, masks: Mapping[str, Tensor]) -> Any:
        mixer, first = self.mixer, self.mixer.w1_in
        sizes = {"agents": mixer.n_agents, "states": first.in_features, "hidden": first.out_features}
        return extension().mixer_build(embed=mixer.embed, masks=dict(masks), **sizes)

    def __call__(
        self, q: Tensor, state: Tensor, rows: Tensor | None = None, *, dense_gradients: bool = False
    ) -> Tensor:
        """q [R,N] or [K,R,N], state [R,S] -> Q_tot [R] or [K,R]; the hypernetworks run once for the K of a row.

        rows: int64 [R], which of state [M,S] is each row's. None: all, in order.
        Differentiable, once, in q and the parameters: the backward pass sets the parameters' .grad itself, 0 off the
        masks or, with dense_gradients, torch's. The state gets no gradient. Raises ValueError.
        """
        rows = None if rows is None else rows.contiguous()
        if not torch.is_grad_enabled():
            return self.values(self.structure.current(), _plain(q), _plain(state), rows)
        wanted = self.structure.wanted(dense_gradients)
        return _Mixing.apply(self, wanted, q, state, rows, next(iter(self.parameters.values())))

    def fit(
        self,
        q: Tensor,
        state: Tensor,
        rows: Tensor,
        target: Tensor,
        weight: Tensor | None,
        low: float,
        *,
        dense_gradients: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Forward and back for the mean of weight (Q_tot - target)^2 (losses.td_loss); q, state and rows as of a call.

        target, weight [R]; weight None: 1 where Q_tot < target and `low` elsewhere (losses.optimistic_weight). Sets the
        parameters' .grad; returns q's gradient [R,N] and the means over rows of the loss, q, Q_tot, target and weight
        [5]. Raises ValueError.
        """
        wanted = self.structure.wanted(dense_gradients)
        q, target = _plain(q), _plain(target)
        grad_q, means = torch.empty_like(q), target.new_empty(MEANS)
        shared = self._shared(self.structure.current(), q, _plain(state), rows.contiguous())
        weight = None if weight is None else _plain(weight)

        def fill(gradients: dict[str, Tensor]) -> None:
            goal = {"target": target, "weight": weight, "low": low}
            extension().mixer_fit(**shared, wanted=wanted, gradients=gradients, **goal, grad_q=grad_q, means=means)

        self._gradients.write(wanted, fill)
        return grad_q, means

    def values(self, network: Any, q: Tensor, state: Tensor, rows: Tensor | None) -> Tensor:
        """Q_tot on the connections of `network`, a structure of this mixer; all contiguous, no gradients."""
        q_tot = q.new_empty(q.shape[:-1])
        extension().mixer_forward(**self._shared(network, q, state, rows), q_tot=q_tot)
        return q_tot

    def backward(
        self, network: Any, wanted: Any, q: Tensor, state: Tensor, rows: Tensor | None, grad_q_tot: Tensor
    ) -> Tensor:
        """Sets the parameters' .grad where `wanted`, a structure, has connections; returns q's gradient."""
        grad_q, shared = torch.empty_like(q), self._shared(network, q, state, rows)

        def fill(gradients: dict[str, Tensor]) -> None:
            of_rows = {"grad_q_tot": grad_q_tot, "grad_q": grad_q}
            extension().mixer_backward(**shared, wanted=wanted, gradients=gradients, **of_rows)

        self._gradients.write(wanted, fill)
        return grad_q

    def _shared(self, network: Any, q: Tensor, state: Tensor, rows: Tensor | None) -> dict[str, Any]:
        """What every pass is given."""
        return {
            "level": self.level,
            "threads": torch.get_num_threads(),
            "network": network,
            "parameters": self.parameters,
            "rows": rows,
            "state": state,
            "q": q,
        }


class _Mixing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mixer: SparseMixer, wanted: Any, q: Tensor, state: Tensor, rows: Tensor | None, parameter: Tensor
    ) -> Tensor:
        """parameter: any of them, so that what comes out is differentiable."""
        ctx.mixer, ctx.wanted, ctx.network = mixer, wanted, mixer.structure.current()
        q, state = _plain(q), _plain(state)
        ctx.save_for_backward(q, state, rows, *mixer.parameters.values())
        return mixer.values(ctx.network, q, state, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, state, rows, *_ = ctx.saved_tensors  # raises when one was changed since the forward pass
        grad_q = ctx.mixer.backward(ctx.network, ctx.wanted, q, state, rows, _plain(grad_outputs[0]))
        return None, None, grad_q, None, None, None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
