"""ONNX's GRU operator as a cell of gates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_export.importing.affine import Affine, Atom, Cell, Misfit, Value

ACTIVATIONS = ([], [b"Sigmoid", b"Tanh"])


def gru_cell(x: Affine, attributes: dict[str, Any], inputs: list[Any]) -> tuple[Cell, int]:
    """The operator's step for its input `x`, and its number of units. inputs: X, W, R, B, lengths, initial state.

    Its gates are in the order z, r, n. Raises Misfit for what a bundle's GRU does not compute.
    """
    _, w, r, b, lengths, initial = (*inputs, *(None,) * 6)[:6]
    if attributes.get("direction", b"forward") != b"forward":
        raise Misfit("runs backwards too")
    if "clip" in attributes or [name.title() for name in attributes.get("activations", [])] not in ACTIVATIONS:
        raise Misfit("clips, or has other activations than Sigmoid and Tanh")
    if isinstance(lengths, Value) or not isinstance(w, np.ndarray) or not isinstance(r, np.ndarray):
        raise Misfit("has weights or lengths that are not constant")
    w, r = (given[0].astype(np.float64).reshape(3, -1, given.shape[-1]) for given in (w, r))
    hidden = r.shape[-1]
    bias = np.zeros((2, 3, hidden)) if b is None else b[0].astype(np.float64).reshape(2, 3, hidden)
    state = _state(initial, hidden)
    from_x = [x.map(lambda rows, gate=gate: gate @ rows) for gate in w]
    from_h = [Affine(np.zeros(hidden), {state: gate}) for gate in r]

    def plus(*parts: Affine | NDArray) -> Affine:
        total = Affine(np.zeros(hidden))
        for part in parts:
            total = total + (part if isinstance(part, Affine) else Affine(part))
        return total

    z, reset = (plus(from_x[k], from_h[k], bias[0, k], bias[1, k]) for k in (0, 1))
    if attributes.get("linear_before_reset", 0):
        return Cell(reset, z, plus(from_x[2], bias[0, 2]), plus(from_h[2], bias[1, 2]), state), hidden
    if np.count_nonzero(r[2]) != np.count_nonzero(np.diag(r[2])):
        raise Misfit(
            "has linear_before_reset=0: n = tanh(W x + R (r * h) + b), which only a diagonal R makes what a bundle "
            "computes, r * (R h + b); export it from torch, or with reset_after=True from Keras"
        )
    return Cell(reset, z, plus(from_x[2], bias[0, 2], bias[1, 2]), from_h[2], state), hidden


def _state(initial: Any, hidden: int) -> Atom:
    """The state's atom: the input that holds it, or one of its own where it starts at zero."""
    if initial is None or (isinstance(initial, np.ndarray) and not initial.any()):
        return Atom("input", hidden, "")
    found = initial.plain.is_atom() if isinstance(initial, Value) and initial.plain is not None else None
    if found is None or found.kind != "input":
        raise Misfit("starts from a state that is neither zero nor an input")
    return found
