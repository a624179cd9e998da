"""Agent and Team: the only mutable state of the runtime. Construct once, then act; `reset` at an episode's start."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mast_runtime.arrays import in_kind
from mast_runtime.executed import checked_action, checked_actions
from mast_runtime.given import Rows, checked_avail, checked_obs, overflow
from mast_runtime.network import Contract


class Step(Protocol):
    """A network compiled by one backend: immutable, so threads may share it."""

    hidden: int
    limits: tuple[Sequence[float], Sequence[float]] | None
    """Of the inputs: below the first and above the second [O] they are out of range; None: no range is known."""

    def __call__(
        self, obs: NDArray, last_action: NDArray, agent_id: NDArray, hidden: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """obs [n,O], last_action [n] (-1: none yet), agent_id [n], hidden [n,H] -> q [n,A], next hidden [n,H]."""
        ...


class Team:
    """n agents stepped at once. Agent i runs steps[i mod k] under the one-hot id agent_ids[i mod k], k = len(steps).

    hidden [n,H] float32, last_action [n] int64 (-1: none yet) and q [n,A] float32 are the state, readable at any time.
    out_of_range_counts [n,O] int64: how often each input lay outside the range that training saw.
    """

    def __init__(
        self, contract: Contract, steps: Sequence[Step], agent_ids: Sequence[int], n: int, backend: str
    ) -> None:
        self.contract, self.backend, self.n = contract, backend, n
        copies = n // len(steps)
        self._agent_id = np.tile(np.asarray(agent_ids), copies)
        owner = np.tile([id(step) for step in steps], copies)
        unique = {id(step): step for step in steps}
        self._groups = [
            (step, slice(None) if len(unique) == 1 else np.flatnonzero(owner == key)) for key, step in unique.items()
        ]
        self._width = max(step.hidden for step in steps)
        limits = [getattr(step, "limits", None) or (-np.inf, np.inf) for step in steps]
        shape = len(steps), contract.obs_dim
        self._low, self._high = (
            np.tile(np.stack([np.broadcast_to(pair[k], shape[1:]) for pair in limits]), (copies, 1)) for k in (0, 1)
        )
        self.out_of_range_counts = np.zeros((n, contract.obs_dim), np.int64)
        self.reset()

    def reset(self, which: ArrayLike | None = None) -> None:
        """Forget the episode, of all agents or of those in `which` (bool [n] or indices)."""
        if which is None:
            self.hidden = np.zeros((self.n, self._width), np.float32)
            self.last_action = np.full(self.n, -1, np.int64)
            self.q = np.zeros((self.n, self.contract.n_actions), np.float32)
        else:
            chosen = np.asarray(which) if np.size(which) else slice(0)
            self.hidden[chosen], self.last_action[chosen], self.q[chosen] = 0.0, -1, 0.0

    def act(self, obs: Rows, avail_actions: Rows | None = None) -> Any:
        """Greedy actions [n] for obs [n,O] and avail_actions [n,A] (None: all). Ties go to the lowest action.

        For numpy observations an int64 array, for others array("q"). Raises ObservationError, in which case the
        recurrent state is as it was.
        """
        given, obs = obs, checked_obs(obs, (self.n, self.contract.obs_dim))
        avail = checked_avail(avail_actions, (self.n, self.contract.n_actions))
        q, hidden = np.empty_like(self.q), np.zeros_like(self.hidden)
        for step, rows in self._groups:
            q[rows], hidden[rows, : step.hidden] = step(
                obs[rows], self.last_action[rows], self._agent_id[rows], self.hidden[rows, : step.hidden]
            )
        if not np.isfinite(q).all():
            overflow()
        self.q, self.hidden = q, hidden
        self.last_action = np.where(avail, q, -np.inf).argmax(1).astype(np.int64, copy=False)  # elsewhere int32
        self.out_of_range_counts += (obs < self._low) | (obs > self._high)
        return in_kind(given, self.last_action.copy())

    def executed(self, actions: ArrayLike) -> None:
        """What was done in place of the last decisions [n]: the last actions of the next. Raises ObservationError."""
        last = array("q", self.last_action.tolist())
        self.last_action = np.array(checked_actions(actions, last, self.contract.n_actions), np.int64)

    @property
    def q_bytes(self) -> bytes:
        """q as float32 in the machine's byte order, for those who have no numpy."""
        return self.q.tobytes()

    @property
    def out_of_range(self) -> int:
        """Inputs so far that lay outside the range that training saw."""
        return int(self.out_of_range_counts.sum())


class Agent:
    """One robot's policy: its network, its memory, its last action."""

    def __init__(self, contract: Contract, step: Step, index: int, backend: str) -> None:
        self.contract, self.index, self.backend = contract, index, backend
        self._team = Team(contract, [step], [index], 1, backend)

    def reset(self) -> None:
        """Forget the episode: zero memory, no last action."""
        self._team.reset()

    def act(self, obs: ArrayLike, avail_actions: ArrayLike | None = None) -> int:
        """The greedy available action for obs [O] and avail_actions [A] (None: all). Raises ObservationError."""
        return int(self._team.act([obs], None if avail_actions is None else [avail_actions])[0])

    def executed(self, action: int) -> None:
        """What was done in place of the last decision: the last action of the next one. Raises ObservationError."""
        self._team.executed([checked_action(action, self.last_action, self.contract.n_actions)])

    @property
    def out_of_range(self) -> int:
        """Inputs so far that lay outside the range that training saw."""
        return self._team.out_of_range

    @property
    def out_of_range_counts(self) -> NDArray[np.int64]:
        """The same for each input [O]."""
        return self._team.out_of_range_counts[0].copy()

    @property
    def q(self) -> NDArray[np.float32]:
        """Action values [A] of the last decision."""
        return self._team.q[0]

    @property
    def q_bytes(self) -> bytes:
        """The same as float32 in the machine's byte order, for those who have no numpy."""
        return self.q.tobytes()

    @property
    def hidden(self) -> NDArray[np.float32]:
        """Recurrent state [H]."""
        return self._team.hidden[0]

    @property
    def last_action(self) -> int:
        """The last action chosen or executed, -1 before the first decision of an episode."""
        return int(self._team.last_action[0])
