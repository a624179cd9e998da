"""The action that was executed in place of the policy's, as its next decision's last action."""

from __future__ import annotations

from operator import index
from typing import Any

from mast_runtime.errors import ObservationError


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
