"""Continuous actions of what networks give, where the C kernels do not: tanh, how far a component may move, bounds."""

from __future__ import annotations

from array import array
from math import tanh
from typing import Any

ANYWHERE = 4.0
"""How far a component of [-1, 1] may move where no limit is set."""


def squash(q: Any, bounds: array[float], last: Any, out: Any) -> None:
    """Squash q into `last` in [-1, 1] and into `out` in its units, k float32 each.

    bounds: 5 k float32: low, high, middle and half of each range, and how far `last` may move; all of them 0 for an
    output that is nobody's.
    """
    values, k = memoryview(q).cast("B").cast("f"), len(out)
    low, high, middle, half, reach = (bounds[i * k : (i + 1) * k] for i in range(5))
    for i, value in enumerate(values):
        u = last[i] = min(max(tanh(value), last[i] - reach[i]), last[i] + reach[i])
        out[i] = min(max(middle[i] + u * half[i], low[i]), high[i])
