"""The tables of a policy in fixed point (mast_export.fixed), and what its code is told."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np

from mast_export.c import bounded_text, choice_text, fixed_text, float_text
from mast_export.c.matrices import Table
from mast_export.errors import ExportError
from mast_export.fixed import Fixed, tanh_table

GAP = 63
"""Inputs that one connection moves on at most; one of weight 0 goes farther."""
FEW, MANY = 255 >> 2, 65535 >> 2
"""Connections that a row can say it has, in one byte or two, beside 2 bits of shift."""


def tables(fixed: Fixed) -> list[Table]:
    """The constant tables in the order in which the step reads them. Raises ExportError for a row that is too long."""
    parts = (fixed.fc1, fixed.middle, fixed.fc2)
    from_memory = (
        [0, 0, 0, len(fixed.fc1.weights)] * fixed.hidden if fixed.recurrent else [0] * len(fixed.middle.weights)
    )
    rows = [_connections(row) for row in fixed.fc1.weights]
    rows += [_connections(row[start:]) for row, start in zip(fixed.middle.weights, from_memory, strict=True)]
    rows += [_connections(row) for row in fixed.fc2.weights]
    longest = max(map(len, rows))
    if longest > MANY:
        raise ExportError(f"{longest} connections to one unit; fixed point has room for {MANY}: export f32 or f16")
    shifts = np.concatenate([part.shifts - part.shifts.min() for part in parts]).astype(int)
    heads = np.array([len(row) << 2 for row in rows]) + shifts
    biases = np.concatenate([fixed.fc1.biases, fixed.middle.biases]).astype(int)
    wide = np.abs(biases).max() > 32767
    made = [
        Table("int16_t", "connections", np.array([*chain.from_iterable(rows)], int)),
        Table("uint8_t" if longest <= FEW else "uint16_t", "rows", heads),
        Table("int32_t" if wide else "int16_t", "biases", biases),
        Table("int32_t", "q_biases", fixed.fc2.biases.astype(int)),
    ]
    return [*made, Table("int16_t", "tanh_table", tanh_table())] if fixed.recurrent or fixed.head else made


def obs_bits(fixed: Fixed, prefix: str) -> Table | None:
    """The table that the header declares; None where all observations have the same."""
    one = np.ptp(fixed.obs_bits.astype(int)) == 0
    return None if one else Table("int8_t", f"{prefix}_obs_bits", fixed.obs_bits)


def words(fixed: Fixed, made: list[Table]) -> dict[str, str]:
    """What replaces the names in fixed_text.CODE, beside those of every policy."""
    named = {"FC1": fixed.fc1, "GATES" if fixed.recurrent else "MID": fixed.middle, "Q": fixed.fc2}
    shifts = [f"{name}_SHIFT = {int(part.shifts.min())}" for name, part in named.items()]
    shifts += [f"Q_TO_TANH = {fixed.tanh_shift}"] if fixed.head else []
    kind, memory = bounded_text if fixed.head else choice_text, "gru" if fixed.recurrent else "mlp"
    types = {table.name: table.ctype for table in made}
    return {
        "ROW_TYPE": types["rows"],
        "BIAS_TYPE": types["biases"],
        "SHIFTS": f"enum {{ {', '.join(shifts)} }};\n",
        "OBS_BITS": fixed_text.OBS_BITS if obs_bits(fixed, "") else f"#define @PREFIX@_OBS_BITS(i) {fixed.obs_bits[0]}",
        "UNIT": f"{fixed.unit:.9g}",
        **fixed_text.OBSERVATION,
        **fixed_text.MEMORY[memory],
        **kind.FIXED,
        "LAST_ACTION": kind.FIXED["LAST_ACTION"] if fixed.last_action else "",
    }


def code(fixed: Fixed) -> list[str]:
    """The parts of the code after the tables, in their order."""
    if fixed.head is None:
        parts = [choice_text.CODE, fixed_text.CODE, *([fixed_text.TANH, fixed_text.GRU] if fixed.recurrent else [])]
        return [*parts, choice_text.ANY_AVAILABLE, fixed_text.DECIDE]
    parts = [float_text.FINITE, bounded_text.WITHIN, fixed_text.CODE, fixed_text.TANH]
    parts += [fixed_text.GRU] if fixed.recurrent else []
    return [*parts, bounded_text.FIXED_CODE, fixed_text.DECIDE]


def connections(made: list[Table]) -> int:
    """Stored, those that only move on included."""
    return next(table.values.size for table in made if table.name == "connections")


def _connections(weights: np.ndarray) -> list[int]:
    """A row as the step reads it: weight * 64 + the distance from the input before."""
    found = []
    for before, at in pairwise([0, *np.flatnonzero(weights)]):
        fillers, gap = divmod(int(at - before), GAP)
        if fillers and not gap:
            fillers, gap = fillers - 1, GAP
        found += [GAP] * fillers + [(int(weights[at]) << 6) + gap]
    return found
