"""Agents and teams whose actions are continuous, on the agents and teams of any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mast_runtime.agent import Rows, checked_obs
from mast_runtime.errors import ObservationError
from mast_runtime.head import Head
from mast_runtime.network import Contract

FLOAT32 = np.dtype(np.float32)


class Bounded:
    """The actions of n agents, whose components lie in [-1, 1] here and in their units outside.

    last [n,A] float32: the last actions, 0 before the first of an episode and where an agent has no such component. It
    is the given array, changed in place.
    """

    def __init__(
        self, head: Head, indices: Sequence[int], n_actions: int, last: NDArray[np.float32] | None = None
    ) -> None:
        self.sizes = [len(head.low[i]) for i in indices]
        shape = len(indices), n_actions
        self.has = np.arange(n_actions) < np.array(self.sizes)[:, None]
        self._low, self._high = np.full(shape, -1.0), np.full(shape, 1.0)
        for row, i in enumerate(indices):
            self._low[row, : self.sizes[row]], self._high[row, : self.sizes[row]] = head.low[i], head.high[i]
        self._half = 0.5 * (self._high - self._low)
        self._step = None if head.rate_limit is None else np.float32(2.0 * head.rate_limit)
        self.last = np.zeros(shape, np.float32) if last is None else last
        self.acted = np.zeros(shape[0], np.bool_)

    def reset(self, which: Any = slice(None)) -> None:
        """Nothing was done yet, by any or by those in `which`."""
        self.last[which], self.acted[which] = 0.0, False

    def decide(self, q: NDArray[np.float32]) -> None:
        """Squash the outputs [n,A] and remember them as the last actions."""
        squashed = np.tanh(q)
        if self._step is not None:
            squashed = np.clip(squashed, self.last - self._step, self.last + self._step)
        np.multiply(squashed, self.has, out=self.last)
        self.acted[:] = True

    def packed(self) -> NDArray[np.float32]:
        """What the native kernels' squash reads, [5,n,A]: low, high, middle and half of each range, and how far a
        component may move in a decision, 4 being as far as it likes. All 0 where an agent has no such component.
        """
        reach = np.full_like(self._low, 4.0 if self._step is None else self._step)
        parts = self._low, self._high, 0.5 * (self._low + self._high), self._half, reach
        return (np.stack(parts) * self.has).astype(np.float32)

    def actions(self) -> NDArray[np.float32]:
        """The last actions [n,A] in their units; 0 where an agent has no such component."""
        actions = np.clip(self._low + (self.last + 1.0) * self._half, self._low, self._high)
        return (actions * self.has).astype(np.float32)

    def executed(
        self, row: int, given: ArrayLike, scaled: bool, who: str = "", padded: bool = False
    ) -> NDArray[np.float32]:
        """Row `row` of the last actions [A] if this had been done. Raises ObservationError.

        What is outside the bounds counts as the bound, as in training. scaled: it lies in [-1, 1]. padded: it may have
        all A components, of which the agent's own count.
        """
        size = self.sizes[row]
        try:
            action = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise ObservationError(f"executed action{who} is not an array of numbers ({error})") from error
        if padded and action.shape == self.last[row].shape:
            action = action[:size]
        if action.shape != (size,):
            raise ObservationError(f"executed action{who} has shape {list(action.shape)}, expected [{size}]")
        if not np.isfinite(action).all():
            raise ObservationError(f"executed action {action.tolist()}{who}: every component must be finite")
        if not self.acted[row]:
            raise ObservationError(f"executed action{who}: there was no decision yet in this episode; call act first")
        last = np.zeros_like(self.last[row])
        if not scaled:
            action = (action - self._low[row, :size]) / self._half[row, :size] - 1.0
        last[:size] = np.clip(action, -1.0, 1.0)
        return last


class _Continuous:
    """What an agent and a team share, on an agent or a team that a backend made for `inner.inner_contract`."""

    def __init__(self, contract: Contract, inner: Any, indices: Sequence[int], single: bool) -> None:
        """single: of one agent, who has one row of everything, and of a row its own components."""
        assert contract.head is not None
        self.contract, self.backend, self._inner = contract, inner.backend, inner
        x = np.zeros((len(indices), contract.obs_dim + contract.n_actions * contract.last_action), np.float32)
        last = x[:, contract.obs_dim :] if contract.last_action else None
        self._bounded = Bounded(contract.head, indices, contract.n_actions, last)
        self._size = self._bounded.sizes[0] if single else contract.n_actions
        self._x, self._last = (x[0], self._bounded.last[0]) if single else (x, self._bounded.last)
        self._obs, self._all_acted = self._x[..., : contract.obs_dim], False
        self._shape = self._obs.shape
        self._row = 0 if single else slice(None)
        self._action = np.empty_like(self._last[..., : self._size])
        self._native = getattr(inner, "bounded", None)
        self._packed = self._bounded.packed()[:, self._row, ..., : self._size].ravel()
        self._take()

    def _forget(self, which: Any) -> None:
        self._bounded.reset(which)
        self._all_acted = False
        self._take()

    def _take(self) -> None:
        self._action[...] = self._bounded.actions()[self._row, ..., : self._size]

    def act(self, obs: ArrayLike | Rows, avail_actions: None = None) -> NDArray[np.float32]:
        """The action [A] for obs [O], or the actions [n,A] for obs [n,O], in their units.

        Raises ObservationError; the state is then as it was.
        """
        if avail_actions is not None:
            raise ObservationError("avail_actions was given, but continuous actions are not chosen; leave it out")
        if not (type(obs) is np.ndarray and obs.dtype is FLOAT32 and obs.shape == self._shape):
            obs = self._checked(obs)
        self._obs[...] = obs
        if self._native is not None:
            self._native(self._x, self._last, self._packed, self._action)
            if not self._all_acted:
                self._bounded.acted[:] = self._all_acted = True
        else:
            self._inner.act(self._x)
            self._bounded.decide(self._inner.q)
            self._take()
        return self._action.copy()

    def _checked(self, obs: Any) -> NDArray[np.float32]:
        if len(self._shape) == 1:
            return checked_obs([obs], (1, *self._shape))[0]
        return checked_obs(obs, (self._shape[0], self._shape[1]))

    @property
    def last_action(self) -> NDArray[np.float32]:
        """The last action [A] or actions [n,A], decided or executed; the middle of the range before the first of an
        episode."""
        return self._action.copy()

    @property
    def scaled(self) -> NDArray[np.float32]:
        """The same in [-1, 1]."""
        return self._last[..., : self._size].copy()

    @property
    def q(self) -> NDArray[np.float32]:
        """What the network gave last [A], or the networks [n,A], before tanh."""
        return self._inner.q[..., : self._size]

    @property
    def hidden(self) -> NDArray[np.float32]:
        """Recurrent state [H] or [n,H]."""
        return self._inner.hidden

    @property
    def out_of_range(self) -> int:
        """Inputs so far that lay outside the range that training saw."""
        return self._inner.out_of_range

    @property
    def out_of_range_counts(self) -> NDArray[np.int64]:
        """The same for each input [O], or each agent and input [n,O]."""
        return self._inner.out_of_range_counts[..., : self.contract.obs_dim]


class ContinuousTeam(_Continuous):
    """mast_runtime.agent.Team of continuous actions.

    q [n,A] float32 is what the networks gave, before tanh. An agent that has fewer components than A has zeros for the
    others in its actions.
    """

    def __init__(self, contract: Contract, inner: Any, indices: Sequence[int]) -> None:
        super().__init__(contract, inner, indices, single=False)
        self.n = inner.n

    def reset(self, which: ArrayLike | None = None) -> None:
        """Forget the episode, of all agents or of those in `which` (bool [n] or indices)."""
        self._inner.reset(which)
        self._forget(slice(None) if which is None else np.asarray(which) if np.size(which) else slice(0))

    def executed(self, actions: Rows, scaled: bool = False) -> None:
        """What was done in place of the last decisions, in their units: [n,A], or a row of its own size for each agent.

        What is outside the bounds counts as the bound. scaled: they are in [-1, 1]. Raises ObservationError.
        """
        try:
            given = list(actions)  # type: ignore[arg-type]
        except TypeError as error:
            raise ObservationError(f"executed actions are no rows of numbers ({error})") from error
        if len(given) != self.n:
            raise ObservationError(f"executed actions of {len(given)} agents, expected {self.n}")
        rows = [self._bounded.executed(i, row, scaled, f" of agent {i}", True) for i, row in enumerate(given)]
        self._bounded.last[:] = rows
        self._take()


class ContinuousAgent(_Continuous):
    """mast_runtime.agent.Agent of continuous actions."""

    def __init__(self, contract: Contract, inner: Any, index: int) -> None:
        super().__init__(contract, inner, [index], single=True)
        self.index = index

    def reset(self) -> None:
        """Forget the episode: zero memory, no last action."""
        self._inner.reset()
        self._forget(slice(None))

    def executed(self, action: ArrayLike, scaled: bool = False) -> None:
        """What was done in place of the last decision [A], in its units: the last action of the next one.

        What is outside the bounds counts as the bound. scaled: it is in [-1, 1]. Raises ObservationError.
        """
        self._bounded.last[0] = self._bounded.executed(0, action, scaled)
        self._take()
