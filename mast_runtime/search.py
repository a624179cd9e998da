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
    """The last layers of n agents, which read an action; n is 1 where they are alike.

    Only units that read an action tell two of them apart: units [n,K], those of fc2's outputs that act leads to and fc3
    reads. act [n,A,K], fc3 [n,K] float64. Values lack what all actions have in common.
    """

    units: NDArray[np.intp]
    act: NDArray[np.float64]
    fc3: NDArray[np.float64]

    @classmethod
    def of(cls, networks: Sequence[Network]) -> Values:
        """Those of one network each."""
        alike = networks[:1] if all(network is networks[0] for network in networks) else networks
        return cls.made([(network.act.dense(), network.fc3.dense()[0]) for network in alike])

    @classmethod
    def made(cls, layers: Sequence[tuple[NDArray, NDArray]]) -> Values:
        """Of act [H,A] and fc3 [H] of each agent; who has fewer such units than others has some of no weight."""
        found = [reading(*layer) for layer in layers]
        shape = len(layers), max(map(len, found))
        units, fc3 = np.zeros(shape, np.intp), np.zeros(shape)
        act = np.zeros((len(layers), layers[0][0].shape[1], shape[1]))
        for i, (own, (first, last)) in enumerate(zip(found, layers, strict=True)):
            units[i, : len(own)], fc3[i, : len(own)], act[i, :, : len(own)] = own, last[own], first[own].T
        return cls(units, act, fc3)

    def row(self, i: int) -> Values:
        """Those of one agent."""
        at = slice(i, i + 1) if len(self.fc3) > 1 else slice(None)
        return Values(self.units[at], self.act[at], self.fc3[at])

    def read(self, p: NDArray) -> NDArray[np.float64]:
        """What the units read of p [n,H], once for all actions: [n,1,K]."""
        at = np.broadcast_to(self.units, (len(p), self.units.shape[1]))
        return np.take_along_axis(p, at, 1).astype(np.float64)[:, None]

    def __call__(self, read: NDArray, actions: NDArray) -> NDArray[np.float64]:
        """read [n,1,K], actions [n,J,A] -> [n,J]."""
        y = actions @ self.act
        y += read
        np.maximum(y, 0.0, out=y)
        return (y @ self.fc3[:, :, None])[..., 0]


def reading(act: NDArray, fc3: NDArray) -> NDArray[np.intp]:
    """Units that act [H,A] leads to and fc3 [H] reads; the first one where there is none."""
    found = np.flatnonzero(act.any(1) & (fc3 != 0.0))
    return found if found.size else np.zeros(1, np.intp)


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
        read = self._values.read(p)
        mean, spread = np.zeros(self._has.shape), np.ones(self._has.shape)
        best = mean
        for numbers in self._noise:
            candidates = np.clip(mean[:, None] + spread[:, None] * numbers, -1.0, 1.0) * self._has[:, None]
            candidates[:, 1] = best
            found = self._values(read, candidates)
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
        read = self._values.read(p)
        first = np.clip(np.broadcast_to(self._noise[0], (len(p), *self._noise[0].shape)), -1.0, 1.0)
        span = np.ptp(self._values(read, first * self._has[:, None]), axis=1)
        pair = self._values(read, np.stack([best, given], 1))
        return np.maximum(pair[:, 0] - pair[:, 1], 0.0), span
