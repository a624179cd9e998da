"""From the bundle's layers to the machine's layout (mast.h): numpy only, once per network, at load.

Weights stored as float16 or int8 are decoded here: the kernels compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mast_runtime.network import Contract, Layer, Network

PANEL = 16
MAX_COLUMNS = 65_536


class Layout(IntEnum):
    """enum mast_layout of mast.h."""

    DENSE = 0
    SLICES = 1
    LANE_SLICES = 2
    BLOCKS8 = 3
    BLOCKS16 = 4
    PERMUTED = 5


_AVX2 = {Layout.SLICES: 0.12, Layout.LANE_SLICES: 0.5, Layout.BLOCKS8: 0.6, Layout.BLOCKS16: 0.9}
DENSE_FROM = {
    "avx512": {**_AVX2, Layout.PERMUTED: 0.4, Layout.LANE_SLICES: 0.35},
    "avx2": _AVX2,
    "neon": _AVX2,
    "scalar": dict.fromkeys(Layout, 0.95),
}
"""Level, layout -> density from which the dense kernel is faster: `python benchmarks/native.py --break-even`, the lower
of its two sizes. NEON is not measured and takes AVX2's."""
PERMUTED_FROM = 0.01
"""Density from which PERMUTED is faster than SLICES: below, its windows are nearly empty."""
WINDOW = 32
"""Inputs that PERMUTED holds in two registers."""
LANE_WINDOW = 64
"""MAST_WINDOW of mast.h."""

Packed = tuple[int, int, NDArray, NDArray, NDArray, NDArray, NDArray]
"""layout, offset, start, columns, rows, picks, values: mast_matrix."""
Span = tuple[int, int]
"""First column and end of a panel's columns."""


@dataclass(frozen=True)
class Matrix:
    """A padded matrix on its way to the machine: weight and mask [rows, inputs], the columns each dense panel spans."""

    weight: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spans: list[Span]
    layout: Layout


def padded(size: int) -> int:
    """`size` up to a whole panel."""
    return -(-size // PANEL) * PANEL


def pack(contract: Contract, network: Network, level: str, lanes: bool) -> tuple[tuple[int, ...], tuple, tuple]:
    """Sizes, biases and matrices (fc1, gru, the rest of gru, fc2), as _native.Network takes them.

    level: the instruction set that is to run it; lanes: for many agents at once.
    """
    c, h = contract, network.hidden
    layouts = {name: choose_layout(layer, level, lanes) for name, layer in network.layers().items()}
    sizes = (c.obs_dim, c.n_actions, c.n_agents, c.last_action, c.agent_id, network.fc1.outputs, h)
    biases = (_padded_bias(network.fc1_bias), _gate_rows(network.gru_bias), _padded_bias(network.fc2_bias))
    gru = [_pack_matrix(matrix, offset) for matrix, offset in _gru_matrices(network, layouts)]
    matrices = (
        _pack_matrix(_plain_matrix(network.fc1, layouts["fc1"])),
        gru[0],
        gru[1] if len(gru) > 1 else (),
        _pack_matrix(_plain_matrix(network.fc2, layouts["fc2"])),
    )
    return sizes, biases, matrices


def choose_layout(layer: Layer, level: str, lanes: bool) -> Layout:
    """The fastest layout for a layer's density and block."""
    density = 1.0 - layer.sparsity
    if layer.is_dense:
        sparse = Layout.DENSE
    elif layer.block in (8, 16):
        sparse = {8: Layout.BLOCKS8, 16: Layout.BLOCKS16}[layer.block]
    elif lanes:
        sparse = Layout.LANE_SLICES
    else:
        sparse = Layout.PERMUTED if level == "avx512" and density >= PERMUTED_FROM else Layout.SLICES
    if sparse != Layout.DENSE and density < DENSE_FROM[level][sparse]:
        return sparse
    return Layout.BLOCKS8 if lanes else Layout.DENSE


def _gru_matrices(network: Network, chosen: dict[str, Layout]) -> list[tuple[Matrix, int]]:
    """weight_ih and weight_hh as one matrix over [y | h] when they share a layout, else as two that add up.

    Rows are four padded gates: r, z, the input part of n, the recurrent part of n.
    """
    h, start = network.hidden, padded(network.fc1.outputs)
    layouts = [chosen["weight_ih"], chosen["weight_hh"]]
    parts = [_gate_matrix(network.weight_ih, 2, layouts[0]), _gate_matrix(network.weight_hh, 3, layouts[1])]
    if layouts[0] != layouts[1] or start + h > MAX_COLUMNS:
        return [(parts[0], 0), (parts[1], start)]
    x, recurrent = parts
    gap = np.zeros((len(x.weight), start - network.fc1.outputs), np.float32)
    fused = Matrix(
        np.concatenate([x.weight, gap, recurrent.weight], 1),
        np.concatenate([x.mask, gap != 0, recurrent.mask], 1),
        [
            (a[0], start + b[1]) if a[1] and b[1] else a if a[1] else (start, start + b[1])
            for a, b in zip(x.spans, recurrent.spans, strict=True)
        ],
        layouts[0],
    )
    return [(fused, 0)]


def _gate_rows(gates: NDArray) -> NDArray:
    """[4, hidden, ...] -> rows [4 * hidden padded, ...]: panel by panel of hidden units, each one's four gates."""
    _, hidden, *rest = gates.shape
    rows = np.zeros((4, padded(hidden), *rest), gates.dtype)
    rows[:, :hidden] = gates
    return rows.reshape(4, -1, PANEL, *rest).swapaxes(0, 1).reshape(-1, *rest)


def _gate_matrix(layer: Layer, last: int, layout: Layout) -> Matrix:
    """[3 hidden, inputs] as rows of four gates, the third segment being gate `last`."""
    hidden, gates = layer.outputs // 3, [0, 1, last]
    weight = np.zeros((4, hidden, layer.inputs), np.float32)
    mask = np.zeros(weight.shape, np.bool_)
    weight[gates] = layer.dense().reshape(3, hidden, -1)
    mask[gates] = _stored(layer, layout).reshape(3, hidden, -1)
    spans = [(0, layer.inputs if gate in gates else 0) for gate in range(4)] * (padded(hidden) // PANEL)
    return Matrix(_gate_rows(weight), _gate_rows(mask), spans, layout)


def _plain_matrix(layer: Layer, layout: Layout) -> Matrix:
    weight = np.zeros((padded(layer.outputs), layer.inputs), np.float32)
    mask = np.zeros(weight.shape, np.bool_)
    weight[: layer.outputs] = layer.dense()
    mask[: layer.outputs] = _stored(layer, layout)
    return Matrix(weight, mask, [(0, layer.inputs)] * (len(weight) // PANEL), layout)


def _stored(layer: Layer, layout: Layout) -> NDArray[np.bool_]:
    """The weights that the layout holds: a dense layer for lanes is one of full blocks."""
    full = layout == Layout.BLOCKS8 and layer.block != 8
    return np.ones((layer.outputs, layer.inputs), np.bool_) if full else layer.mask()


def _padded_bias(bias: NDArray) -> NDArray[np.float32]:
    return np.concatenate([bias, np.zeros(padded(bias.size) - bias.size, np.float32)]).astype(np.float32)


def _pack_matrix(matrix: Matrix, offset: int = 0) -> Packed:
    pack_layout = {
        Layout.DENSE: _pack_dense,
        Layout.SLICES: _pack_slices,
        Layout.LANE_SLICES: _pack_slices,
        Layout.PERMUTED: _pack_permuted,
    }
    start, columns, rows, picks, values = pack_layout.get(matrix.layout, _pack_blocks)(matrix)
    return (
        int(matrix.layout),
        offset,
        start.astype(np.uint32),
        np.ascontiguousarray(columns, np.uint16),
        np.ascontiguousarray(rows, np.uint16),
        np.ascontiguousarray(picks, np.uint8),
        np.ascontiguousarray(values, np.float32),
    )


_NONE = np.zeros(0)


def _starts(counts: NDArray) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _pack_dense(matrix: Matrix) -> tuple[NDArray, ...]:
    panels = matrix.weight.reshape(-1, PANEL, matrix.weight.shape[1])
    values = [panel[:, first:end].T.ravel() for panel, (first, end) in zip(panels, matrix.spans, strict=True)]
    spans = np.asarray(matrix.spans)
    return _starts(spans[:, 1] - spans[:, 0]), spans[:, 0], _NONE, _NONE, np.concatenate(values)


def _pack_blocks(matrix: Matrix) -> tuple[NDArray, ...]:
    """Entry: one column of a panel's rows, which share it; a block with no connection is left out."""
    block = {Layout.BLOCKS8: 8, Layout.BLOCKS16: 16}[matrix.layout]
    shape = (-1, block, matrix.weight.shape[1])
    alive = matrix.mask.reshape(shape).any(1)
    row, column = np.nonzero(alive)
    return _starts(alive.sum(1)), column, _NONE, _NONE, matrix.weight.reshape(shape)[row, :, column]


def _pack_slices(matrix: Matrix) -> tuple[NDArray, ...]:
    """Entry: the next connection of each of 8 rows; rows sorted by length, the shorter filled up with zero weights.

    For lanes rows are sorted within windows.
    """
    lengths = matrix.mask.sum(1)
    window = LANE_WINDOW if matrix.layout == Layout.LANE_SLICES else lengths.size
    order = np.lexsort((-lengths, np.arange(lengths.size) // window))
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    start = _starts(lengths[order[::8]])
    row, column = np.nonzero(matrix.mask)
    place = np.arange(row.size) - _starts(lengths)[row]
    if matrix.layout == Layout.LANE_SLICES:
        place = np.where(rank[row] // 8 % 2, lengths[row] - 1 - place, place)
    entry = start[rank[row] // 8] + place
    columns = np.zeros((start[-1], 8), np.uint16)
    values = np.zeros((start[-1], 8), np.float32)
    columns[entry, rank[row] % 8] = column
    values[entry, rank[row] % 8] = matrix.weight[row, column]
    return start, columns, order, _NONE, values


def _pack_permuted(matrix: Matrix) -> tuple[NDArray, ...]:
    """Entry: each of a panel's 16 rows' next connection in one window of inputs; a missing one has zero weight."""
    n_rows, inputs = matrix.weight.shape
    windows = -(-inputs // WINDOW)
    row, column = np.nonzero(matrix.mask)
    cell = row * windows + column // WINDOW
    lengths = np.bincount(cell, minlength=n_rows * windows)
    entries = lengths.reshape(-1, PANEL, windows).max(1)
    first = _starts(entries.ravel())
    entry = first[row // PANEL * windows + column // WINDOW] + np.arange(row.size) - _starts(lengths)[cell]
    picks = np.zeros((first[-1], PANEL), np.uint8)
    values = np.zeros((first[-1], PANEL), np.float32)
    picks[entry, row % PANEL] = column % WINDOW
    values[entry, row % PANEL] = matrix.weight[row, column]
    window = np.repeat(np.tile(np.arange(windows), len(entries)), entries.ravel())
    return first[::windows], window * WINDOW, _NONE, picks, values
