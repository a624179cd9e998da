"""From the bundle's layers to the machine's layout (mast.h): numpy only, once per network, at load."""

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
    ROWS = 2
    BLOCKS8 = 3
    BLOCKS16 = 4


DENSE_FROM = {
    Layout.SLICES: 0.30,
    Layout.ROWS: 0.45,
    Layout.BLOCKS8: 0.70,
    Layout.BLOCKS16: 0.95,
}
"""Density from which the dense kernel is faster than this layout. Measured: `python benchmarks/native.py --break-even`."""

Packed = tuple[int, int, NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]
"""layout, offset, start, columns, rows, values: mast_matrix."""
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


def pack(contract: Contract, network: Network, lanes: bool) -> tuple[tuple[int, ...], tuple, tuple]:
    """Sizes, biases and matrices (fc1, gru, the rest of gru, fc2), as _native.Network takes them.

    lanes: for many agents at once.
    """
    c, h = contract, network.hidden
    sizes = (c.obs_dim, c.n_actions, c.n_agents, c.last_action, c.agent_id, network.fc1.outputs, h)
    gru_bias = np.zeros((4, padded(h)), np.float32)
    gru_bias[:, :h] = network.gru_bias
    biases = (_padded_bias(network.fc1_bias), gru_bias, _padded_bias(network.fc2_bias))
    gru = [_pack_matrix(matrix, offset) for matrix, offset in _gru_matrices(network, lanes)]
    matrices = (
        _pack_matrix(_plain_matrix(network.fc1, lanes)),
        gru[0],
        gru[1] if len(gru) > 1 else (),
        _pack_matrix(_plain_matrix(network.fc2, lanes)),
    )
    return sizes, biases, matrices


def choose_layout(layer: Layer, lanes: bool) -> Layout:
    """The fastest layout for a layer's density and block."""
    if layer.is_dense:
        sparse = Layout.DENSE
    elif layer.block in (8, 16):
        sparse = {8: Layout.BLOCKS8, 16: Layout.BLOCKS16}[layer.block]
    else:
        sparse = Layout.ROWS if lanes else Layout.SLICES
    if sparse != Layout.DENSE and 1.0 - layer.sparsity < DENSE_FROM[sparse]:
        return sparse
    return Layout.BLOCKS8 if lanes else Layout.DENSE


def _gru_matrices(network: Network, lanes: bool) -> list[tuple[Matrix, int]]:
    """weight_ih and weight_hh as one matrix over [y | h] when they share a layout, else as two that add up.

    Rows are four padded gates: r, z, the input part of n, the recurrent part of n.
    """
    h, start = network.hidden, padded(network.fc1.outputs)
    layouts = [choose_layout(layer, lanes) for layer in (network.weight_ih, network.weight_hh)]
    parts = [
        _gate_matrix(network.weight_ih, h, 2, layouts[0], lanes),
        _gate_matrix(network.weight_hh, h, 3, layouts[1], lanes),
    ]
    if layouts[0] != layouts[1] or start + h > MAX_COLUMNS:
        return [(parts[0], 0), (parts[1], start)]
    x, recurrent = parts
    gap = np.zeros((len(x.weight), start - network.fc1.outputs), np.float32)
    fused = Matrix(
        np.concatenate([x.weight, gap, recurrent.weight], 1),
        np.concatenate([x.mask, gap != 0, recurrent.mask], 1),
        [(a[0], start + b[1]) if a[1] and b[1] else a if a[1] else (start, start + b[1])
         for a, b in zip(x.spans, recurrent.spans, strict=True)],
        layouts[0],
    )
    return [(fused, 0)]


def _gate_matrix(layer: Layer, hidden: int, last: int, layout: Layout, lanes: bool) -> Matrix:
    """[3 hidden, inputs] spread over four padded gates, the third segment going to gate `last`."""
    size = padded(hidden)
    weight = np.zeros((4, size, layer.inputs), np.float32)
    mask = np.zeros(weight.shape, np.bool_)
    gates = [0, 1, last]
    weight[gates, :hidden] = layer.dense().reshape(3, hidden, layer.inputs)
    used = layer.mask().reshape(3, hidden, layer.inputs)
    mask[gates, :hidden] = used if layout in (Layout.SLICES, Layout.ROWS) or not _runs_dense(layer, layout) else True
    spans = [(0, layer.inputs if gate in gates else 0) for gate in range(4) for _ in range(size // PANEL)]
    return Matrix(weight.reshape(-1, layer.inputs), mask.reshape(-1, layer.inputs), spans, layout)


def _plain_matrix(layer: Layer, lanes: bool) -> Matrix:
    layout = choose_layout(layer, lanes)
    weight = np.zeros((padded(layer.outputs), layer.inputs), np.float32)
    mask = np.zeros(weight.shape, np.bool_)
    weight[: layer.outputs] = layer.dense()
    mask[: layer.outputs] = True if _runs_dense(layer, layout) else layer.mask()
    return Matrix(weight, mask, [(0, layer.inputs)] * (len(weight) // PANEL), layout)


def _runs_dense(layer: Layer, layout: Layout) -> bool:
    """Does this layer's layout hold every weight, zeros too?"""
    return layout == Layout.DENSE or (layout == Layout.BLOCKS8 and layer.block != 8)


def _padded_bias(bias: NDArray) -> NDArray[np.float32]:
    return np.concatenate([bias, np.zeros(padded(bias.size) - bias.size, np.float32)]).astype(np.float32)


def _pack_matrix(matrix: Matrix, offset: int = 0) -> Packed:
    if matrix.layout == Layout.DENSE:
        start, columns, rows, values = _pack_dense(matrix)
    elif matrix.layout == Layout.SLICES:
        start, columns, rows, values = _pack_slices(matrix)
    else:
        start, columns, rows, values = _pack_blocks(matrix, {2: 1, 3: 8, 4: 16}[matrix.layout])
    return (
        int(matrix.layout),
        offset,
        start.astype(np.uint32),
        np.ascontiguousarray(columns, np.uint16),
        np.ascontiguousarray(rows, np.uint16),
        np.ascontiguousarray(values, np.float32),
    )


def _starts(counts: NDArray) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _pack_dense(matrix: Matrix) -> tuple[NDArray, ...]:
    panels = matrix.weight.reshape(-1, PANEL, matrix.weight.shape[1])
    values = [panel[:, first:end].T.ravel() for panel, (first, end) in zip(panels, matrix.spans, strict=True)]
    spans = np.asarray(matrix.spans)
    return _starts(spans[:, 1] - spans[:, 0]), spans[:, 0], np.zeros(0), np.concatenate(values)


def _pack_blocks(matrix: Matrix, block: int) -> tuple[NDArray, ...]:
    """Entry: one column of `block` rows that share it; a block with no connection is left out."""
    shape = (-1, block, matrix.weight.shape[1])
    alive = matrix.mask.reshape(shape).any(1)
    row, column = np.nonzero(alive)
    return _starts(alive.sum(1)), column, np.zeros(0), matrix.weight.reshape(shape)[row, :, column]


def _pack_slices(matrix: Matrix) -> tuple[NDArray, ...]:
    """Entry: the next connection of each of 8 rows; rows sorted by length, the shorter filled up with zero weights."""
    lengths = matrix.mask.sum(1)
    order = np.argsort(-lengths, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    start = _starts(lengths[order[::8]])
    row, column = np.nonzero(matrix.mask)
    entry = start[rank[row] // 8] + np.arange(row.size) - _starts(lengths)[row]
    columns = np.zeros((start[-1], 8), np.uint16)
    values = np.zeros((start[-1], 8), np.float32)
    columns[entry, rank[row] % 8] = column
    values[entry, rank[row] % 8] = matrix.weight[row, column]
    return start, columns, order, values
