"""The dense recurrence: launches of the Triton kernels. See `sequence.gru_places` for what it computes.

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
from mast_train.engines.fused.layout import Places
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
    at: Places,
    keep: bool,
    *,
    precision: str = "ieee",
    forward_tiles: Tiles | StepTiles | None = None,
    backward_tiles: Tiles | StepTiles | None = None,
) -> tuple[Tensor, Tensor | None]:
    """states [G,P,H] and, if `keep`, saved [G,P,5H]: r, z, n, from_h and the state before; in the layout of gates.

    precision: of the products, one of PRECISIONS; "ieee" is float32 throughout.
    """
    check_choice("precision", precision, PRECISIONS)
    gates = layout.as_regular(gates)
    h, adjacent = weight_hh.shape[-1], layout.channel_major(gates)
    states = layout.empty(gates, h, adjacent)
    saved = layout.empty(gates, 5 * h, adjacent) if keep else None
    choice = forward_tiles or tiles(h, precision)
    arguments = (*_strided(gates), *_strided(states), *_strided(states if saved is None else saved))
    arguments = (*arguments, weight_hh, bias_hh, *_tables(at, weight_hh))
    flags = _flags(at, precision) | {"KEEP": keep}
    _launch((forward_kernel, forward_step), arguments, range(at.steps), at, states, choice, flags)
    return states, saved


def backward(
    grad_states: Tensor,
    weight_hh: Tensor,
    at: Places,
    saved: Tensor,
    *,
    precision: str = "ieee",
    forward_tiles: Tiles | StepTiles | None = None,
    backward_tiles: Tiles | StepTiles | None = None,
) -> Tensor:
    """grads [G,P,4H]: of r, z and n before their functions, and of from_h; in the layout of what was saved."""
    groups, h = len(saved), weight_hh.shape[-1]
    grads = layout.empty(saved, 4 * h, layout.channel_major(saved))
    choice = backward_tiles or tiles(h, precision)
    arguments = (*_strided(grad_states), *_strided(saved), *_strided(grads))
    if isinstance(choice, StepTiles):
        arguments = (*arguments, saved.new_empty(groups, at.rows, h))
    arguments = (*arguments, weight_hh, *_tables(at, weight_hh))
    order = range(at.steps - 1, -1, -1)
    _launch((backward_kernel, backward_step), arguments, order, at, grads[..., :h], choice, _flags(at, precision))
    return grads


def _strided(x: Tensor) -> tuple[Any, ...]:
    return x, *x.stride()


def _tables(at: Places, unused: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(unused if table is None else table for table in (at.lengths, at.begins))  # type: ignore[return-value]


def _flags(at: Places, precision: str) -> dict[str, Any]:
    return {"PRECISION": precision, "RAGGED": at.lengths is not None, "PACKED": at.begins is not None}


def _padded(hidden: int) -> int:
    return max(SMALLEST, 1 << (hidden - 1).bit_length())


def _launch(
    kernels: tuple[Any, Any],
    arguments: tuple[Any, ...],
    order: range,
    at: Places,
    like: Tensor,
    choice: Tiles | StepTiles,
    flags: dict[str, Any],
) -> None:
    """kernels: of all steps, and of one; like: [G,P,H]."""
    groups, places, h = like.shape
    whole, single = kernels
    flags = flags | {"H": h, "ROWS": choice.rows, "num_warps": choice.warps, "num_stages": choice.stages}
    sizes = at.steps, at.rows, places
    if isinstance(choice, Tiles):
        grid = (groups, triton.cdiv(at.rows, choice.rows))
        whole[grid](*arguments, *sizes, P=_padded(h), SPLIT=choice.split, **flags)
        return
    units, entries = min(choice.units, _padded(h)), min(choice.entries, _padded(h))
    grid = (groups, triton.cdiv(at.rows, choice.rows), triton.cdiv(h, units))
    for t in order:
        single[grid](*arguments, t, *sizes, UNITS=units, ENTRIES=entries, **flags)
