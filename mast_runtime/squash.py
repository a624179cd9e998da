"""From what networks give to continuous actions: tanh, how far a component may move, and its bounds."""

from __future__ import annotations

from array import array
from math import tanh
from typing import Any

from mast_runtime import native

ANYWHERE = 4.0
"""How far a component of [-1, 1] may move where no limit is set."""


def squash(q: Any, last: Any, bounds: array[float], sizes: array[int], out: Any) -> None:
    """Squash q into `last` in [-1, 1] and into `out` in its units, each n x A float32; sizes [n] int32.

    bounds: n x (4 A + 1) float32, of which an agent of k components has 4 k + 1: low, high, middle and half of the
    range, and how far `last` may move. Components that an agent does not have stay as they are.
    """
    if not native.missing():
        native.squash(q, last, bounds, sizes, out)
        return
    values, width = memoryview(q).cast("B").cast("f"), len(out) // len(sizes)
    for row, size in enumerate(sizes):
        own = bounds[row * (4 * width + 1) : (row + 1) * (4 * width + 1)]
        low, high, middle, half, step = *(own[i * size : (i + 1) * size] for i in range(4)), own[4 * size]
        for k, at in enumerate(range(row * width, row * width + size)):
            u = last[at] = min(max(tanh(values[at]), last[at] - step), last[at] + step)
            out[at] = min(max(middle[k] + u * half[k], low[k]), high[k])
