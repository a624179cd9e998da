"""Files that are written while training goes on."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

WAITING = 512
"""Writes that may wait for the disk: with more, whoever adds one waits too."""


class Files:
    """One thread that writes, in order: many small files wait for the disk longer than their contents take to make.

    What a write raises is raised by a later call.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "mast-files")
        self._waiting: deque[Future[None]] = deque()

    def add(self, write: Callable[[], None]) -> None:
        """Write after what was added before. What is written must not change any more."""
        self._waiting.append(self._thread.submit(write))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > WAITING):
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Until all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """`wait`, raising nothing: what a write raised goes to stderr. Nothing can be added any more."""
        self._thread.shutdown()
        for write in self._waiting:
            if (error := write.exception()) is not None:
                print(f"error: {error}", file=sys.stderr)
        self._waiting.clear()
