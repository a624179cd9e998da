"""Parity: what an export computes beside what the trainer's network computed, on the same observations.

Every output keeps its own recurrent state from the first step to the last, so errors add up as they would on a robot.
The observations and the last actions are the trainer's, so that one different action does not make all later steps
incomparable: action disagreements are counted, not followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mast_export.bounded import errors, in_units, squashed
from mast_export.errors import ExportError
from mast_runtime import Bundle
from mast_runtime.format import VALUE_DTYPES
from mast_runtime.head import Head
from mast_runtime.onnx_graph import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True)
class Tolerance:
    """`error` bounds the errors in q and hidden, `agreement` is the least fraction of the trainer's own actions.

    Continuous actions are equal within `action`, a share of their range, and bounded by `error` too.
    """

    error: float
    agreement: float = 0.0
    action: float = 0.0


TOLERANCES = {
    "f32": Tolerance(error=1e-4, action=1e-4),
    "f16": Tolerance(error=2e-2, action=2e-2),
    "i8": Tolerance(error=math.inf, agreement=0.9, action=5e-2),
}
"""By the type of the stored weights.

f32: the same numbers summed in another order and other approximations of exp and tanh: about 1e-6 over 200 steps.
f16: weights are off by up to 2^-11 of themselves, which the recurrent state accumulates: about 2e-3 on random networks.
i8: weights are off by up to 1/254 of their row's largest; a limit on q that lets this through would also let mistakes
through, and what a policy is for is its action. A wrong network (gates swapped, no memory) agrees far less than 0.9.
"""


@dataclass(frozen=True, eq=False)
class Trace:
    """Observations recorded in an environment, and what the trainer's network makes of them in one recurrence.

    obs [T,N,O] float32, avail_actions [T,N,A] bool; q [T,N,A] and hidden [T,N,H] (after each step) float32 from zero
    memory and no last action at t = 0. N are the bundle's agents, in its order. starts [T] bool: where episodes began,
    over which the recurrence goes on; None: not recorded. head, indices [N]: where actions are continuous, their bounds
    and the agents' places in the team; avail_actions then says which components an agent has.
    """

    obs: NDArray[np.float32]
    avail_actions: NDArray[np.bool_]
    q: NDArray[np.float32]
    hidden: NDArray[np.float32]
    starts: NDArray[np.bool_] | None = None
    head: Head | None = None
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        arrays = (self.obs, self.avail_actions, self.q, self.hidden)
        if any(array.ndim != 3 or array.shape[:2] != self.obs.shape[:2] for array in arrays):
            raise ValueError(f"a trace of shapes {[array.shape for array in arrays]}: expected [T,N,*] of equal T, N")
        if self.q.shape != self.avail_actions.shape or not self.obs.size:
            raise ValueError(f"a trace with obs {self.obs.shape}, q {self.q.shape}, avail {self.avail_actions.shape}")

    @cached_property
    def actions(self) -> NDArray:
        """The trainer's greedy actions [T,N] int64, or continuous ones [T,N,A] float32 in [-1, 1]."""
        return (_greedy if self.head is None else squashed)(self.q, self.avail_actions)

    @cached_property
    def last_actions(self) -> NDArray:
        """The last action of each step, at t = 0 -1, or 0 of every component."""
        return np.concatenate([np.full_like(self.actions[:1], -1 if self.head is None else 0), self.actions[:-1]])

    def agent(self, row: int, hidden: int | None = None) -> Trace:
        """The trace of one agent, N = 1, and of its first `hidden` units (None: all)."""
        rows = slice(row, row + 1)
        arrays = self.obs[:, rows], self.avail_actions[:, rows], self.q[:, rows], self.hidden[:, rows, :hidden]
        return Trace(*arrays, self.starts, self.head, self.indices[rows])

    def kept(self, units: Sequence[NDArray[np.intp]]) -> Trace:
        """Of a team whose agent i keeps the hidden units `units[i]`: those from 0 on, then zeros up to the widest."""
        hidden = np.zeros((*self.hidden.shape[:2], max(chosen.size for chosen in units)), np.float32)
        for i, chosen in enumerate(units):
            hidden[:, i, : chosen.size] = self.hidden[:, i, chosen]
        return replace(self, hidden=hidden)


@dataclass(frozen=True)
class Parity:
    """One export compared with the trainer over n_steps steps of n_agents agents.

    max_q_error is relative to the largest |q| of the trace when that is above 1; max_hidden_error is absolute (hidden
    lies in [-1, 1]). max_regret is the most value, by the trainer's q and on the scale of max_q_error, that a chosen
    action gave up; it exposes a wrong argmax even where q is right. max_action_error is of continuous actions, as a
    share of their range; None: actions are chosen.
    """

    max_q_error: float
    max_hidden_error: float
    max_regret: float
    actions_equal: int
    n_steps: int
    n_agents: int
    tolerance: Tolerance
    max_action_error: float | None = None

    @property
    def agreement(self) -> float:
        """Fraction of decisions equal to the trainer's."""
        return self.actions_equal / (self.n_steps * self.n_agents)

    @property
    def passed(self) -> bool:
        limit = self.tolerance.error
        small = self.max_q_error < limit and self.max_hidden_error < limit and self.max_regret < 2.0 * limit
        small &= (self.max_action_error or 0.0) < limit
        return small and self.agreement >= self.tolerance.agreement

    def sentence(self) -> str:
        """What was compared, and how near it came."""
        if self.max_action_error is not None:
            return (
                f"verified over {self.n_steps} recurrent steps: output within {self.max_q_error:.1e}, hidden within "
                f"{self.max_hidden_error:.1e}, actions within {self.max_action_error:.1e} of their range"
            )
        return (
            f"verified over {self.n_steps} recurrent steps: q within {self.max_q_error:.1e}, hidden within "
            f"{self.max_hidden_error:.1e}, {self.actions_equal} of {self.n_steps * self.n_agents} actions equal"
        )

    def require(self, what: str) -> Parity:
        """Itself. Raises ExportError naming `what` unless it passed."""
        if not self.passed:
            raise ExportError(
                f"{what} differs from the trained network over {self.n_steps} steps: q by {self.max_q_error:.2g}, "
                f"hidden by {self.max_hidden_error:.2g}, {self._actions()}, {self.agreement:.1%} of the "
                f"actions equal (allowed: {self.tolerance.error:g}, {self.tolerance.agreement:.0%})"
            )
        return self

    def _actions(self) -> str:
        if self.max_action_error is None:
            return f"regret {self.max_regret:.2g}"
        return f"actions by {self.max_action_error:.2g} of their range"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an unlimited error is null."""
        limit = self.tolerance.error
        tolerance = asdict(self.tolerance) | {"error": limit if math.isfinite(limit) else None}
        return asdict(self) | {"tolerance": tolerance, "passed": self.passed}


def weights_dtype(bundle: Bundle) -> str:
    """The narrowest type in which the bundle stores weights: a key of TOLERANCES."""
    stored = {layer.values.dtype for network in bundle.networks for layer in network.layers().values()}
    return next(name for name in reversed(VALUE_DTYPES) if np.dtype(VALUE_DTYPES[name]) in stored)


def verify(bundle: Bundle, trace: Trace, backend: str = "auto", tolerance: Tolerance | None = None) -> Parity:
    """The bundle's team under `backend` beside the trace; the tolerance is by default that of its weights.

    Raises ValueError when the trace is of another team, ObservationError, BackendError.
    """
    team: Any = bundle.team(backend=backend)
    if team.n != trace.obs.shape[1]:
        raise ValueError(f"a trace of {trace.obs.shape[1]} agents, the bundle has {team.n}")
    q, hidden = np.empty_like(trace.q), np.empty_like(trace.hidden)
    tolerance = tolerance or TOLERANCES[weights_dtype(bundle)]
    if trace.head is not None:
        actions = np.empty_like(trace.q)
        for t, obs in enumerate(trace.obs):
            actions[t] = team.act(obs)
            q[t], hidden[t] = team.q, team.hidden
            team.executed(trace.actions[t], scaled=True)
        return compare(trace, q, hidden, actions, tolerance)
    # The only action available is the trainer's, so that it is the last action of the next step.
    forced = np.arange(trace.q.shape[-1]) == trace.actions[..., None]
    for t, (obs, avail) in enumerate(zip(trace.obs, forced, strict=True)):
        team.act(obs, avail)
        q[t], hidden[t] = team.q, team.hidden
    actions = _greedy(q, trace.avail_actions)
    return compare(trace, q, hidden, actions, tolerance)


def verify_onnx(
    model: str | Path | bytes, trace: Trace, row: int = 0, tolerance: Tolerance = TOLERANCES["f32"]
) -> Parity:
    """An exported ONNX model (a file or its bytes), one step at a time, beside agent `row` of the trace."""
    session = open_session(model if isinstance(model, bytes) else str(model))
    width = next(given.shape[1] for given in session.get_inputs() if given.name == "hidden")
    trace = trace.agent(row, width)
    if trace.head is not None:
        return _verify_bounded(session, trace, trace.head, tolerance)
    q, hidden, actions = np.empty_like(trace.q), np.empty_like(trace.hidden), np.empty_like(trace.actions)
    memory = np.zeros_like(trace.hidden[0])
    for t, (obs, avail) in enumerate(zip(trace.obs, trace.avail_actions, strict=True)):
        inputs = {"obs": obs, "last_action": trace.last_actions[t], "avail_actions": avail, "hidden": memory}
        q[t], actions[t], memory = map(np.asarray, session.run(["q", "action", "next_hidden"], inputs))
        hidden[t] = memory
    return compare(trace, q, hidden, actions, tolerance)


def _verify_bounded(session: InferenceSession, trace: Trace, head: Head, tolerance: Tolerance) -> Parity:
    """The same of continuous actions, whose model has the agent's own components and no availability."""
    q, hidden, actions = np.zeros_like(trace.q), np.empty_like(trace.hidden), np.zeros_like(trace.q)
    last = in_units(head, trace.indices, trace.last_actions)
    size, memory = len(head.low[trace.indices[0]]), np.zeros_like(trace.hidden[0])
    for t, obs in enumerate(trace.obs):
        inputs = {"obs": obs, "last_action": last[t][:, :size], "hidden": memory}
        q[t, :, :size], actions[t, :, :size], memory = map(
            np.asarray, session.run(["q", "action", "next_hidden"], inputs)
        )
        hidden[t] = memory
    return compare(trace, q, hidden, actions, tolerance)


def _greedy(q: NDArray, avail_actions: NDArray) -> NDArray[np.int64]:
    return np.where(avail_actions, q, -np.inf).argmax(-1)


def compare(trace: Trace, q: NDArray, hidden: NDArray, actions: NDArray, tolerance: Tolerance) -> Parity:
    """What an export made of the trace, q [T,N,A], hidden [T,N,H] and actions [T,N], beside what the trainer made.

    Continuous actions are [T,N,A], in their units.
    """
    scale = max(1.0, float(np.abs(trace.q).max()))
    if trace.head is not None:
        found = errors(trace.head, trace.indices, actions, trace.q, trace.last_actions)
        return Parity(
            max_q_error=float(np.abs(np.where(trace.avail_actions, q - trace.q, 0.0)).max()) / scale,
            max_hidden_error=float(np.abs(hidden - trace.hidden).max()),
            max_regret=0.0,
            actions_equal=int((found <= tolerance.action).sum()),
            n_steps=found.shape[0],
            n_agents=found.shape[1],
            tolerance=tolerance,
            max_action_error=float(found.max()),
        )
    best = np.take_along_axis(trace.q, trace.actions[..., None], -1)
    taken = np.take_along_axis(np.where(trace.avail_actions, trace.q, -np.inf), actions[..., None], -1)
    n_steps, n_agents = actions.shape[:2]
    return Parity(
        max_q_error=float(np.abs(q - trace.q).max()) / scale,
        max_hidden_error=float(np.abs(hidden - trace.hidden).max()),
        max_regret=float((best - taken).max()) / scale,
        actions_equal=int((actions == trace.actions).sum()),
        n_steps=n_steps,
        n_agents=n_agents,
        tolerance=tolerance,
    )
