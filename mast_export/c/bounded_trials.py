"""What a policy in C is tried on where its actions are continuous (see trials)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mast_export.bounded import in_units, limited
from mast_export.c.matrices import initialiser
from mast_export.fixed import MEMORY, Fixed, whole
from mast_export.observed import UNSTEADY
from mast_export.verify import Trace
from mast_runtime import Network
from mast_runtime.head import TOLERANCE, Head
from mast_runtime.search import Searcher, Values

Decide = Callable[[NDArray, NDArray, NDArray], tuple[NDArray, NDArray]]
"""obs [1,O], last action [1,A] in [-1, 1], hidden [1,H] -> q [1,A] and the next hidden."""


class Actor:
    """What one agent makes of its network's outputs: tanh of them, or what it searches for from them."""

    def __init__(self, head: Head, network: Network, near: float) -> None:
        """near: how well the outputs are known."""
        self._head, self._near = head, near
        self._search = None
        if head.search is not None:
            self._search = Searcher(head.search, Values.of([network]), np.ones((1, len(head.low[0])), bool))

    def _found(self, q: NDArray) -> tuple[NDArray[np.float32], dict[str, NDArray]]:
        """Actions [T,A] in [-1, 1] of q [T,A] or [T,W]; of a search a table that says where rounding leaves it."""
        if self._search is None:
            return np.tanh(q), {}
        rows = q[:, None]
        steady = [self._search.steady(row, UNSTEADY, TOLERANCE / 2) for row in rows]
        actions = np.array([self._search(row)[0] for row in rows], np.float32)
        return actions, {"uint8_t @STEADY@[]": np.array(steady, np.uint8)}

    def _tolerance(self) -> NDArray[np.float32]:
        """Of each component."""
        return _tolerance(self._head, self._near if self._search is None else 2.0 * TOLERANCE)

    def rows(self, trace: Trace, q: NDArray) -> dict[str, NDArray]:
        """Tables of the host's test: the actions of one agent's outputs q [T,...] after the last actions."""
        last = trace.last_actions[:, 0]
        actions, more = self._found(q)
        actions = limited(self._head, actions, last)
        return {
            "float @prefix@_trace_last_action[][@PREFIX@_ACTIONS]": last,
            "float @prefix@_trace_action[][@PREFIX@_ACTIONS]": in_units(self._head, [0], actions[:, None])[:, 0],
            "float @prefix@_trace_tolerance[]": self._tolerance(),
            **{name.replace("@STEADY@", "@prefix@_trace_steady"): table for name, table in more.items()},
        }

    def selftest_words(
        self, decide: Decide, obs: NDArray[np.int64], real: NDArray[np.float32], hidden: NDArray
    ) -> dict[str, str]:
        """What replaces the self-test's @NAMES@: obs [T,O], which stand for `real`, and its own decisions on them."""
        last, found = np.zeros((1, len(self._head.low[0])), np.float32), []
        for row in real[:, None]:
            q, hidden = decide(row, last, hidden)
            action, more = self._found(q)
            last = limited(self._head, action, last)
            found.append((q[0], in_units(self._head, [0], last)[0], *(table[0] for table in more.values())))
        q, actions, *steady = (np.array(part) for part in zip(*found, strict=True))
        tables = {
            "int16_t obs[STEPS][@PREFIX@_OBS]": obs,
            "float q[STEPS][@Q_COUNT@]": q,
            "float actions[STEPS][@PREFIX@_ACTIONS]": actions,
            "float action_tolerance[]": self._tolerance(),
            **({"uint8_t steady[STEPS]": steady[0]} if steady else {}),
        }
        return _selftest_tables(tables, f"{self._near:.3e}f")


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
