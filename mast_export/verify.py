"""Parity: what an export computes beside what the trained network computes in float64, on the same observations.

Every output keeps its own recurrent state from the first step to the last, so errors add up as they would on a robot.
The observations and the last actions are the trained network's, so that one different action does not make all later
steps incomparable: action disagreements are counted, not followed. The rule: docs/format.md, Verification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mast_export.bounded import Wanted, in_units, searched, squashed
from mast_export.errors import ExportError
from mast_runtime import Bundle
from mast_runtime.format import VALUE_DTYPES
from mast_runtime.head import Head
from mast_runtime.onnx_graph import open_session
from mast_runtime.search import Values

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ERROR_LIMIT = 16.0
"""In units of the noise. Another order of sums errs up to three times as much as the trainer's own on inputs of 1e4."""
LEAST_NOISE = 2.0**-18
"""Of other approximations of exp and tanh, in networks whose own noise is less."""
AGREEMENT_LIMIT = 0.9
"""Of the decisions with a choice."""
REGRET_LIMIT = 0.01
"""Of the mean span between the best and the worst available action; of continuous actions, of their range."""
ACTION_LIMIT = 0.05
"""Of their range: continuous actions nearer than that count as equal."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Observations recorded in an environment, and what the trained network makes of them in one recurrence.

    obs [T,N,O] float32, avail_actions [T,N,A] bool; q [T,N,A] and hidden [T,N,H] (after each step), computed in float64
    and stored as float32, from zero memory and no last action at t = 0. N are the bundle's agents, in its order.
    starts [T] bool: where episodes began, over which the recurrence goes on; None: not recorded.
    noise: type of stored weights -> how far each agent's network [N] errs by itself in float32 on weights of that type,
    in the larger of the measures of Parity's errors.
    head, indices [N]: where actions are continuous, their bounds and the agents' places in the team; avail_actions then
    says which components an agent has, and q is what is squashed. values: where they are searched for, what the trained
    network goes on with from q [T,N,H].
    """

    obs: NDArray[np.float32]
    avail_actions: NDArray[np.bool_]
    q: NDArray[np.float32]
    hidden: NDArray[np.float32]
    starts: NDArray[np.bool_] | None = None
    noise: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    head: Head | None = None
    indices: tuple[int, ...] = ()
    values: Values | None = None

    def __post_init__(self) -> None:
        arrays = (self.obs, self.avail_actions, self.q, self.hidden)
        if any(array.ndim != 3 or array.shape[:2] != self.obs.shape[:2] for array in arrays):
            raise ValueError(f"a trace of shapes {[array.shape for array in arrays]}: expected [T,N,*] of equal T, N")
        if (self.values is None and self.q.shape != self.avail_actions.shape) or not self.obs.size:
            raise ValueError(f"a trace with obs {self.obs.shape}, q {self.q.shape}, avail {self.avail_actions.shape}")

    @cached_property
    def actions(self) -> NDArray:
        """The trained network's greedy actions [T,N] int64, or continuous ones [T,N,A] float32 in [-1, 1]."""
        if self.head is not None and self.values is not None:
            return searched(self.head, self.values, self.q, self.avail_actions)
        return (_greedy if self.head is None else squashed)(self.q, self.avail_actions)

    @cached_property
    def last_actions(self) -> NDArray:
        """The last action of each step, at t = 0 -1, or 0 of every component."""
        return np.concatenate([np.full_like(self.actions[:1], -1 if self.head is None else 0), self.actions[:-1]])

    def noise_of(self, dtype: str) -> float:
        """The noise that errors of an export of such weights are compared with, of the noisiest agent."""
        return max(LEAST_NOISE, float(np.max(self.noise.get(dtype, 0.0))))

    def agent(self, row: int, hidden: int | None = None) -> Trace:
        """The trace of one agent, N = 1, and of its first `hidden` units (None: all)."""
        one = slice(row, row + 1)
        own = {dtype: noise[one] for dtype, noise in self.noise.items()}
        arrays = self.obs[:, one], self.avail_actions[:, one], self.q[:, one], self.hidden[:, one, :hidden]
        values = None if self.values is None else self.values.row(row)
        return Trace(*arrays, self.starts, own, self.head, self.indices[one], values)

    def first(self, steps: int) -> Trace:
        """Its first steps."""
        named = ("obs", "avail_actions", "q", "hidden")
        starts = None if self.starts is None else self.starts[:steps]
        return replace(self, starts=starts, **{name: getattr(self, name)[:steps] for name in named})

    def kept(self, units: Sequence[NDArray[np.intp]]) -> Trace:
        """Of a team whose agent i keeps the hidden units `units[i]`: those from 0 on, then zeros up to the widest."""
        hidden = np.zeros((*self.hidden.shape[:2], max(chosen.size for chosen in units)), np.float32)
        for i, chosen in enumerate(units):
            hidden[:, i, : chosen.size] = self.hidden[:, i, chosen]
        return replace(self, hidden=hidden)


@dataclass(frozen=True)
class Parity:
    """One export compared with the trained network over n_steps steps of n_agents agents.

    max_q_error is relative to the largest |q| of the trace when that is above 1; max_hidden_error is absolute (hidden
    lies in [-1, 1]). Regret is the value, by the trained network's q, that a chosen action gave up: max_regret on the
    scale of max_q_error, mean_regret over all decisions and relative to the mean span between the best and the worst
    available action. choices: decisions with more than one available action. dtype: of the stored weights.

    Of continuous actions regret is the distance from the trained network's as a share of the range: max_regret on the
    scale of max_q_error, max_action_error (None: actions are chosen) and mean_regret as they are; actions within
    ACTION_LIMIT are equal, and every decision is a choice. Where they are searched for, mean_regret is the value given
    up, as of choices, over the span of the first candidates'; those of about the same value are equal too, within
    REGRET_LIMIT of their span; and max_regret is 0: between such a search may end elsewhere at once.
    """

    max_q_error: float
    max_hidden_error: float
    max_regret: float
    mean_regret: float
    actions_equal: int
    choices: int
    n_steps: int
    n_agents: int
    noise: float
    dtype: str
    max_action_error: float | None = None

    @property
    def agreement(self) -> float:
        """Fraction of decisions with a choice that equal the trained network's."""
        return 1.0 - (self.n_steps * self.n_agents - self.actions_equal) / max(1, self.choices)

    @property
    def computes(self) -> bool:
        """Whether it computes what the trained network computes, and takes the action that its own q says."""
        near = all(x <= ERROR_LIMIT * self.noise and np.isfinite(x) for x in (self.max_q_error, self.max_hidden_error))
        return near and self.max_regret <= 2.0 * (self.max_q_error + LEAST_NOISE)

    @property
    def decides(self) -> bool:
        """Whether it decides as the trained network does."""
        return self.agreement >= AGREEMENT_LIMIT and self.mean_regret <= REGRET_LIMIT

    @property
    def passed(self) -> bool:
        return self.computes and self.decides

    def sentence(self) -> str:
        """What was compared, and how near it came."""
        return (
            f"verified over {self.n_steps} recurrent steps: q within {self.max_q_error:.1e}, hidden within "
            f"{self.max_hidden_error:.1e} ({self.dtype} noise {self.noise:.1e}), {self.actions_equal} of "
            f"{self.n_steps * self.n_agents} actions equal{self._given_up()}"
        )

    def _given_up(self) -> str:
        if self.max_action_error is not None:
            return f", each within {self.max_action_error:.1e} of its range"
        return f", {self.mean_regret:.2%} of the value given up" if self.mean_regret > 0.0 else ""

    def require(self, what: str) -> Parity:
        """Itself. Raises ExportError naming `what` unless it passed."""
        if not self.passed:
            raise ExportError(
                f"{what} differs from the trained network over {self.n_steps} steps: q by {self.max_q_error:.2g}, "
                f"hidden by {self.max_hidden_error:.2g} (allowed: {ERROR_LIMIT:.0f} x its {self.dtype} noise, "
                f"{ERROR_LIMIT * self.noise:.2g}), {self.agreement:.1%} of the decisions equal (at least "
                f"{AGREEMENT_LIMIT:.0%}), {self.mean_regret:.2%} of the value given up (at most {REGRET_LIMIT:.0%}); "
                f"{self.advice()}"
            )
        return self

    def advice(self) -> str:
        """What to do about an export that did not pass."""
        if not self.computes:
            return "a fault of this export, not of the policy: try --no-compact or another --format, and report it"
        if self.dtype != "f32":
            narrower = list(VALUE_DTYPES).index(self.dtype)
            wider = " or ".join(list(VALUE_DTYPES)[narrower - 1 :: -1])
            return f"{self.dtype} weights are too coarse for this policy: use --dtype {wider}"
        return (
            "the network amplifies the rounding of float32, as with inputs far from [-1, 1]: train it with "
            "--set env.normalise=running or scale its observations"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        limits = {"error": ERROR_LIMIT * self.noise, "agreement": AGREEMENT_LIMIT, "mean_regret": REGRET_LIMIT}
        return asdict(self) | {"agreement": self.agreement, "limits": limits, "passed": self.passed}


def weights_dtype(bundle: Bundle) -> str:
    """The narrowest type in which the bundle stores weights: f32, f16 or i8."""
    stored = {layer.values.dtype for network in bundle.networks for layer in network.layers().values()}
    return next(name for name in reversed(VALUE_DTYPES) if np.dtype(VALUE_DTYPES[name]) in stored)


def verify(bundle: Bundle, trace: Trace, backend: str = "auto") -> Parity:
    """The bundle's team under `backend` beside the trace.

    Raises ValueError when the trace is of another team, ObservationError, BackendError.
    """
    team: Any = bundle.team(backend=backend)
    if team.n != trace.obs.shape[1]:
        raise ValueError(f"a trace of {trace.obs.shape[1]} agents, the bundle has {team.n}")
    q, hidden = np.empty_like(trace.q), np.empty_like(trace.hidden)
    if trace.head is not None:
        actions = np.empty_like(trace.actions)
        for t, obs in enumerate(trace.obs):
            actions[t] = team.act(obs)
            q[t], hidden[t] = team.q, team.hidden
            team.executed(trace.actions[t], scaled=True)
        return compare(trace, q, hidden, actions, weights_dtype(bundle))
    # The only action available is the trained network's, so that it is the last action of the next step.
    forced = np.arange(trace.q.shape[-1]) == trace.actions[..., None]
    for t, (obs, avail) in enumerate(zip(trace.obs, forced, strict=True)):
        team.act(obs, avail)
        q[t], hidden[t] = team.q, team.hidden
    return compare(trace, q, hidden, _greedy(q, trace.avail_actions), weights_dtype(bundle))


def verify_onnx(model: str | Path | bytes, trace: Trace, row: int = 0, dtype: str = "f32") -> Parity:
    """An exported ONNX model (a file or its bytes), one step at a time, beside agent `row` of the trace."""
    session = open_session(model if isinstance(model, bytes) else str(model))
    width = next(given.shape[1] for given in session.get_inputs() if given.name == "hidden")
    trace = trace.agent(row, width)
    if trace.head is not None:
        return _verify_bounded(session, trace, trace.head, dtype)
    q, hidden, actions = np.empty_like(trace.q), np.empty_like(trace.hidden), np.empty_like(trace.actions)
    memory = np.zeros_like(trace.hidden[0])
    for t, (obs, avail) in enumerate(zip(trace.obs, trace.avail_actions, strict=True)):
        inputs = {"obs": obs, "last_action": trace.last_actions[t], "avail_actions": avail, "hidden": memory}
        q[t], actions[t], memory = map(np.asarray, session.run(["q", "action", "next_hidden"], inputs))
        hidden[t] = memory
    return compare(trace, q, hidden, actions, dtype)


def _verify_bounded(session: InferenceSession, trace: Trace, head: Head, dtype: str) -> Parity:
    """The same of continuous actions, whose model has the agent's own components and no availability."""
    q, hidden, actions = np.zeros_like(trace.q), np.empty_like(trace.hidden), np.zeros_like(trace.actions)
    last = in_units(head, trace.indices, trace.last_actions)
    size, memory = len(head.low[trace.indices[0]]), np.zeros_like(trace.hidden[0])
    for t, obs in enumerate(trace.obs):
        inputs = {"obs": obs, "last_action": last[t][:, :size], "hidden": memory}
        given, actions[t, :, :size], memory = map(np.asarray, session.run(["q", "action", "next_hidden"], inputs))
        q[t, :, : given.shape[1]] = given
        hidden[t] = memory
    return compare(trace, q, hidden, actions, dtype)


def _greedy(q: NDArray, avail_actions: NDArray) -> NDArray[np.int64]:
    return np.where(avail_actions, q, -np.inf).argmax(-1)


def compare(trace: Trace, q: NDArray, hidden: NDArray, actions: NDArray, dtype: str) -> Parity:
    """What an export of `dtype` weights made of the trace, q [T,N,A], hidden [T,N,H] and actions [T,N], beside what the
    trained network makes of it. Continuous actions are [T,N,A], in their units."""
    scale = q_scale(trace.q)
    if trace.head is not None:
        wanted = Wanted(trace.head, trace.indices, trace.avail_actions.shape[-1], trace.values)
        found, lost = wanted.errors(actions, trace.q, trace.last_actions)
        equal = found <= ACTION_LIMIT
        if lost is not None:
            equal |= lost[0] <= REGRET_LIMIT * lost[1]
        differs = q - trace.q if trace.values is not None else np.where(trace.avail_actions, q - trace.q, 0.0)
        return Parity(
            max_q_error=float(np.abs(differs).max()) / scale,
            max_hidden_error=float(np.abs(hidden - trace.hidden).max()),
            max_regret=float(found.max()) / scale if lost is None else 0.0,
            mean_regret=float(found.mean()) if lost is None else float(lost[0].sum() / max(lost[1].sum(), 1e-30)),
            actions_equal=int(equal.sum()),
            choices=found.size,
            n_steps=found.shape[0],
            n_agents=found.shape[1],
            noise=trace.noise_of(dtype),
            dtype=dtype,
            max_action_error=float(found.max()),
        )
    best = np.take_along_axis(trace.q, trace.actions[..., None], -1)[..., 0]
    available = np.where(trace.avail_actions, trace.q, -np.inf)
    regret = best - np.take_along_axis(available, actions[..., None], -1)[..., 0]
    span = best - np.where(trace.avail_actions, trace.q, np.inf).min(-1)
    n_steps, n_agents = actions.shape
    return Parity(
        max_q_error=float(np.abs(q - trace.q).max()) / scale,
        max_hidden_error=float(np.abs(hidden - trace.hidden).max()),
        max_regret=float(regret.max()) / scale,
        mean_regret=float(regret.sum() / span.sum()) if regret.any() else 0.0,
        actions_equal=int((actions == trace.actions).sum()),
        choices=int((trace.avail_actions.sum(-1) > 1).sum()),
        n_steps=n_steps,
        n_agents=n_agents,
        noise=trace.noise_of(dtype),
        dtype=dtype,
    )


def q_scale(q: NDArray) -> float:
    """What errors in q [T,N,A] are relative to: its largest value, where that is above 1."""
    return max(1.0, float(np.abs(q).max()))
