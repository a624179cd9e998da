"""What a policy in C is tried on where its actions are continuous (see trials)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mast_export.bounded import in_units, limited
from mast_export.c.matrices import initialiser
from mast_export.fixed import MEMORY, Fixed, whole
from mast_export.verify import Trace
from mast_runtime.head import Head

Decide = Callable[[NDArray, NDArray, NDArray], tuple[NDArray, NDArray]]
"""obs [1,O], last action [1,A] in [-1, 1], hidden [1,H] -> q [1,A] and the next hidden."""


def rows(head: Head, trace: Trace, q: NDArray, near: float) -> dict[str, NDArray]:
    """Tables of the host's test: the actions of one agent's q [T,A], known to `near`, after the last actions."""
    last = trace.last_actions[:, 0]
    actions = limited(head, np.tanh(q), last)
    return {
        "float @prefix@_trace_last_action[][@PREFIX@_ACTIONS]": last,
        "float @prefix@_trace_action[][@PREFIX@_ACTIONS]": in_units(head, [0], actions[:, None])[:, 0],
        "float @prefix@_trace_tolerance[]": _tolerance(head, near),
    }


def selftest_words(
    head: Head, decide: Decide, obs: NDArray[np.int64], real: NDArray[np.float32], hidden: NDArray, near: float
) -> dict[str, str]:
    """What replaces the self-test's @NAMES@: obs [T,O], which stand for `real`, and its own decisions on them."""
    last, found = np.zeros((1, len(head.low[0])), np.float32), []
    for row in real[:, None]:
        q, hidden = decide(row, last, hidden)
        last = limited(head, np.tanh(q), last)
        found.append((q[0], in_units(head, [0], last)[0]))
    q, actions = (np.array(part) for part in zip(*found, strict=True))
    tables = {
        "int16_t obs[STEPS][@PREFIX@_OBS]": obs,
        "float q[STEPS][@PREFIX@_ACTIONS]": q,
        "float actions[STEPS][@PREFIX@_ACTIONS]": actions,
        "float action_tolerance[]": _tolerance(head, near),
    }
    return _selftest_tables(tables, f"{near:.3e}f")


def fixed_rows(fixed: Fixed, trace: Trace) -> dict[str, NDArray]:
    """Tables of the host's test of a policy in fixed point."""
    assert fixed.head is not None
    return {
        "int16_t @prefix@_trace_last_action[][@PREFIX@_ACTIONS]": whole(trace.last_actions[:, 0]).astype(np.int64),
        "float @prefix@_trace_action[][@PREFIX@_ACTIONS]": fixed.in_units(fixed.play(trace)[0]),
        "float @prefix@_trace_tolerance[]": _tolerance(fixed.head, 0.0),
    }


def fixed_selftest_words(
    fixed: Fixed, obs: NDArray[np.int64], real: NDArray[np.float32], hidden: NDArray
) -> dict[str, str]:
    """What replaces the self-test's @NAMES@: obs [T,O], which stand for `real`, and its own decisions on them."""
    last, found = np.zeros((1, len(fixed.fc2.weights))), []
    for row in real[:, None]:
        q, hidden = fixed.step(row, last, hidden)
        action = fixed.squash(q, last)
        found.append((q[0], action[0]))
        last = action / MEMORY
    q, actions = (np.array(part) for part in zip(*found, strict=True))
    tables = {
        "int16_t obs[STEPS][@PREFIX@_OBS]": obs,
        "int32_t q[STEPS][@PREFIX@_ACTIONS]": q,
        "int16_t actions[STEPS][@PREFIX@_ACTIONS]": actions,
    }
    return _selftest_tables(tables, "0")


def _selftest_tables(tables: dict[str, NDArray], tolerance: str) -> dict[str, str]:
    (steps, *_), *_ = (x.shape for x in tables.values())
    return {
        "SELFTEST_STEPS": str(steps),
        "SELFTEST_TABLES": "".join(f"static const {name} = {initialiser(x)};\n" for name, x in tables.items()),
        "SELFTEST_TOLERANCE": tolerance,
    }


def _tolerance(head: Head, near: float) -> NDArray[np.float32]:
    """Of each component, what q within `near` may change, and the rounding of its units."""
    low, high = (np.array(side[0]) for side in (head.low, head.high))
    rounding = 4.0 * np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32))
    return (0.5 * near * (high - low) + rounding).astype(np.float32)
