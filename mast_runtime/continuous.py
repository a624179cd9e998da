"""Agents and teams whose actions are continuous, on the agents and teams of any backend. No numpy is needed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from mast_runtime.arrays import answer, is_numpy, numpy
from mast_runtime.bounded import Bounded, searcher, squash
from mast_runtime.errors import ObservationError
from mast_runtime.given import Rows, chosen_agents, read_obs
from mast_runtime.head import Search
from mast_runtime.network import Contract, Network

BUSY = "the team is acting in another thread; give each thread a team of its own"


class _Continuous:
    """What an agent and a team share, on what a backend made for `inner.inner_contract`: n x A last actions, of which
    `width` of each agent are shown."""

    def __init__(
        self, contract: Contract, networks: Sequence[Network], inner: Any, indices: Sequence[int], rows: int
    ) -> None:
        """A network for each agent, at these places of the team. rows: of what is shown, 0: one agent's alone."""
        assert contract.head is not None
        bounded = Bounded(contract.head, indices, contract.n_actions)
        width = contract.n_actions if rows else bounded.sizes[0]
        self.contract, self.backend, self._inner, self._bounded = contract, inner.backend, inner, bounded
        self._width, self._rows = width, rows
        self._actions = memoryview(bounded.actions)[: max(rows, 1) * width]
        self._scaled = bounded.last[: len(self._actions)]
        self._packed = bounded.packed(width)
        self._decide: Callable[[Any], None] = self._by_inner
        search, own = contract.head.search, (networks, bounded.sizes, contract.n_actions)
        self._searches, self._search = search is not None, None
        if hasattr(inner, "bind"):
            tables = None if search is None else _tables(search, *own)
            inner.bind(bounded.last, self._packed, self._actions, contract.last_action, tables)
            self._decide = inner.bounded
        elif search is not None:
            self._search = searcher(contract.head, *own)
        self._array: type | None = None

    def _by_inner(self, obs: Any) -> None:
        """A decision by what the backend made, which knows nothing of such actions; with numpy."""
        import numpy as np

        bounded, rows = self._bounded, self._rows
        x = np.asarray(read_obs(obs, rows, self.contract.obs_dim))
        if self.contract.last_action:
            last = np.frombuffer(bounded.last, np.float32)
            x = np.concatenate([x, last.reshape(rows, -1) if rows else last], -1)
        self._inner.act(x)
        q = self._inner.q_bytes
        if self._search is None:
            squash(memoryview(q)[: 4 * len(self._actions)], self._packed, bounded.last, self._actions)
        else:
            bounded.searched(self._search, q)

    def _acted(self, obs: Any) -> Any:
        """The actions of a decision on `obs`, in its kind."""
        bounded = self._bounded
        if not bounded.all_acted:
            bounded.acted[:], bounded.all_acted = b"\1" * len(bounded.acted), True
        if type(obs) is self._array:
            return self._copy()
        if not is_numpy(obs) or (package := numpy()) is None:
            return answer(bytearray(self._actions), "f", self._rows, self._width, obs)
        view = package.frombuffer(self._actions, "f").reshape((self._rows, self._width) if self._rows else -1)
        self._array, self._copy = package.ndarray, view.copy
        return view.copy()

    def _shown(self, flat: Any) -> Any:
        return answer(self._whole(flat), "f", self._rows, self._width)

    def _whole(self, flat: Any) -> bytearray:
        """A copy of what no other thread writes meanwhile."""
        return bytearray(flat)

    @property
    def last_action(self) -> Any:
        """The last action [A], or actions [n,A], decided or executed; the middle of the range before the first of an
        episode."""
        return self._shown(self._actions)

    @property
    def scaled(self) -> Any:
        """The same in [-1, 1]."""
        return self._shown(self._scaled)

    @property
    def hidden(self) -> Any:
        """Recurrent state [H] or [n,H]."""
        return self._inner.hidden

    @property
    def out_of_range(self) -> int:
        """Inputs so far that lay outside the range that training saw."""
        return self._inner.out_of_range


class ContinuousTeam(_Continuous):
    """mast_runtime.agent.Team of continuous actions. A second thread inside is refused: kernels of large teams run
    without the interpreter's lock.

    q [n,A] float32 is what the networks gave, before tanh; [n,H] where their actions are searched for from it. An agent
    that has fewer components than A has zeros for the others in its actions.
    """

    def __init__(self, contract: Contract, networks: Sequence[Network], inner: Any, indices: Sequence[int]) -> None:
        super().__init__(contract, networks, inner, indices, inner.n)
        self.n, self._inside, self._turns = inner.n, Lock(), 0

    def _free(self) -> Lock:
        """The lock, which another thread does not hold. For a with statement: no KeyboardInterrupt comes in between."""
        if self._inside.locked():
            raise RuntimeError(BUSY)
        return self._inside

    def _whole(self, flat: Any) -> bytearray:
        # Without the lock: who only looks has no decision refused.
        turns, inside = self._turns, self._inside
        copy = bytearray(flat) if not inside.locked() else None
        if copy is None or inside.locked() or self._turns != turns:
            raise RuntimeError(BUSY)
        return copy

    def reset(self, which: Any = None) -> None:
        """Forget the episode, of all agents or of those in `which` (bool [n] or indices)."""
        chosen = chosen_agents(which, self.n)
        with self._free():
            self._turns += 1
            self._inner.reset(which)
            self._bounded.reset(chosen)

    def act(self, obs: Rows, avail_actions: None = None) -> Any:
        """Actions [n,A] float32 in their units for obs [n,O]: for numpy observations an array of numpy, for others a
        list of array("f"). Raises ObservationError; the state is then as it was."""
        if avail_actions is not None:
            no_availability(avail_actions)
        known = type(obs) is self._array
        plain = obs if known else read_obs(obs, self.n, self.contract.obs_dim)
        inside = self._inside
        if inside.locked():  # _free() in place
            raise RuntimeError(BUSY)
        with inside:
            self._turns += 1
            self._decide(plain)
            return self._copy() if known and self._bounded.all_acted else self._acted(obs)

    def executed(self, actions: Rows, scaled: bool = False) -> None:
        """What was done in place of the last decisions, in their units: [n,A], or a row of its own size for each agent.

        What is outside the bounds counts as the bound. scaled: they are in [-1, 1]. Raises ObservationError.
        """
        try:
            given = list(actions)
        except TypeError as error:
            raise ObservationError(f"executed actions are no rows of numbers ({error})") from error
        if len(given) != self.n:
            raise ObservationError(f"executed actions of {len(given)} agents, expected {self.n}")
        rows = [self._bounded.executed(i, row, scaled, f" of agent {i}", True) for i, row in enumerate(given)]
        with self._free():
            self._turns += 1
            for i, last in enumerate(rows):
                self._bounded.put(i, last)

    @property
    def q(self) -> Any:
        """What the networks gave last [n,A], before tanh or the search."""
        return self._inner.q

    @property
    def out_of_range_counts(self) -> Any:
        """Inputs out of range of each agent and input [n,O]."""
        counts, size = self._inner.out_of_range_counts, self.contract.obs_dim
        return [row[:size] for row in counts] if isinstance(counts, list) else counts[:, :size]


class ContinuousAgent(_Continuous):
    """mast_runtime.agent.Agent of continuous actions."""

    def __init__(self, contract: Contract, network: Network, inner: Any, index: int) -> None:
        super().__init__(contract, [network], inner, [index], 0)
        self.index = index

    def reset(self) -> None:
        """Forget the episode: zero memory, no last action."""
        self._inner.reset()
        self._bounded.reset([0])

    def act(self, obs: Any, avail_actions: None = None) -> Any:
        """The action [A] float32 in its units for obs [O]: for numpy observations an array of numpy, for others
        array("f"). Raises ObservationError; the state is then as it was."""
        if avail_actions is not None:
            no_availability(avail_actions)
        self._decide(obs)
        return self._acted(obs)

    def executed(self, action: Any, scaled: bool = False) -> None:
        """What was done in place of the last decision [A], in its units: the last action of the next one.

        What is outside the bounds counts as the bound. scaled: it is in [-1, 1]. Raises ObservationError.
        """
        self._bounded.put(0, self._bounded.executed(0, action, scaled))

    @property
    def q(self) -> Any:
        """What the network gave last [A], before tanh; [H] where the action is searched for from it."""
        return self._inner.q[: self._width] if not self._searches else self._inner.q

    @property
    def out_of_range_counts(self) -> Any:
        """Inputs out of range, for each input [O]."""
        return self._inner.out_of_range_counts[: self.contract.obs_dim]


def _tables(search: Search, *of: Any) -> Any:
    from mast_runtime.native.searching import searching

    return searching(search, *of)


def no_availability(given: object) -> None:
    """Raises ObservationError unless None."""
    if given is not None:
        raise ObservationError("avail_actions was given, but continuous actions are not chosen; leave it out")
