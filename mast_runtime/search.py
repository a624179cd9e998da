"""Actions that are searched for: those that an agent's network values most, by the cross-entropy method.

Rubinstein and Kroese 2004; Kalashnikov et al. 2018 for Q-functions; Peng et al. 2021 for teams (COMIX). The network of
mast_runtime.network gives p = fc2 h + b2 once a decision; an action u in [-1, 1]^A then has the value

    Q(u) = fc3 relu(p + act u) + b3

Letters: n agents, H the outputs of fc2, A components, L iterations, J candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mast_runtime.head import Search
    from mast_runtime.network import Network

GRID = 2.0**-20
"""Of the largest value: nearer ones count as equal, and the earlier candidate goes first. So where an action makes no
difference, neither does the order in which an engine sums."""


@dataclass(frozen=True, eq=False)
class Values:
    """The last layers of n agents, which read an action: act [n,A,H], fc3 [n,H] float64; n is 1 where they are alike.

    fc3's bias moves all values alike, and is left out.
    """

    act: NDArray[np.float64]
    fc3: NDArray[np.float64]

    @classmethod
    def of(cls, networks: Sequence[Network]) -> Values:
        """Those of one network each."""
        alike = networks[:1] if all(network is networks[0] for network in networks) else networks
        act = np.stack([network.act.dense().T for network in alike]).astype(np.float64)
        return cls(act, np.stack([network.fc3.dense()[0] for network in alike]).astype(np.float64))

    def row(self, i: int) -> Values:
        """Those of one agent."""
        return self if len(self.fc3) == 1 else Values(self.act[i : i + 1], self.fc3[i : i + 1])

    def __call__(self, p: NDArray, actions: NDArray) -> NDArray[np.float64]:
        """p [n,H], actions [n,J,A] -> [n,J]."""
        y = actions @ self.act
        y += p[:, None, :]
        np.maximum(y, 0.0, out=y)
        return (y @ self.fc3[:, :, None])[..., 0]


class Searcher:
    """The search of n agents, each for itself. It draws nothing: the normal numbers are one table, as in training."""

    def __init__(self, search: Search, values: Values, has: NDArray[np.bool_]) -> None:
        """has [n,A]: the components that each agent has."""
        self._values, self._has, self._elites = values, has, search.elites
        shape = search.iterations, search.candidates, has.shape[1]
        self._noise = np.frombuffer(search.noise, "<f4").reshape(shape).astype(np.float64)

    @cached_property
    def _rows(self) -> NDArray[np.intp]:
        return np.arange(len(self._has))[:, None]

    def __call__(self, p: NDArray[np.float32]) -> NDArray[np.float64]:
        """p [n,H] -> the best actions [n,A] in [-1, 1]; 0 where an agent has no such component."""
        wide = p.astype(np.float64)
        mean, spread = np.zeros(self._has.shape), np.ones(self._has.shape)
        best = mean
        for numbers in self._noise:
            candidates = np.clip(mean[:, None] + spread[:, None] * numbers, -1.0, 1.0) * self._has[:, None]
            candidates[:, 1] = best
            found = self._values(wide, candidates)
            grid = GRID * np.abs(found).max(1, keepdims=True)
            order = np.argsort(-np.rint(found / np.where(grid > 0.0, grid, 1.0)), 1, kind="stable")
            elites = candidates[self._rows, order[:, : self._elites]]
            best, spread = elites[:, 0], np.sqrt(np.square(elites - mean[:, None]).mean(1))
            mean = elites.mean(1)
        return best

    def steady(self, p: NDArray[np.float32], noise: float, near: float) -> bool:
        """Whether p [n,H] leads to the same actions, within `near`, with each of eight errors of `noise` of its
        largest value."""
        rng, best = np.random.default_rng(0), self(p)
        errors = noise * np.abs(p).max() * rng.standard_normal((8, *p.shape))
        return all(np.abs(self(p + error) - best).max() <= near for error in errors)

    def given_up(self, p: NDArray, best: NDArray, given: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How much less `given` [n,A] is valued than `best`, and the span of the first candidates' values [n], both."""
        wide = p.astype(np.float64)
        first = np.clip(np.broadcast_to(self._noise[0], (len(wide), *self._noise[0].shape)), -1.0, 1.0)
        span = np.ptp(self._values(wide, first * self._has[:, None]), axis=1)
        pair = self._values(wide, np.stack([best, given], 1))
        return np.maximum(pair[:, 0] - pair[:, 1], 0.0), span
