"""Continuous actions of agents: bounds, the last ones, and what comes of outputs where the C kernels do not say."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isfinite, tanh
from typing import TYPE_CHECKING, Any

from mast_runtime.arrays import numpy_here
from mast_runtime.errors import BackendError, ObservationError
from mast_runtime.given import items
from mast_runtime.head import Head
from mast_runtime.network import Network

if TYPE_CHECKING:
    from mast_runtime.search import Searcher

ANYWHERE = 4.0
"""How far a component of [-1, 1] may move where no limit is set."""


class Bounded:
    """The actions of n agents, whose components lie in [-1, 1] here and in their units outside.

    last: n x A float32, the last actions, 0 before the first of an episode and where an agent has no such component;
    changed in place. actions: the same in their units. sizes: components of each agent.
    """

    def __init__(self, head: Head, indices: Sequence[int], n_actions: int) -> None:
        self.n_actions = n_actions
        self._low, self._high = ([side[i] for i in indices] for side in (head.low, head.high))
        self.sizes = [*map(len, self._low)]
        size = len(self.sizes) * n_actions
        self.last = memoryview(array("f", bytes(4 * size)))
        self.acted, self.all_acted = bytearray(len(self.sizes)), False
        self._step = ANYWHERE if head.rate_limit is None else 2.0 * head.rate_limit
        self.actions = array("f", bytes(4 * size))
        self.reset(range(len(self.sizes)))

    def reset(self, rows: Sequence[int]) -> None:
        """Nothing was done yet by these."""
        for row in rows:
            self.put(row, array("f", bytes(4 * self.n_actions)))
            self.acted[row], self.all_acted = 0, False

    def put(self, row: int, last: array[float]) -> None:
        """A row of last actions [A], and of the actions in their units."""
        start = row * self.n_actions
        self.last[start : start + self.n_actions] = last
        for k, (u, low, high) in enumerate(zip(last, self._low[row], self._high[row], strict=False), start):
            self.actions[k] = min(max(0.5 * (low + high) + u * 0.5 * (high - low), low), high)

    def searched(self, search: Searcher, q: Any) -> None:
        """Search for actions from the outputs, n x H float32, and remember them as the last actions."""
        import numpy as np

        found = search(np.frombuffer(q, np.float32).reshape(len(self.sizes), -1)).tolist()
        for row, own in enumerate(found):
            last = self.last[row * self.n_actions : (row + 1) * self.n_actions]
            moves = [min(max(u, a - self._step), a + self._step) for u, a in zip(own, last, strict=True)]
            self.put(row, array("f", moves))

    def packed(self, width: int) -> array[float]:
        """What `squash` reads of n x `width` outputs: low, high, middle and half of each range, and how far a component
        may move; all of them 0 where an agent has no such component."""
        ranges = []
        for low, high in zip(self._low, self._high, strict=True):
            own = [(a, b, 0.5 * (a + b), 0.5 * (b - a), self._step) for a, b in zip(low, high, strict=True)]
            ranges += own + [(0.0,) * 5] * (width - len(own))
        return array("f", [value for part in zip(*ranges, strict=True) for value in part])

    def executed(self, row: int, given: Any, scaled: bool, who: str = "", padded: bool = False) -> array[float]:
        """Row `row` of the last actions [A] if this had been done. Raises ObservationError.

        What is outside the bounds counts as the bound, as in training. scaled: it lies in [-1, 1]. padded: it may have
        all A components, of which the agent's own count.
        """
        size = self.sizes[row]
        try:
            shape, found = items(given)
            action = [*map(float, found)]
        except (TypeError, ValueError, OverflowError) as error:
            raise ObservationError(f"executed action{who} is not an array of numbers ({error})") from error
        if padded and shape == [self.n_actions]:
            shape, action = [size], action[:size]
        if shape != [size]:
            raise ObservationError(f"executed action{who} has shape {shape}, expected [{size}]")
        if not all(map(isfinite, action)):
            raise ObservationError(f"executed action {action}{who}: every component must be finite")
        if not self.acted[row]:
            raise ObservationError(f"executed action{who}: there was no decision yet in this episode; call act first")
        if not scaled:
            bounds = zip(action, self._low[row], self._high[row], strict=True)
            action = [(x - low) / (0.5 * (high - low)) - 1.0 for x, low, high in bounds]
        return array("f", [min(max(x, -1.0), 1.0) for x in action] + [0.0] * (self.n_actions - size))


def searcher(head: Head, networks: Sequence[Network], sizes: Sequence[int], n_actions: int) -> Searcher:
    """The search of agents with a network each, where no kernel has it. Raises BackendError where there is no numpy."""
    if not numpy_here():
        raise BackendError("this policy searches for its actions, which needs numpy; pip install numpy")
    import numpy as np

    from mast_runtime.search import Searcher, Values

    assert head.search is not None
    return Searcher(head.search, Values.of(networks), np.arange(n_actions) < np.array(sizes)[:, None])


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
