"""Agents and teams whose actions are continuous, on the agents and teams of any backend. No numpy is needed here."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isfinite
from threading import Lock
from typing import TYPE_CHECKING, Any

from mast_runtime.arrays import answer, numpy_here
from mast_runtime.errors import BackendError, ObservationError
from mast_runtime.given import Rows, chosen_agents, items, read_obs
from mast_runtime.head import Head
from mast_runtime.network import Contract, Network
from mast_runtime.squash import ANYWHERE, squash

if TYPE_CHECKING:
    from mast_runtime.search import Searcher


class Bounded:
    """The actions of n agents, whose components lie in [-1, 1] here and in their units outside.

    last: n x A float32, the last actions, 0 before the first of an episode and where an agent has no such component. It
    is the given memory, changed in place. actions: the same in their units. sizes: components of each agent.
    networks: one for each agent. Raises BackendError where actions are searched for and there is no numpy.
    """

    def __init__(
        self,
        head: Head,
        networks: Sequence[Network],
        indices: Sequence[int],
        n_actions: int,
        last: memoryview[Any] | None = None,
    ) -> None:
        self.n_actions = n_actions
        self._low, self._high = ([side[i] for i in indices] for side in (head.low, head.high))
        self.sizes = [*map(len, self._low)]
        size = len(self.sizes) * n_actions
        self.last = memoryview(array("f", bytes(4 * size))) if last is None else last
        self.acted = bytearray(len(self.sizes))
        self._step = ANYWHERE if head.rate_limit is None else 2.0 * head.rate_limit
        self.search = None if head.search is None else _searcher(head, networks, self.sizes, n_actions)
        self.actions = array("f", bytes(4 * size))
        self.reset(range(len(self.sizes)))

    def reset(self, rows: Sequence[int]) -> None:
        """Nothing was done yet by these."""
        for row in rows:
            self.put(row, array("f", bytes(4 * self.n_actions)))
            self.acted[row] = 0

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


class _Continuous:
    """What an agent and a team share, on what a backend made for `inner.inner_contract`: n x A last actions, of which
    `width` of each agent are shown."""

    def __init__(self, contract: Contract, inner: Any, bounded: Bounded, width: int, rows: int) -> None:
        """rows: of what is shown, 0: one agent's alone."""
        self.contract, self.backend, self._inner, self._bounded = contract, inner.backend, inner, bounded
        self._width, self._rows = width, rows
        self._actions = memoryview(bounded.actions)[: max(rows, 1) * width]
        self._packed = bounded.packed(width)
        self._native = None if bounded.search else getattr(inner, "bounded", None)
        self._all_acted = b"\1" * len(bounded.acted)

    def _decide(self, x: Any) -> None:
        """A decision on what the networks read."""
        bounded = self._bounded
        if self._native is not None:
            self._native(x, bounded.last, self._packed, self._actions)
        else:
            self._inner.act(x)
            q = self._inner.q_bytes
            if bounded.search is None:
                squash(memoryview(q)[: 4 * len(self._actions)], self._packed, bounded.last, self._actions)
            else:
                bounded.searched(bounded.search, q)
        bounded.acted[:] = self._all_acted

    def _shown(self, flat: Any, like: Any = None) -> Any:
        return answer(bytearray(flat), "f", self._rows, self._width, like)

    @property
    def last_action(self) -> Any:
        """The last action [A], or actions [n,A], decided or executed; the middle of the range before the first of an
        episode."""
        return self._shown(self._actions)

    @property
    def scaled(self) -> Any:
        """The same in [-1, 1]."""
        return self._shown(self._bounded.last[: len(self._actions)])

    @property
    def hidden(self) -> Any:
        """Recurrent state [H] or [n,H]."""
        return self._inner.hidden

    @property
    def out_of_range(self) -> int:
        """Inputs so far that lay outside the range that training saw."""
        return self._inner.out_of_range


class ContinuousTeam(_Continuous):
    """mast_runtime.agent.Team of continuous actions.

    q [n,A] float32 is what the networks gave, before tanh; [n,H] where their actions are searched for from it. An agent
    that has fewer components than A has zeros for the others in its actions.
    """

    def __init__(self, contract: Contract, networks: Sequence[Network], inner: Any, indices: Sequence[int]) -> None:
        assert contract.head is not None
        bounded = Bounded(contract.head, networks, indices, contract.n_actions)
        super().__init__(contract, inner, bounded, contract.n_actions, inner.n)
        self.n, self._acting = inner.n, Lock()
        self._inputs = contract.obs_dim + contract.n_actions * contract.last_action
        self._x = memoryview(array("f", bytes(4 * self.n * self._inputs)))
        self._read = self._x.cast("B").cast("f", (self.n, self._inputs))

    def reset(self, which: Any = None) -> None:
        """Forget the episode, of all agents or of those in `which` (bool [n] or indices)."""
        chosen = chosen_agents(which, self.n)
        self._inner.reset(which)
        self._bounded.reset(chosen)

    def act(self, obs: Rows, avail_actions: None = None) -> Any:
        """Actions [n,A] float32 in their units for obs [n,O]: for numpy observations an array of numpy, for others a
        list of array("f"). Raises ObservationError; the state is then as it was."""
        no_availability(avail_actions)
        given = memoryview(read_obs(obs, self.n, self.contract.obs_dim)).cast("B").cast("f")
        if not self._acting.acquire(blocking=False):
            raise RuntimeError("the team is acting in another thread; give each thread a team of its own")
        try:
            if self.contract.last_action:
                self._join(given)
            else:
                self._x[:] = given
            self._decide(self._read)
            return self._shown(self._actions, obs)
        finally:
            self._acting.release()

    def _join(self, given: memoryview[float]) -> None:
        """Each agent's observation and last action, as its network reads them."""
        x, width, size, more = self._x, self._inputs, self.contract.obs_dim, self.contract.n_actions
        if self.n < size:
            for i in range(self.n):
                x[i * width : i * width + size] = given[i * size : (i + 1) * size]
        else:
            for k in range(size):
                x[k::width] = given[k::size]
        for k in range(more):
            x[size + k :: width] = self._bounded.last[k::more]

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
        assert contract.head is not None
        self._x = array("f", bytes(4 * (contract.obs_dim + contract.n_actions * contract.last_action)))
        self._obs = memoryview(self._x)[: contract.obs_dim]
        last = memoryview(self._x)[contract.obs_dim :] if contract.last_action else None
        bounded = Bounded(contract.head, [network], [index], contract.n_actions, last)
        super().__init__(contract, inner, bounded, bounded.sizes[0], 0)
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
        try:
            self._obs[:] = obs
        except (TypeError, ValueError):
            self._obs[:] = read_obs(obs, 0, self.contract.obs_dim)
        self._decide(self._x)
        return self._shown(self._actions, obs)

    def executed(self, action: Any, scaled: bool = False) -> None:
        """What was done in place of the last decision [A], in its units: the last action of the next one.

        What is outside the bounds counts as the bound. scaled: it is in [-1, 1]. Raises ObservationError.
        """
        self._bounded.put(0, self._bounded.executed(0, action, scaled))

    @property
    def q(self) -> Any:
        """What the network gave last [A], before tanh; [H] where the action is searched for from it."""
        return self._inner.q[: self._width] if self._bounded.search is None else self._inner.q

    @property
    def out_of_range_counts(self) -> Any:
        """Inputs out of range, for each input [O]."""
        return self._inner.out_of_range_counts[: self.contract.obs_dim]


def _searcher(head: Head, networks: Sequence[Network], sizes: Sequence[int], n_actions: int) -> Searcher:
    if not numpy_here():
        raise BackendError("this policy searches for its actions, which needs numpy; pip install numpy")
    import numpy as np

    from mast_runtime.search import Searcher, Values

    assert head.search is not None
    return Searcher(head.search, Values.of(networks), np.arange(n_actions) < np.array(sizes)[:, None])


def no_availability(given: object) -> None:
    """Raises ObservationError unless None."""
    if given is not None:
        raise ObservationError("avail_actions was given, but continuous actions are not chosen; leave it out")
