"""Rows of integer weights near real ones (mast_export.fixed says what their numbers stand for)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError

Array = NDArray[np.float64]
LEVELS = 511
"""Weights are -511 to 511."""
MAX_SHIFT_RANGE = 3
"""Shifts of one layer's rows differ by at most this: two bits hold the difference."""
MAX_SHIFT = 24
MAX_SUM = 1.5e9
"""Of a row's sum, so that rounding and a bias after it stay within 32 bits."""
MAX_BIAS = 1 << 28


@dataclass(frozen=True, eq=False)
class Rows:
    """Weights [R,K] of at most LEVELS, shifts [R], biases [R]; all integers in float64, whose sums are exact."""

    weights: Array
    shifts: Array
    biases: Array

    def __call__(self, x: Array) -> Array:
        """[n,K] -> [n,R]."""
        return np.floor(x @ self.weights.T / 2.0**self.shifts) + self.biases


def finest_units(weight: Array, largest: Array) -> Array:
    """The largest factor of each row at which its weights have their bits and its sum, of such inputs, has 31."""
    size = np.abs(weight)
    return np.minimum(LEVELS / np.maximum(size.max(1), 1e-30), MAX_SUM / np.maximum(size @ largest, 1e-30))


def rows_near(weight: Array, unit: Array, shifts: Array, x: Array, wanted: Array, ridge: float) -> Rows:
    """Rows of which `unit` stands for 1, near `wanted` [T,R] on integers x [T,K], from weights that are real."""
    scale = unit * 2.0**shifts
    weights = _rounded(weight * scale[:, None], x, wanted * scale, ridge)
    biases = np.rint((wanted.mean(0) - weights @ x.mean(0) / scale) * unit + 0.5)  # shifts round down
    if np.abs(biases).max(initial=0) > MAX_BIAS:
        raise ExportError(f"values of {np.abs(wanted).max():.4g} are too large for fixed point; export f32 or f16")
    return Rows(weights, shifts, biases)


def _rounded(exact: Array, x: Array, wanted: Array, ridge: float) -> Array:
    """Each weight to an integer beside it: row by row a local minimum of |x w - wanted|^2, means aside, and of `ridge`
    times its own error of each.
    """
    centred, weights = x - x.mean(0), np.rint(exact)
    moments, own = centred.T @ centred / len(x), ridge * (x**2).mean(0)
    pull = centred.T @ (wanted - wanted.mean(0)) / len(x)
    for row, real, goal in zip(weights, exact, pull.T, strict=True):
        used = np.flatnonzero(real)
        part = moments[np.ix_(used, used)]
        slope, error = part @ row[used] - goal[used], row[used] - real[used]
        for _ in range(4 * used.size):
            step = np.where(error > 0, -1.0, 1.0)
            gain = 2.0 * step * (slope + own[used] * error) + part.diagonal() + own[used]
            gain[np.abs(row[used] + step) > LEVELS] = 0.0
            best = int(gain.argmin())
            if gain[best] >= -1e-9:
                break
            error[best] += step[best]
            slope += step[best] * part[best]
            row[used[best]] += step[best]
    return weights
