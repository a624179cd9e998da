"""The request log: a line of JSON for each inference request."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from mast_runtime.errors import ServeError


@dataclass
class Handled:
    """One inference request as it is counted and logged. error: what its sender was told."""

    model: str = "unknown"
    outcome: str = "internal_error"
    sequence: int | str | None = None
    request_id: str | None = None
    action: int | list[float] | None = None
    decision_s: float = 0.0
    error: str = ""
    start_s: float = field(default_factory=time.perf_counter)


class RequestLog:
    """Lines appended to a file, or to standard error for "-"; None: nowhere.

    A line that cannot be written, because the disk is full, is counted in `lost`: no request fails by it.
    """

    def __init__(self, path: str | None) -> None:
        self.lost = 0
        self._path = path
        self._file: TextIO | None = None
        try:
            self._open()
        except OSError as error:
            raise ServeError(f"cannot write the request log {path}: {error.strerror or error}") from error

    def _open(self) -> None:
        if self._path is not None:
            self._file = sys.stderr if self._path == "-" else open(self._path, "a", encoding="utf-8")  # noqa: SIM115

    def reopen(self) -> None:
        """Go on in a new file where the old one was renamed. Raises OSError, and goes on in the old one then."""
        old = self._file
        self._open()
        if old is not None and old is not sys.stderr:
            old.close()

    def write(self, handled: Handled, request_s: float, late: bool) -> None:
        """One request. Times are rounded to a tenth of a microsecond; the time of day is UTC."""
        if self._file is None:
            return
        now = time.time()
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "model": handled.model,
            "sequence": handled.sequence,
            "outcome": handled.outcome,
            "action": handled.action,
            "decision_us": round(handled.decision_s * 1e6, 1),
            "request_us": round(request_s * 1e6, 1),
            "late": late,
        }
        line |= {"id": handled.request_id} if handled.request_id is not None else {}
        line |= {"error": handled.error} if handled.error else {}
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self.lost += 1
