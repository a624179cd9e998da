"""From the bundle's layers to the machine's layout (mast_network.h), once per network, without numpy.

The kernels compute in float32. Weights that the bundle stores as int8 are decoded here, and those it stores as float16,
but where Level.halves_from says that the kernels widen them faster than they read float32. Whole rows are moved at a
time, by slices with a step.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from itertools import accumulate
from typing import Any, NamedTuple

from mast_runtime.arrays import item_code, plain
from mast_runtime.inputs import no_limits
from mast_runtime.network import Contract, Layer, Network

PANEL = 16
MAX_COLUMNS = 65_536


class Layout(IntEnum):
    """enum mast_layout of mast_network.h."""

    DENSE = 0
    SLICES = 1
    LANE_SLICES = 2
    BLOCKS8 = 3
    BLOCKS16 = 4
    HALVES8 = 5
    HALVES16 = 6
    PERMUTED = 7


@dataclass(frozen=True)
class Level:
    """An instruction set, as level_NAME.c describes it (mast_kernels of mast_network.h).

    dense_from: of each Layout the density from which the dense kernel is faster; 0: there is no kernel for it.
    halves_from: connections of a network from which half precision is faster.
    """

    name: str
    dense_from: tuple[float, ...]
    halves_from: int

    def has(self, layout: Layout) -> bool:
        """Whether it has a kernel for the layout."""
        return self.dense_from[layout] != 0.0


HALVES = {Layout.BLOCKS8: Layout.HALVES8, Layout.BLOCKS16: Layout.HALVES16}
"""Layout -> the same with weights in half precision."""
BLOCK_ROWS = {Layout.BLOCKS8: 8, Layout.HALVES8: 8, Layout.BLOCKS16: 16, Layout.HALVES16: 16}
PERMUTED_FROM = 0.01
"""Density from which PERMUTED is faster than SLICES: below, its windows are nearly empty."""
LANE_WINDOW = 64
"""MAST_WINDOW of mast_network.h."""


class PackedMatrix(NamedTuple):
    """mast_matrix: start uint32 [panels + 1], columns and rows uint16, picks uint8, values float32 or uint16 halves."""

    layout: int
    offset: int
    start: array[int]
    columns: array[int]
    rows: array[int]
    picks: bytearray
    values: array


class PackedNetwork(NamedTuple):
    """What _native.Network takes, names and all: mast_network, the name of its level, whether it is for lanes.

    low, high: of float32 where no range of the inputs is known. Without a memory gru and gru_bias are those of mid.
    """

    level: str
    lanes: bool
    obs: int
    actions: int
    agents: int
    last_action: bool
    agent_id: bool
    fc1_size: int
    hidden: int
    recurrent: bool
    low: array[float]
    high: array[float]
    fc1_bias: array[float]
    gru_bias: array[float]
    fc2_bias: array[float]
    fc1: PackedMatrix
    gru: PackedMatrix
    gru_rest: PackedMatrix | None
    fc2: PackedMatrix


class Row(NamedTuple):
    """The connections of one output that a layout stores: columns increasing, a range where the row is dense."""

    columns: Sequence[int]
    values: array[float]


EMPTY = Row(range(0), array("f"))


def padded(size: int) -> int:
    """`size` up to a whole panel."""
    return -(-size // PANEL) * PANEL


def pack(contract: Contract, network: Network, level: Level, lanes: bool) -> PackedNetwork:
    """The network in the fastest layouts of `level`; lanes: for many agents at once."""
    c, h, fc1 = contract, network.hidden, network.fc1.outputs
    layouts = {name: choose_layout(layer, level, lanes) for name, layer in network.layers().items()}
    if not lanes and network.nnz >= level.halves_from:
        halves = {name for name, layer in network.layers().items() if item_code(layer.stored("values")) == "e"}
        layouts |= {name: _halved(layouts[name], level) for name in halves}
    rows = {name: rows_of(layer, layouts[name]) for name, layer in network.layers().items()}
    recurrent = network.architecture == "gru"
    if recurrent:
        gru, rest = _gru(rows, layouts, h, padded(fc1))
    else:
        gru, rest = _pack_matrix(_padded_rows(rows["mid"]), layouts["mid"]), None
    fc1_matrix, fc2_matrix = (_pack_matrix(_padded_rows(rows[name]), layouts[name]) for name in ("fc1", "fc2"))
    sizes = (c.obs_dim, c.n_actions, c.n_agents, c.last_action, c.agent_id, fc1, h, recurrent)
    limits = network.inputs.limits() if network.inputs else no_limits(c.obs_dim)
    return PackedNetwork(level.name, lanes, *sizes, *limits, *_biases(network), fc1_matrix, gru, rest, fc2_matrix)


def _biases(network: Network) -> tuple[array[float], array[float], array[float]]:
    """fc1 padded, the gates panel by panel of hidden units or mid padded, fc2 padded."""
    if network.architecture == "mlp":
        fc1, mid, fc2 = (_padded_bias(plain(network.bias(name), "f")) for name in network.parts.biases)
        return fc1, mid, fc2
    h, gru_bias = network.hidden, plain(network.bias("gru_bias"), "f")
    gate_bias = [gru_bias[gate * h : (gate + 1) * h] + _zeros("f", padded(h) - h) for gate in range(4)]
    return (
        _padded_bias(plain(network.bias("fc1_bias"), "f")),
        array("f", [x for i in range(0, h, PANEL) for gate in gate_bias for x in gate[i : i + PANEL]]),
        _padded_bias(plain(network.bias("fc2_bias"), "f")),
    )


def _gru(
    rows: dict[str, list[Row]], layouts: dict[str, Layout], h: int, start: int
) -> tuple[PackedMatrix, PackedMatrix | None]:
    """One matrix over [y | h], h being column `start` on, or, where that is not possible, one over y and one over h."""
    of_y, of_h = _gate_rows(rows["weight_ih"], h, 2), _gate_rows(rows["weight_hh"], h, 3)
    if layouts["weight_ih"] == layouts["weight_hh"] and start + h <= MAX_COLUMNS:
        dense = layouts["weight_ih"] == Layout.DENSE
        fused = [_joined(a, b, start, dense) for a, b in zip(of_y, of_h, strict=True)]
        return _pack_matrix(fused, layouts["weight_ih"]), None
    return _pack_matrix(of_y, layouts["weight_ih"]), _pack_matrix(of_h, layouts["weight_hh"], start)


def _halved(layout: Layout, level: Level) -> Layout:
    """The same with weights in half precision, where the level has it."""
    halved = HALVES.get(layout, layout)
    return halved if level.has(halved) else layout


def choose_layout(layer: Layer, level: Level, lanes: bool) -> Layout:
    """The fastest layout for a layer's density and block."""
    density = 1.0 - layer.sparsity
    if layer.is_dense:
        sparse = Layout.DENSE
    elif layer.block in (8, 16):
        sparse = {8: Layout.BLOCKS8, 16: Layout.BLOCKS16}[layer.block]
    elif lanes:
        sparse = Layout.LANE_SLICES
    else:
        permuted = level.has(Layout.PERMUTED) and density >= PERMUTED_FROM
        sparse = Layout.PERMUTED if permuted else Layout.SLICES
    if sparse != Layout.DENSE and density < level.dense_from[sparse]:
        return sparse
    return Layout.BLOCKS8 if lanes else Layout.DENSE


def rows_of(layer: Layer, layout: Layout) -> list[Row]:
    """One for each output. DENSE stores every weight; BLOCKS8, too, of a layer that has no blocks of 8."""
    values = plain(layer.stored("values"), "f")
    n, counts, columns = layer.inputs, layer.stored("counts"), layer.stored("columns")
    if counts is None or columns is None:
        rows = [Row(range(n), values[n * i : n * (i + 1)]) for i in range(layer.outputs)]
    else:
        rows, block, at, places = [], layer.block, 0, plain(columns, "H")
        for count, (_, length) in zip(plain(counts, "i"), layer.block_spans(), strict=True):
            own, weights = places[at : at + count], values[at * block : (at + count) * block]
            rows += [Row(own, weights[k::block]) for k in range(length)]
            at += count
    if (scale := layer.stored("scale")) is not None:
        factors = plain(scale, "f")
        rows = [Row(row.columns, array("f", [x * f for x in row.values])) for row, f in zip(rows, factors, strict=True)]
    if layout == Layout.DENSE or (layout == Layout.BLOCKS8 and layer.block != 8):
        return [_full(row, n) for row in rows]
    return rows


def _full(row: Row, inputs: int) -> Row:
    if isinstance(row.columns, range):
        return row
    values = _zeros("f", inputs)
    for column, value in zip(row.columns, row.values, strict=True):
        values[column] = value
    return Row(range(inputs), values)


def _zeros(code: str, size: int) -> array[Any]:
    return array(code, bytes(array(code).itemsize * size))


def _padded_rows(rows: list[Row]) -> list[Row]:
    return rows + [EMPTY] * (padded(len(rows)) - len(rows))


def _padded_bias(bias: array[float]) -> array[float]:
    return bias + _zeros("f", padded(len(bias)) - len(bias))


def _gate_rows(rows: list[Row], hidden: int, last: int) -> list[Row]:
    """Rows of r, z, n as rows of r, z, the input part of n, its recurrent part, n being gate `last`: panel by panel of
    hidden units, each one's four gates."""
    nothing = [EMPTY] * padded(hidden)
    gates = [nothing] * 4
    for i, gate in enumerate((0, 1, last)):
        gates[gate] = _padded_rows(rows[i * hidden : (i + 1) * hidden])
    return [row for i in range(0, hidden, PANEL) for gate in gates for row in gate[i : i + PANEL]]


def _joined(a: Row, b: Row, start: int, dense: bool) -> Row:
    """One row over [y | h], h being column `start` on; in a dense one the columns between them have zero weights."""
    if not b.columns:
        return a
    if dense:
        columns = range(start if not a.columns else 0, start + len(b.columns))
        return Row(columns, a.values + _zeros("f", len(columns) - len(a.columns) - len(b.columns)) + b.values)
    return Row(array("H", [*a.columns, *(start + column for column in b.columns)]), a.values + b.values)


def _pack_matrix(rows: list[Row], layout: Layout, offset: int = 0) -> PackedMatrix:
    if layout == Layout.DENSE:
        parts = _pack_dense(rows)
    elif layout in (Layout.SLICES, Layout.LANE_SLICES):
        parts = _pack_slices(rows, layout == Layout.LANE_SLICES)
    elif layout == Layout.PERMUTED:
        parts = _pack_permuted(rows)
    else:
        parts = _pack_blocks(rows, BLOCK_ROWS[layout])
    counts, columns, order, picks, values = parts
    if layout in HALVES.values():
        values = array("H", struct.pack(f"{len(values)}e", *values))
    start = array("I", accumulate(counts, initial=0))
    return PackedMatrix(int(layout), offset, start, columns, order, picks, values)


Parts = tuple[list[int], array, array, bytearray, array]
"""Entries of each panel, columns, rows, picks, values."""


def _pack_dense(rows: list[Row]) -> Parts:
    counts, columns, values = [], array("H"), array("f")
    for first in range(0, len(rows), PANEL):
        span = rows[first].columns
        counts.append(len(span))
        columns.append(span[0] if span else 0)
        values += _interleaved(rows[first : first + PANEL], len(span))
    return counts, columns, array("H"), bytearray(), values


def _interleaved(rows: list[Row], entries: int) -> array[float]:
    """values[entry][row] of rows that have `entries` values, or none."""
    values = _zeros("f", entries * len(rows))
    for i, row in enumerate(rows):
        values[i : len(rows) * len(row.values) : len(rows)] = row.values
    return values


def _pack_blocks(rows: list[Row], block: int) -> Parts:
    """Entry: one column of a panel's rows, which share it: a panel's first row has them all."""
    counts, columns, values = [], array("H"), array("f")
    for first in range(0, len(rows), block):
        shared = rows[first].columns
        counts.append(len(shared))
        columns.extend(shared)
        values += _interleaved(rows[first : first + block], len(shared))
    return counts, columns, array("H"), bytearray(), values


def _pack_slices(rows: list[Row], lanes: bool) -> Parts:
    """Entry: the next connection of each of 8 rows; rows sorted by length, the shorter filled up with zero weights.

    For lanes rows are sorted within windows, and every other panel's are turned round.
    """
    window = LANE_WINDOW if lanes else len(rows)
    order = sorted(range(len(rows)), key=lambda i: (i // window, -len(rows[i].values)))
    counts, columns, values = [], array("H"), array("f")
    for panel in range(len(rows) // 8):
        chosen = [rows[i] for i in order[8 * panel : 8 * panel + 8]]
        if lanes and panel % 2:
            chosen = [Row(row.columns[::-1], row.values[::-1]) for row in chosen]
        counts.append(len(chosen[0].values))
        places = _zeros("H", 8 * counts[-1])
        for i, row in enumerate(chosen):
            places[i : 8 * len(row.values) : 8] = array("H", row.columns)
        columns += places
        values += _interleaved(chosen, counts[-1])
    return counts, columns, array("H", order), bytearray(), values


def _pack_permuted(rows: list[Row]) -> Parts:
    """Entry: each of a panel's 16 rows' next connection in one window of inputs; a missing one has zero weight."""
    columns, given = array("H"), array("f")
    for row in rows:
        columns.extend(row.columns)
        given += row.values
    lengths = array("I", [len(row.values) for row in rows])
    parts = import_module("mast_runtime.native._native").pack_windows(lengths, columns, given)
    counts, columns, values = array("I", parts[0]), array("H", parts[1]), array("f", parts[3])
    return list(counts), columns, array("H"), parts[2], values
