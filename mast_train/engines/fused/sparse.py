"""The recurrence on the connections alone: launches of sparse.cu. See `sequence.gru_places` for what it computes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mast_train.engines.fused import layout, nvrtc
from mast_train.engines.fused.layout import Places
from mast_train.engines.fused.structure import LANES, Structure, Walks

SOURCE = Path(__file__).with_name("sparse.cu")
WIDE = frozenset({1, 2})
"""The strides among a kernel's arguments."""


def forward(
    gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, at: Places, structure: Structure, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """states [G,P,H] and, if `keep`, saved [G,P,5H]: r, z, n, from_h and the state before. All channel-major, as gates
    become."""
    gates = layout.as_channel_major(gates)
    states = layout.empty(gates, structure.hidden, True)
    saved = layout.empty(gates, 5 * structure.hidden, True) if keep else None
    inputs = (gates, *_strides(gates), weight_hh, bias_hh, at.lengths, at.begins)
    _launch("gru_forward", structure, structure.forward, at, gates, (*inputs, *_walk(structure.forward), states, saved))
    return states, saved


def backward(grad_states: Tensor, weight_hh: Tensor, at: Places, saved: Tensor, structure: Structure) -> Tensor:
    """grads [G,P,4H], channel-major: of r, z and n before their functions, and of from_h."""
    grad_states = layout.as_channel_major(grad_states)
    grads = layout.empty(saved, 4 * structure.hidden, True)
    inputs = (grad_states, *_strides(grad_states), weight_hh, at.lengths, at.begins)
    arguments = (*inputs, *_walk(structure.backward), saved, grads)
    _launch("gru_backward", structure, structure.backward, at, saved, arguments)
    return grads


def _strides(x: Tensor) -> tuple[int, int]:
    """Of groups and channels."""
    return x.stride(0), x.stride(2)


def _walk(walks: Walks) -> tuple[Tensor, ...]:
    return walks.place, walks.source, walks.starts, walks.units


def _launch(name: str, structure: Structure, walks: Walks, at: Places, like: Tensor, arguments: tuple) -> None:
    """A cluster for each group and tile of rows; like: [G,P,...]."""
    split, capacity = structure.split, structure.capacity[walks.backward]
    groups, places, _ = like.shape
    grid = (split.cluster * -(-at.rows // LANES), groups)
    shared = split.shared_bytes(structure.hidden, capacity, walks.backward)
    defines = (("CLUSTER", split.cluster), ("WARPS", split.warps))
    function = nvrtc.kernel(SOURCE, name, defines, WIDE, _index(like.device))
    sizes = (at.steps, at.rows, places, structure.hidden, split.slots, capacity)
    function(grid, split.warps * LANES, shared, (*arguments, *sizes))


def _index(device: torch.device) -> int:
    return 0 if device.type == "cpu" else torch.cuda.current_device() if device.index is None else device.index
