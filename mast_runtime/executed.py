"""The action that was executed in place of the policy's, as its next decision's last action."""

from __future__ import annotations

from array import array
from operator import index
from typing import Any

from mast_runtime.errors import ObservationError
from mast_runtime.given import items


def checked_action(action: Any, last_action: int, n_actions: int, who: str = "") -> int:
    """An action 0 to n_actions - 1 after a decision (last_action: -1 for none). Raises ObservationError."""
    try:
        number = -1 if isinstance(action, bool) else index(action)
    except TypeError:
        number = -1
    if not 0 <= number < n_actions:
        raise ObservationError(
            f"executed action {action!r:.40}{who}: expected a whole number from 0 to {n_actions - 1}"
        )
    if last_action < 0:
        raise ObservationError(
            f"executed action {number}{who}: there was no decision yet in this episode; call act first"
        )
    return number


def checked_actions(actions: Any, last_action: array[int], n_actions: int) -> array[int]:
    """Executed actions [n] after decisions `last_action` [n], both int64. Raises ObservationError."""
    try:
        shape, given = items(actions)
    except ValueError as error:
        raise ObservationError(f"executed actions are not an array of whole numbers ({error})") from error
    if shape != [len(last_action)]:
        raise ObservationError(f"executed actions have shape {shape}, expected {[len(last_action)]}")
    rows = enumerate(zip(given, last_action, strict=True))
    return array("q", [checked_action(one, last, n_actions, f" of agent {i}") for i, (one, last) in rows])
