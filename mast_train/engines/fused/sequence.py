"""The recurrence of a GRU as one differentiable function, whichever kernel computes it.

What is kept for the backward pass: r, z, n and from_h of every step. A pass then moves, in words an element of
[G,T,R,H], 3 in and 5 out forward (8 with the states), 6 in and 4 out backward, and 4 in for the gradients of weights.
To compute them again from the gates would move 4 less and walk or multiply twice; the walk is what bounds hidden sizes
above 64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mast_train.engines.fused.structure import Structure
from mast_train.settings.errors import UserError


def gru_sequence(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    lengths: Tensor | None = None,
    structure: Structure | None = None,
    **options: Any,
) -> Tensor:
    """States [G,T,R,H] of G groups of R rows from a zero state, each group with its own recurrent weights.

    gates [G,T,R,3H]: input projections with their bias, order r, z, n; weight_hh [G,3H,H]; bias_hh [G,3H]; float32.
    lengths [G,R] int32: steps of each row, at most T. States and gradients of gates are zero from there on, whatever
    the gates hold there. structure: the connections to run on; weights elsewhere count as zero, but the gradient of
    weight_hh is of all. options: of `dense.forward`. Differentiable once; recordable in a CUDA graph after one call.

    Equations: torch.nn.GRUCell. Channel-major gates (`layout`) spare the sparse kernel a copy.
    """
    g, _, rows, width = gates.shape
    h = width // 3
    expected = {
        "gates": (gates, gates.shape),
        "weight_hh": (weight_hh, (g, 3 * h, h)),
        "bias_hh": (bias_hh, (g, 3 * h)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise UserError(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected torch.float32 {list(shape)}")
    for name, tensor in (("weight_hh", weight_hh), ("bias_hh", bias_hh), ("lengths", lengths)):
        if tensor is not None and tensor.device != gates.device:
            raise UserError(f"{name} is on {tensor.device}, gates on {gates.device}")
    if lengths is not None and (lengths.shape != (g, rows) or lengths.dtype != torch.int32):
        raise UserError(f"lengths are {lengths.dtype} {list(lengths.shape)}, expected torch.int32 {[g, rows]}")
    if structure is not None and (structure.groups, structure.hidden) != (g, h):
        raise UserError(f"the structure is of {structure.groups} groups of {structure.hidden} units, not {g} of {h}")
    return FusedGRU.apply(gates, weight_hh, bias_hh, lengths, structure, options)  # type: ignore[return-value]


class FusedGRU(torch.autograd.Function):
    """`gru_sequence`, its arguments checked."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight_hh: Tensor,
        bias_hh: Tensor,
        lengths: Tensor | None,
        structure: Structure | None,
        options: dict[str, Any],
    ) -> Tensor:
        weight_hh, bias_hh = weight_hh.contiguous(), bias_hh.contiguous()
        lengths = None if lengths is None else lengths.contiguous()
        keep = any(ctx.needs_input_grad[:3])
        if structure is not None:
            from mast_train.engines.fused import sparse

            states, saved = sparse.forward(gates, weight_hh, bias_hh, lengths, structure, keep)
        else:
            from mast_train.engines.fused import dense

            states, saved = dense.forward(gates, weight_hh, bias_hh, lengths, keep, **options)
        ctx.structure, ctx.options = structure, options
        ctx.save_for_backward(weight_hh, lengths, states, saved)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, lengths, states, saved = ctx.saved_tensors
        if ctx.structure is not None:
            from mast_train.engines.fused import sparse

            grads = sparse.backward(grad_outputs[0], weight_hh, lengths, states, saved, ctx.structure)
        else:
            from mast_train.engines.fused import dense

            grads = dense.backward(grad_outputs[0], weight_hh, lengths, states, saved, **ctx.options)
        h = states.shape[-1]
        weight, bias = weight_gradients(grads, states) if any(ctx.needs_input_grad[1:3]) else (None, None)
        return grads[..., : 3 * h], weight, bias, None, None, None


def weight_gradients(grads: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight_hh [G,3H,H] and bias_hh [G,3H] from grads [G,T,R,4H] (r, z, n, from_h) and states [G,T,R,H]."""
    h = states.shape[-1]
    before = states[:, :-1].flatten(1, 2)
    later = grads[:, 1:].flatten(1, 2)  # the state before the first step is zero
    weight = states.new_empty(len(states), 3 * h, h)
    torch.bmm(later[..., : 2 * h].mT, before, out=weight[:, : 2 * h])
    torch.bmm(later[..., 3 * h :].mT, before, out=weight[:, 2 * h :])
    sums = grads.sum((1, 2))
    return weight, torch.cat([sums[:, : 2 * h], sums[:, 3 * h :]], 1)
