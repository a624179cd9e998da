"""QMIX's mixing network in C, on the connections of its masks, forward and backward. The torch module is the oracle.

Letters: K repeats, R rows (transitions), N agents, S state, M states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mast_train import native
from mast_train.native.gradients import Gradients
from mast_train.networks.mixers import MonotonicMixer

LAYERS = ("w1_in", "w1_out", "w2_in", "w2_out", "b1", "b2_in", "b2_out")
"""In the order of mixer.h."""
MEANS = 5
"""MIXER_MEANS of mixer.h."""


class SparseMixer:
    """Native forward and backward of `mixer`, whose weights it reads at every call.

    masks: the weights' bool masks by parameter name ("w1_in.weight"), as of Masks.state_dict(); a name left out is
    full. They may change in place. None: the connections are the weights that are not 0, for target networks; no
    gradients then. level: one of `native.levels()`. Raises ValueError.
    """

    def __init__(self, mixer: MonotonicMixer, masks: Mapping[str, Tensor] | None, level: str | None = None) -> None:
        if not native.available():
            raise ValueError(native.status())
        self.mixer, self.level = mixer, native.check_level(level)
        self._masks = masks
        layers = [getattr(mixer, name) for name in LAYERS]
        self._weights, self._biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        self._parameters = [*self._weights, *self._biases]
        self._structure = native.Watched(self._build)
        self._full: Any = None
        self._gradients = Gradients()
        native.check_parameters(self._parameters)

    def __call__(
        self, q: Tensor, state: Tensor, rows: Tensor | None = None, *, dense_gradients: bool = False
    ) -> Tensor:
        """q [R,N] or [K,R,N], state [R,S] -> Q_tot [R] or [K,R]; the hypernetworks run once for the K of a row.

        rows: int64 [R], which of state [M,S] is each row's; below M, which is not checked. None: all, in order.
        Differentiable, once, in q and the parameters: the backward pass sets the parameters' .grad itself, 0 off the
        masks or, with dense_gradients, torch's. The state gets no gradient. Raises ValueError.
        """
        count = len(state if rows is None else rows)
        if q.shape[-2:] != (count, self.mixer.n_agents) or state.shape[1] != self.mixer.w1_in.in_features:
            raise ValueError(
                f"q is {list(q.shape)} and state {list(state.shape)}, expected [...,{count},{self.mixer.n_agents}] and "
                f"[...,{self.mixer.w1_in.in_features}]"
            )
        rows = None if rows is None else rows.contiguous()
        if not torch.is_grad_enabled():
            return self._run(_plain(q), _plain(state), rows)
        if self._masks is None:
            raise ValueError("no gradients without masks")
        return _Mixing.apply(self, dense_gradients, q, state, rows, self._parameters[0])

    def structure(self) -> Any:
        """The extension's structure of the connections as they are now."""
        return self._structure.current(self._weights if self._masks is None else list(self._masks.values()))

    def full_structure(self) -> Any:
        """That of full masks."""
        if self._full is None:
            self._full = self._built([None] * len(LAYERS))
        return self._full

    def _build(self) -> Any:
        if self._masks is None:
            return self._built([weight != 0 for weight in self._weights])
        return self._built([self._masks.get(f"{name}.weight") for name in LAYERS])

    def _built(self, masks: Sequence[Tensor | None]) -> Any:
        mixer = self.mixer
        sizes = (mixer.n_agents, mixer.w1_in.in_features, mixer.embed, mixer.w1_in.out_features)
        return native.extension().mixer_build(*sizes, native.addresses(masks))

    def _inputs(self, q: Tensor, state: Tensor, rows: Tensor | None) -> tuple[Any, ...]:
        """What both calls take after the structure, up to q's address."""
        size = (q.numel() // max(1, q.shape[-2] * q.shape[-1]), q.shape[-2])
        parameters = native.addresses(self._weights), native.addresses(self._biases)
        return self.level, torch.get_num_threads(), size, *parameters, *native.addresses([state, rows, q])

    def _run(self, q: Tensor, state: Tensor, rows: Tensor | None) -> Tensor:
        q_tot = q.new_empty(q.shape[:-1])
        native.extension().mixer_forward(self.structure(), *self._inputs(q, state, rows), q_tot.data_ptr())
        return q_tot

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
        if self._masks is None:
            raise ValueError("no gradients without masks")
        q, state, target = _plain(q), _plain(state), _plain(target)
        weight = None if weight is None else _plain(weight)
        q_tot, grad, means = torch.empty_like(target), torch.empty_like(target), target.new_empty(MEANS)
        goal = *native.addresses([target, weight]), low, *native.addresses([q_tot, means])
        structure = self.structure()
        wanted = self.full_structure() if dense_gradients else structure
        return self._backward(structure, wanted, q, state, rows.contiguous(), grad, goal), means

    def _backward(
        self,
        structure: Any,
        wanted: Any,
        q: Tensor,
        state: Tensor,
        rows: Tensor | None,
        grad: Tensor,
        goal: tuple[float, ...] = (0, 0, 0.0, 0, 0),
    ) -> Tensor:
        grad_q, layers = torch.empty_like(q), len(LAYERS)

        def fill(gradients: Any) -> None:
            native.extension().mixer_backward(
                structure,
                wanted,
                *self._inputs(q, state, rows),
                *native.addresses([grad, grad_q]),
                *goal,
                native.addresses(gradients[:layers]),
                native.addresses(gradients[layers:]),
            )

        self._gradients.write(self._parameters, wanted, fill)
        return grad_q


class _Mixing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mixer: SparseMixer,
        dense_gradients: bool,
        q: Tensor,
        state: Tensor,
        rows: Tensor | None,
        parameter: Tensor,
    ) -> Tensor:
        """parameter: any of them, so that what comes out is differentiable."""
        ctx.mixer, ctx.structure = mixer, mixer.structure()
        ctx.wanted = mixer.full_structure() if dense_gradients else ctx.structure
        q, state = _plain(q), _plain(state)
        ctx.save_for_backward(q, state, rows, *mixer._parameters)
        return mixer._run(q, state, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, state, rows, *_ = ctx.saved_tensors  # raises when one was changed since the forward pass
        grad_q = ctx.mixer._backward(ctx.structure, ctx.wanted, q, state, rows, _plain(grad_outputs[0]))
        return None, None, grad_q, None, None, None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
