"""Standard streams, with answers kept apart from what others print; commands to paste. No package is loaded."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_kept: TextIO | None = None


def stdout() -> TextIO:
    """Where answers go: standard output, also while `kept_stdout` holds it."""
    return _kept or sys.stdout


def pasted(*words: object) -> str:
    """A command for a person to paste into a shell, whatever is in its names and paths."""
    return shlex.join(map(str, words))


def open_streams() -> None:
    """Open /dev/null as each standard stream that the process was started without.

    Else the next file that is opened takes its number, and what anybody prints goes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            stream = open(os.open(os.devnull, os.O_RDWR), "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def kept_stdout() -> Iterator[None]:
    """Standard output is for answers: what else is printed meanwhile, by Python or below it, goes to standard error."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept, number = _answers()
    before, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
        _kept.flush()
    finally:
        sys.stdout, kept, _kept = before, _kept, None
        if number is not None:
            with suppress(OSError):
                kept.flush()
            os.dup2(kept.fileno(), number)
            with suppress(OSError):
                kept.close()


def _answers() -> tuple[TextIO, int | None]:
    """A stream for answers, and the file descriptor that it was taken from and standard error stands at; None: none."""
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
        target = sys.stderr.fileno()
    except (OSError, ValueError):  # a test's, or a notebook's
        return sys.stdout, None
    # A name may be no text at all: it is shown, whatever the encoding.
    kept = open(os.dup(number), "w", 1, sys.stdout.encoding, "backslashreplace")  # noqa: SIM115
    os.dup2(target, number)
    return kept, number
