"""What a tensor of a traced graph is: an affine function of a few vectors, gated elementwise.

A Value is the sum over its terms of gate * (affine function), where the gate is None (1) or elements of a sigmoid.
In these, every way in which exporters write a GRU, products joined or apart, cut and put together again, is one form:
h' = n + z (h - n), n = tanh(a(y) + r b(h)), r and z = sigmoid(c(y, h)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

RESET_FIRST = (
    "the reset gate comes before the product (linear_before_reset=0), which torch, flax and a bundle do not compute"
)


class Misfit(Exception):
    """The graph is not fc -> GRU -> fc; says why, and at which operator."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(f"{where} {why}".lstrip())
        self.why, self.where = why, where

    def at(self, where: str) -> Misfit:
        """Itself with the operator, unless one is known."""
        return self if self.where else Misfit(self.why, where)


@dataclass(frozen=True, eq=False)
class Atom:
    """A vector that is no affine function of others: an input, or what a nonlinearity makes of its argument.

    kind: input, relu (slope: of its negative side, negated: max(v, 0) - slope max(-v, 0)), sigmoid, tanh or cell.
    """

    kind: str
    width: int
    name: str
    argument: Value | None = None
    slope: float = 0.0
    cell: Cell | None = None


@dataclass(frozen=True, eq=False)
class Affine:
    """bias [width] + sum over atoms of matrix [width, atom width] times atom."""

    bias: NDArray[np.float64]
    parts: dict[Atom, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.bias.size

    def map(self, change: Callable[[NDArray], NDArray]) -> Affine:
        """`change` of rows, which is linear, of the bias [width] and of each matrix [width, n]."""
        return _without_zeros(change(self.bias), {atom: change(matrix) for atom, matrix in self.parts.items()})

    def __add__(self, other: Affine) -> Affine:
        parts = dict(self.parts)
        for atom, matrix in other.parts.items():
            parts[atom] = parts[atom] + matrix if atom in parts else matrix
        return _without_zeros(self.bias + other.bias, parts)

    def picks(self) -> tuple[Atom, tuple[int, ...], NDArray] | None:
        """(atom, its elements, factors) where this is elements of one atom times factors, without a bias."""
        if len(self.parts) != 1 or self.bias.any():
            return None
        ((atom, matrix),) = self.parts.items()
        if not (np.count_nonzero(matrix, axis=1) == 1).all():
            return None
        columns = np.abs(matrix).argmax(1)
        return atom, tuple(columns.tolist()), matrix[np.arange(len(columns)), columns]

    def is_atom(self) -> Atom | None:
        """The atom that this is, unchanged."""
        found = self.picks()
        if found is None:
            return None
        atom, columns, factors = found
        return atom if columns == tuple(range(atom.width)) and (factors == 1.0).all() else None


def _without_zeros(bias: NDArray, parts: dict[Atom, NDArray]) -> Affine:
    return Affine(bias, {atom: matrix for atom, matrix in parts.items() if matrix.any()})


Gate = tuple[Atom, tuple[int, ...]]
"""Elements of a sigmoid."""


@dataclass(frozen=True, eq=False)
class Value:
    """The sum of gate * affine."""

    terms: dict[Gate | None, Affine]

    @property
    def width(self) -> int:
        return next(iter(self.terms.values())).width

    @property
    def plain(self) -> Affine | None:
        """The affine function that this is, if no gate is in it."""
        return self.terms[None] if self.terms.keys() == {None} else None


@dataclass(frozen=True, eq=False)
class Cell:
    """A GRU step: the arguments of its gates as functions of y and of the state alone, and the state's atom.

    state: None where it starts at zero and is not an input.
    """

    r: Affine
    z: Affine
    n_input: Affine
    n_state: Affine
    state: Atom


def value(affine: Affine) -> Value:
    return Value({None: affine})


def of(atom: Atom) -> Value:
    """The atom itself."""
    return value(Affine(np.zeros(atom.width), {atom: np.eye(atom.width)}))


def mapped(
    given: Value, change: Callable[[NDArray], NDArray], rows: Callable[[NDArray], NDArray] | None = None
) -> Value:
    """`change` of every row; where it moves rows, `rows` does the same to a gate's elements [width]."""
    terms: dict[Gate | None, Affine] = {}
    for gate, affine in given.terms.items():
        if gate is not None and rows is not None:
            gate = gate[0], tuple(rows(np.array(gate[1])).tolist())
        terms[gate] = terms[gate] + affine.map(change) if gate in terms else affine.map(change)
    return Value(terms)


def total(a: Value, b: Value) -> Value:
    """a + b."""
    terms = dict(a.terms)
    for gate, affine in b.terms.items():
        terms[gate] = terms[gate] + affine if gate in terms else affine
    return Value({gate: affine for gate, affine in terms.items() if gate is None or affine.parts or affine.bias.any()})


def scaled(given: Value, factors: NDArray) -> Value:
    """Rows times factors [width] or []."""
    return mapped(given, lambda rows: rows * (factors if rows.ndim == 1 else np.expand_dims(factors, -1)))


def joined(parts: list[Value]) -> Value:
    """Rows below one another. Raises Misfit for gated ones."""
    plain = [part.plain for part in parts]
    widths = [part.width for part in parts]
    whole, start = None, 0
    for affine, width in zip(plain, widths, strict=True):
        if affine is None:
            raise Misfit(f"joins gated vectors: {RESET_FIRST}")
        above, below = start, sum(widths) - start - width
        own = affine.map(lambda rows: np.pad(rows, ((above, below),) + ((0, 0),) * (rows.ndim - 1)))  # noqa: B023
        whole, start = own if whole is None else whole + own, start + width
    if whole is None:
        raise Misfit("joins nothing")
    return value(whole)


def product(a: Value, b: Value) -> Value:
    """Elementwise, where one of them is elements of sigmoids, scaled, plus a constant. Raises Misfit."""
    for gate, other in ((a, b), (b, a)):
        affine = gate.plain
        if affine is None or not affine.parts or any(atom.kind != "sigmoid" for atom in affine.parts):
            continue
        if other.plain is None:
            break
        result = scaled(other, affine.bias)
        for atom, matrix in affine.parts.items():
            found = Affine(np.zeros(affine.width), {atom: matrix}).picks()
            if found is None:
                raise Misfit("multiplies by a mixture of gates")
            scaled_other = scaled(other, found[2]).terms[None]
            result = total(result, Value({(atom, found[1]): scaled_other}))
        return result
    raise Misfit("multiplies two vectors of which neither is a gate, or more than two")


def as_cell(given: Value) -> Cell | None:
    """The GRU step that this is: h' = n + z (h - n), or h' = h + z (n - h), whose z is the other's 1 - z."""
    gates = [gate for gate in given.terms if gate is not None]
    if len(gates) != 1 or None not in given.terms:
        return None
    gate, still, moved = gates[0], given.terms[None], given.terms[gates[0]]
    first = still.picks()
    if first is None:
        return None
    opposite = moved + still  # of h' = a + z (b - a): b
    last = opposite.picks()
    if last is None or not (first[2] == 1.0).all() or not (last[2] == 1.0).all():
        return None
    candidate, state = (first, opposite) if first[0].kind == "tanh" else (last, still)
    if candidate[0].kind != "tanh" or (memory := state.is_atom()) is None:
        return None
    sign = 1.0 if first[0].kind == "tanh" else -1.0
    z = _chosen(gate).map(lambda rows: sign * rows)
    argument = candidate[0].argument
    assert argument is not None
    rows = list(candidate[1])
    n = mapped(argument, lambda array: array[rows], lambda array: array[rows])
    resets = [key for key in n.terms if key is not None]
    if len(resets) != 1:
        return None
    n_state = n.terms[resets[0]]
    n_input = n.terms.get(None, Affine(np.zeros(n_state.width)))
    return Cell(_chosen(resets[0]), z, n_input, n_state, memory)


def _chosen(gate: Gate) -> Affine:
    """The gate's argument."""
    argument = gate[0].argument
    affine = None if argument is None else argument.plain
    if affine is None:
        raise Misfit("a gate's argument is gated itself")
    rows = list(gate[1])
    return affine.map(lambda array: array[rows])
