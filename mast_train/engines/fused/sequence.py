"""The recurrence of a GRU as one differentiable function, whichever kernel computes it.

What is kept for the backward pass: r, z, n, from_h and the state before of every step. A pass then moves, in words an
element of [G,P,H], 3 in and 6 out forward, 6 in and 4 out backward, and 4 in for the gradients of weights.
To compute them again from the gates would move 4 less and walk or multiply twice; the walk is what bounds hidden sizes
above 64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mast_train.engines.fused.layout import Places
from mast_train.engines.fused.structure import Structure
from mast_train.networks.agents import GRUSequence
from mast_train.settings.errors import UserError


def gru_sequence(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    lengths: Tensor | None = None,
    structure: Structure | None = None,
    **options: Any,
) -> Tensor:
    """`gru_places` of rows that have a place at every step: gates [G,T,R,3H] -> states [G,T,R,H].

    lengths [G,R] int32: steps of each row, at most T; None: all. States and gradients of gates are zero from there on,
    whatever the gates hold there.
    """
    _, steps, rows, _ = gates.shape
    at = Places(rows, steps, lengths)
    return gru_places(gates.flatten(1, 2), weight_hh, bias_hh, at, structure, **options).unflatten(1, (steps, rows))


def gru_places(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    at: Places,
    structure: Structure | None = None,
    **options: Any,
) -> Tensor:
    """States [G,P,H] of G groups of rows from a zero state, each group with its own recurrent weights.

    gates [G,P,3H]: input projections with their bias, order r, z, n; weight_hh [G,3H,H]; bias_hh [G,3H]; float32.
    at: which place is which row's and step's. States and gradients of gates are zero where nobody's step is, whatever
    the gates hold there. structure: the connections to run on; weights elsewhere count as zero, but the gradient of
    weight_hh is of all. options: of `dense.forward`. Differentiable once; recordable in a CUDA graph after one call.

    Equations: torch.nn.GRUCell. Channel-major gates (`layout`) spare the sparse kernel a copy.
    """
    _check(gates, weight_hh, bias_hh, at, structure)
    return FusedGRU.apply(gates, weight_hh, bias_hh, at, structure, options)  # type: ignore[return-value]


def gru_in_torch(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, at: Places) -> Tensor:
    """`gru_places` step by step in torch, packed rows padded for it; where nobody's step is, states are something
    finite."""
    g, p, h = len(gates), gates.shape[1], weight_hh.shape[-1]
    if at.begins is None:
        return GRUSequence.apply(gates.unflatten(1, (at.steps, at.rows)), weight_hh, bias_hh).flatten(1, 2)
    assert at.lengths is not None
    step, row = torch.arange(at.steps, device=gates.device), torch.arange(at.rows, device=gates.device)
    own = (at.begins[:, :-1].unsqueeze(2) + row).flatten(1)
    inside = (step.unsqueeze(1) < at.lengths.unsqueeze(1)).flatten(1)
    index = torch.where(inside, own, p).unsqueeze(2).long()  # place p: of those that have none
    whole = pad(gates, (0, 0, 0, 1)).gather(1, index.expand(-1, -1, 3 * h))
    states = GRUSequence.apply(whole.unflatten(1, (at.steps, at.rows)), weight_hh, bias_hh).flatten(1, 2)
    return states.new_zeros(g, p + 1, h).scatter(1, index.expand(-1, -1, h), states)[:, :p]


def _check(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, at: Places, structure: Structure | None) -> None:
    """Raises UserError for tensors that do not fit each other."""
    g, _, width = gates.shape
    h = width // 3
    expected = {
        "gates": (gates, gates.shape),
        "weight_hh": (weight_hh, (g, 3 * h, h)),
        "bias_hh": (bias_hh, (g, 3 * h)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise UserError(f"{name} is {tensor.dtype} {list(tensor.shape)}, expected torch.float32 {list(shape)}")
    tables = {"lengths": (at.lengths, (g, at.rows)), "begins": (at.begins, (g, at.steps + 1))}
    for name, (tensor, shape) in tables.items():
        if tensor is not None and (tensor.shape != shape or tensor.dtype != torch.int32):
            raise UserError(f"{name} are {tensor.dtype} {list(tensor.shape)}, expected torch.int32 {list(shape)}")
    for name, tensor in (
        ("weight_hh", weight_hh),
        ("bias_hh", bias_hh),
        ("lengths", at.lengths),
        ("begins", at.begins),
    ):
        if tensor is not None and tensor.device != gates.device:
            raise UserError(f"{name} is on {tensor.device}, gates on {gates.device}")
    if at.begins is not None and at.lengths is None:
        raise UserError("packed places (begins) without the rows' lengths")
    if structure is not None and (structure.groups, structure.hidden) != (g, h):
        raise UserError(f"the structure is of {structure.groups} groups of {structure.hidden} units, not {g} of {h}")


class FusedGRU(torch.autograd.Function):
    """`gru_places`, its arguments checked."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight_hh: Tensor,
        bias_hh: Tensor,
        at: Places,
        structure: Structure | None,
        options: dict[str, Any],
    ) -> Tensor:
        weight_hh, bias_hh = weight_hh.contiguous(), bias_hh.contiguous()
        lengths, begins = (None if x is None else x.contiguous() for x in (at.lengths, at.begins))
        at = at._replace(lengths=lengths, begins=begins)
        keep = any(ctx.needs_input_grad[:3])
        if structure is not None:
            from mast_train.engines.fused import sparse

            states, saved = sparse.forward(gates, weight_hh, bias_hh, at, structure, keep)
        else:
            from mast_train.engines.fused import dense

            states, saved = dense.forward(gates, weight_hh, bias_hh, at, keep, **options)
        ctx.size, ctx.structure, ctx.options = (at.rows, at.steps), structure, options
        ctx.save_for_backward(weight_hh, lengths, begins, saved)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, lengths, begins, saved = ctx.saved_tensors
        rows, steps = ctx.size
        at = Places(rows, steps, lengths, begins)
        if ctx.structure is not None:
            from mast_train.engines.fused import sparse

            grads = sparse.backward(grad_outputs[0], weight_hh, at, saved, ctx.structure)
        else:
            from mast_train.engines.fused import dense

            grads = dense.backward(grad_outputs[0], weight_hh, at, saved, **ctx.options)
        h = weight_hh.shape[-1]
        before = saved[..., 4 * h :]
        weight, bias = weight_gradients(grads, before) if any(ctx.needs_input_grad[1:3]) else (None, None)
        return grads[..., : 3 * h], weight, bias, None, None, None


def weight_gradients(grads: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Of weight_hh [G,3H,H] and bias_hh [G,3H] from grads [G,P,4H] (r, z, n, from_h) and the states before [G,P,H]."""
    h = before.shape[-1]
    weight = before.new_empty(len(before), 3 * h, h)
    torch.bmm(grads[..., : 2 * h].mT, before, out=weight[:, : 2 * h])
    torch.bmm(grads[..., 3 * h :].mT, before, out=weight[:, 2 * h :])
    sums = grads.sum(1)
    return weight, torch.cat([sums[:, : 2 * h], sums[:, 3 * h :]], 1)
