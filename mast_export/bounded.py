"""Continuous actions beside the trainer's: what must become of the networks' output, and how far it is from that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mast_runtime.head import Head


def squashed(q: NDArray[np.float32], has: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The trainer's actions [T,N,A] in [-1, 1]; 0 where an agent has no such component."""
    return np.where(has, np.tanh(q), np.float32(0.0))


def in_units(head: Head, indices: Sequence[int], scaled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Actions [...,N,A] in [-1, 1] in the units of these agents; 0 where an agent has no such component."""
    low, high, has = bounds(head, indices, scaled.shape[-1])
    return np.where(has, low + 0.5 * (scaled.astype(np.float64) + 1.0) * (high - low), 0.0).astype(np.float32)


def bounds(head: Head, indices: Sequence[int], n_actions: int) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    """low, high [N,A] float64 of these agents, -1 and 1 where one has no such component; and which they have."""
    has = np.arange(n_actions) < np.array([[len(head.low[i])] for i in indices])
    low, high = np.full(has.shape, -1.0), np.full(has.shape, 1.0)
    low[has] = np.concatenate([head.low[i] for i in indices])
    high[has] = np.concatenate([head.high[i] for i in indices])
    return low, high, has


def errors(
    head: Head, indices: Sequence[int], given: NDArray[np.float32], q: NDArray[np.float32], last: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The largest distance of each decision [T,N] from what the head makes of the trainer's q, as a share of the range.

    given [T,N,A] in units; q, last [T,N,A]: the trainer's outputs, and its last actions in [-1, 1], from which a rate
    limit counts.
    """
    low, high, has = bounds(head, indices, q.shape[-1])
    wanted = squashed(q, has)
    if head.rate_limit is not None:
        step = np.float32(2.0 * head.rate_limit)
        wanted = np.where(has, np.clip(wanted, last - step, last + step), np.float32(0.0))
    distance = np.abs(given.astype(np.float64) - in_units(head, indices, wanted))
    return (distance / (high - low)).max(-1)
