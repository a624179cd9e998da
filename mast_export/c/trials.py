"""What a policy in C is tried on: a recorded episode for the host, a few steps of it for the target's self-test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mast_export.c import bounded_trials, test_text
from mast_export.c.matrices import Table, initialiser
from mast_export.fixed import Fixed
from mast_export.verify import Trace
from mast_runtime import Contract, Network
from mast_runtime.backends.reference import ReferenceStep
from mast_runtime.inner import inner_contract, inner_network
from mast_runtime.network import NO_LAYER

SELFTEST_STEPS = 8


@dataclass(frozen=True)
class Trials:
    """The text of the recorded episode's header, and what replaces the tests' @NAMES@."""

    header: str
    words: dict[str, str]


def float_trials(contract: Contract, network: Network, trace: Trace, tolerance: float) -> Trials:
    """Beside the numpy reference on the same weights; q within `tolerance` of its largest where that is above 1.

    Continuous actions are within `tolerance` of that scale and of half of their range, and the rounding of their units;
    those that are searched for within TOLERANCE of their range.
    """
    step = ReferenceStep(inner_contract(contract), inner_network(contract, network))

    def decide(obs: NDArray, last: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        if contract.head and contract.last_action:
            obs, last = np.concatenate([obs, last], 1), np.full(1, -1)
        return step(obs, last, np.zeros(1, np.int64), hidden)

    memory = np.zeros((1, network.hidden), np.float32)
    q, hidden = _play(decide, trace.obs, trace.last_actions, memory)
    near = max(1.0, float(np.abs(q).max())) * tolerance
    first = trace.obs[:SELFTEST_STEPS, 0].astype(np.float64)
    exponent = int(14 - np.ceil(np.log2(max(1e-30, float(np.abs(first).max())))))
    obs = np.rint(np.ldexp(first, exponent)).astype(np.int64)
    short = np.ldexp(obs, -exponent).astype(np.float32)
    words = {
        "BEFORE_ACT": "",
        "AFTER_ACT": "",
        "SELFTEST_ACT": test_text.SELFTEST_FLOAT,
        "SELFTEST_SCALE": f"{2.0**-exponent!r}f",
    }
    end = hidden[-1] if network.weight_hh is not NO_LAYER else None
    if contract.head is None:
        rows = _chosen(trace, q)
        words |= _selftest_words(obs, _selftest(decide, short, memory), "float", f"{near:.3e}f")
    else:
        actor = bounded_trials.Actor(contract.head, network, near)
        rows = actor.rows(trace, q)
        words |= actor.selftest_words(decide, obs, short, memory)
    return Trials(_header(trace, q, end, (near, tolerance), rows), words)


def fixed_trials(fixed: Fixed, trace: Trace) -> Trials:
    """Beside the integers themselves: nothing may differ."""
    memory = np.zeros((1, fixed.hidden), np.int64)
    q, hidden = _play(fixed.step, trace.obs, trace.last_actions, memory)
    obs, first = fixed.observation(trace.obs[:, 0]).astype(np.int64), trace.obs[:SELFTEST_STEPS, 0]
    if fixed.head is None:
        rows = _chosen(trace, q)
        words = _selftest_words(obs[:SELFTEST_STEPS], _selftest(fixed.step, first, memory), "int32_t", "0")
    else:
        rows = bounded_trials.fixed_rows(fixed, trace)
        words = bounded_trials.fixed_selftest_words(fixed, obs[:SELFTEST_STEPS], first, memory)
    rows |= {"int16_t @prefix@_trace_obs_i16[][@PREFIX@_OBS]": obs}
    return Trials(_header(trace, q, hidden[-1] if fixed.recurrent else None, (0.0, 0.0), rows), words)


def _play(step, obs: NDArray, last_actions: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
    """obs [T,1,O], after the given last actions [T,1] -> q [T,A], hidden [T,H]."""
    found = []
    for row, last in zip(obs, last_actions, strict=True):
        q, hidden = step(row, last, hidden)
        found.append((q[0], hidden[0]))
    q, hidden = (np.array(part) for part in zip(*found, strict=True))
    return q, hidden


def _selftest(step, obs: NDArray, hidden: NDArray) -> NDArray:
    """obs [T,O] -> q [T,A] after its own last actions, all of them available."""
    last, found = np.full(1, -1), []
    for row in obs[:, None]:
        q, hidden = step(row, last, hidden)
        last = q.argmax(1)
        found.append(q[0])
    return np.array(found)


def _selftest_words(obs: NDArray, q: NDArray, q_type: str, tolerance: str) -> dict[str, str]:
    actions = q.argmax(1)
    best = np.take_along_axis(q, actions[:, None], 1)[:, 0]
    count = "uint8_t" if q.shape[1] <= 256 else "uint16_t"
    tables = [Table(count, "actions", actions), Table(q_type, "q", best)]
    rows = f"static const int16_t obs[STEPS][@PREFIX@_OBS] = {initialiser(obs)};\n"
    return {
        "SELFTEST_STEPS": str(len(obs)),
        "SELFTEST_TABLES": rows + "".join(table.text() for table in tables),
        "SELFTEST_TOLERANCE": tolerance,
    }


def _chosen(trace: Trace, q: NDArray) -> dict[str, NDArray]:
    """What the host's test knows of actions that are chosen, after the trace's last actions."""
    return {
        "uint8_t @prefix@_trace_avail[][@PREFIX@_ACTIONS]": trace.avail_actions[:, 0].astype(np.uint8),
        "int @prefix@_trace_last_action[]": trace.last_actions[:, 0],
        "int @prefix@_trace_action[]": np.where(trace.avail_actions[:, 0], q, -np.inf).argmax(1),
    }


def _header(
    trace: Trace, q: NDArray, hidden: NDArray | None, tolerances: tuple[float, float], more: dict[str, NDArray]
) -> str:
    """The trace's observations, what is computed of them after its last actions; hidden is that of the end."""
    memory = {} if hidden is None else {"@HIDDEN_TYPE@ @prefix@_trace_hidden[]": hidden}
    rows = {
        "float @prefix@_trace_obs[][@PREFIX@_OBS]": trace.obs[:, 0],
        "@Q_TYPE@ @prefix@_trace_q[][@Q_COUNT@]": q,
        **memory,
        **more,
    }
    names = ("Q", "HIDDEN")[: 1 + len(memory)]
    lines = ["/* A recorded episode, and the actions and values of the runtime; hidden is that of the end. */"]
    lines += [f"#define @PREFIX@_TRACE_STEPS {len(trace.obs)}"]
    lines += [f"#define @PREFIX@_TRACE_{name}_TOLERANCE {x:.3e}" for name, x in zip(names, tolerances, strict=False)]
    lines += [f"static const {declaration} = {initialiser(values)};" for declaration, values in rows.items()]
    return "\n".join(lines) + "\n"
