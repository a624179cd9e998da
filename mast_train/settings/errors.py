"""Errors a user can fix, and the words that help."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake the user can fix. The message is one line: what was given, what was expected, what to do."""


def suggest(given: str, choices: Iterable[str], likeness: float = 0.6) -> str:
    """The nearest choice as a question, or every choice when none is as near as `likeness` (0 to 1: equal)."""
    names = list(choices)
    near = get_close_matches(given, names, n=1, cutoff=likeness)
    return f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(names)}"


def reason(error: Exception) -> str:
    """Why a file could not be read, in words: the system's for its errors, without number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def check_choice(kind: str, given: str, choices: Iterable[str]) -> None:
    """Raise UserError unless `given` is one of `choices`; `kind` names the thing ("map", "environment")."""
    names = list(choices)
    if given not in names:
        raise UserError(f"unknown {kind} {given!r}: {suggest(given, names)}")
