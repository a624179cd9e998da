"""The dense recurrence: launches of the Triton kernels. See `sequence.gru_sequence` for what it computes.

Up to PERSISTENT hidden units a group's weights stay on the chip and one launch runs all steps; above, it is one launch
a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor

from mast_train.engines.fused import layout
from mast_train.engines.fused.dense_kernels import backward_kernel, forward_kernel
from mast_train.engines.fused.step_kernels import backward_step, forward_step
from mast_train.settings.errors import check_choice

PRECISIONS = ("ieee", "tf32x3", "tf32", "bf16")
PERSISTENT = 64
SMALLEST = 16
"""What a product of tiles asks for in every direction but rows."""


@dataclass(frozen=True)
class Tiles:
    """Rows and warps of a program that runs all steps; `split`: parts of a product's inner dimension (ieee only)."""

    rows: int
    warps: int
    split: int = 1
    stages: int = 1


@dataclass(frozen=True)
class StepTiles:
    """Rows, hidden units, entries of weights at a time and warps of a program that runs one step."""

    rows: int
    warps: int
    units: int = 16
    entries: int = 64
    stages: int = 2


def tiles(hidden: int, precision: str) -> Tiles | StepTiles:
    """The tiles that spill least on sm_90."""
    if hidden > PERSISTENT:
        return StepTiles(rows=32, warps=4, units=16 if precision in ("ieee", "tf32x3") else 32)
    if precision == "ieee":
        return Tiles(rows=8, warps=8, split=max(1, _padded(hidden) // 16))
    return Tiles(rows=16, warps=8)


def forward(
    gates: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor,
    lengths: Tensor | None,
    keep: bool,
    *,
    precision: str = "ieee",
    forward_tiles: Tiles | StepTiles | None = None,
    backward_tiles: Tiles | StepTiles | None = None,
) -> tuple[Tensor, Tensor | None]:
    """states [G,T,R,H] and, if `keep`, saved [G,T,R,4H]: r, z, n and from_h; both in the layout of gates.

    precision: of the products, one of PRECISIONS; "ieee" is float32 throughout.
    """
    check_choice("precision", precision, PRECISIONS)
    gates = layout.as_regular(gates)
    groups, steps, rows, width = gates.shape
    h, adjacent = width // 3, layout.channel_major(gates)
    states = layout.empty(gates, h, adjacent)
    saved = layout.empty(gates, 4 * h, adjacent) if keep else None
    choice = forward_tiles or tiles(h, precision)
    arguments = (*_strided(gates), *_strided(states), *_strided(states if saved is None else saved))
    arguments = (*arguments, weight_hh, bias_hh, _lengths(lengths, weight_hh))
    flags = {"PRECISION": precision, "RAGGED": lengths is not None, "KEEP": keep}
    _launch((forward_kernel, forward_step), arguments, range(steps), (groups, steps, rows, h), choice, flags)
    return states, saved


def backward(
    grad_states: Tensor,
    weight_hh: Tensor,
    lengths: Tensor | None,
    states: Tensor,
    saved: Tensor,
    *,
    precision: str = "ieee",
    forward_tiles: Tiles | StepTiles | None = None,
    backward_tiles: Tiles | StepTiles | None = None,
) -> Tensor:
    """grads [G,T,R,4H]: of r, z and n before their functions, and of from_h; in the layout of the states."""
    groups, steps, rows, h = states.shape
    grads = layout.empty(states, 4 * h, layout.channel_major(states))
    choice = backward_tiles or tiles(h, precision)
    arguments = (*_strided(grad_states), *_strided(states), *_strided(saved), *_strided(grads))
    if isinstance(choice, StepTiles):
        arguments = (*arguments, states.new_empty(groups, rows, h))
    arguments = (*arguments, weight_hh, _lengths(lengths, weight_hh))
    flags = {"PRECISION": precision, "RAGGED": lengths is not None}
    order = range(steps - 1, -1, -1)
    _launch((backward_kernel, backward_step), arguments, order, (groups, steps, rows, h), choice, flags)
    return grads


def _strided(x: Tensor) -> tuple[Any, ...]:
    return x, *x.stride()


def _lengths(lengths: Tensor | None, unused: Tensor) -> Tensor:
    return unused if lengths is None else lengths.contiguous()


def _padded(hidden: int) -> int:
    return max(SMALLEST, 1 << (hidden - 1).bit_length())


def _launch(
    kernels: tuple[Any, Any],
    arguments: tuple[Any, ...],
    order: range,
    shape: tuple[int, int, int, int],
    choice: Tiles | StepTiles,
    flags: dict[str, Any],
) -> None:
    """kernels: of all steps, and of one; shape: groups, steps, rows, hidden units."""
    groups, steps, rows, h = shape
    whole, single = kernels
    flags = flags | {"H": h, "ROWS": choice.rows, "num_warps": choice.warps, "num_stages": choice.stages}
    if isinstance(choice, Tiles):
        grid = (groups, triton.cdiv(rows, choice.rows))
        whole[grid](*arguments, steps, rows, P=_padded(h), SPLIT=choice.split, **flags)
        return
    units, entries = min(choice.units, _padded(h)), min(choice.entries, _padded(h))
    grid = (groups, triton.cdiv(rows, choice.rows), triton.cdiv(h, units))
    for t in order:
        single[grid](*arguments, t, steps, rows, UNITS=units, ENTRIES=entries, **flags)
