"""Continuous actions beside the trainer's: what must become of the networks' output, and how far it is from that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mast_runtime.head import Head
from mast_runtime.search import Searcher, Values


def squashed(q: NDArray[np.float32], has: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The trainer's actions [T,N,A] in [-1, 1]; 0 where an agent has no such component."""
    return np.where(has, np.tanh(q), np.float32(0.0))


def limited(head: Head, best: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float32]:
    """Actions in [-1, 1] no further from `last` than the head's rate limit lets them move."""
    if head.rate_limit is None:
        return best
    step = np.float32(2.0 * head.rate_limit)
    return np.clip(best, last - step, last + step)


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


def _rounding(low: NDArray, high: NDArray) -> NDArray[np.float64]:
    """What two float32 sums in a range's units may differ by."""
    return 2.0 * np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)


def searched(head: Head, values: Values, q: NDArray[np.float32], has: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The actions [T,N,A] in [-1, 1] that the search finds from q [T,N,H]."""
    assert head.search is not None
    find = Searcher(head.search, values, has[0])
    return np.array([find(row) for row in q], np.float32)


class Wanted:
    """What must become of the trainer's outputs: the head's actions."""

    def __init__(self, head: Head, indices: Sequence[int], n_actions: int, values: Values | None = None) -> None:
        self._head, self._indices = head, indices
        self._low, self._high, self._has = bounds(head, indices, n_actions)
        self._find = None if head.search is None or values is None else Searcher(head.search, values, self._has)

    def errors(
        self, given: NDArray[np.float32], q: NDArray[np.float32], last: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """The largest distance of each decision [T,N] from what the head makes of the trainer's q, as a share of the
        range, beyond the rounding of float32 units; and of actions that are searched for the value that each gives up
        and its span [2,T,N].

        given [T,N,A] in units; q [T,N,A] or [T,N,H], last [T,N,A]: the trainer's outputs, and its last actions in
        [-1, 1], from which a rate limit counts.
        """
        find, low, high, has = self._find, self._low, self._high, self._has
        best = squashed(q, has) if find is None else np.array([find(row) for row in q], np.float32)
        best = np.where(has, limited(self._head, best, last), np.float32(0.0))
        off = np.abs(given.astype(np.float64) - in_units(self._head, self._indices, best))
        distance = np.maximum(off - _rounding(low, high), 0.0) / (high - low)
        if find is None:
            return distance.max(-1), None
        own = ((given - low) / (high - low) * 2.0 - 1.0) * has
        lost = [find.given_up(*row) for row in zip(q, best.astype(np.float64), own, strict=True)]
        return distance.max(-1), np.array(lost).transpose(1, 0, 2)
