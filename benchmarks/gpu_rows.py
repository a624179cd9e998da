"""What a stage of gpu.py finds, row by row, each kept on the disk: who ends a stage loses the row it was at."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What a stage may do. device: "cuda" or "cpu"; tiny: the smallest sizes, to see that it works; seconds: about how
    long it may take (it is ended at `seconds`); jaxmarl: a checkout, for the stage that runs it."""

    device: str
    tiny: bool
    seconds: float
    jaxmarl: Path | None = None


class Rows:
    """Rows by name. One that is there already and has no error is not measured again."""

    def __init__(self, path: Path, seconds: float) -> None:
        """path: a JSON file, of an earlier try or not there yet."""
        self._path, self._ends = path, time.monotonic() + seconds
        self.skipped = 0
        self.found: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def left_s(self) -> float:
        return self._ends - time.monotonic()

    def has(self, name: str) -> bool:
        return name in self.found and not {"error", "unfinished"} & self.found[name].keys()

    def put(self, name: str, row: Row) -> None:
        """Keep a row, and say it."""
        self.keep(name, row)
        print(f"  {name}: {shown(row)}", flush=True)

    def keep(self, name: str, row: Row) -> None:
        self.found[name] = row
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps(self.found))
        written.replace(self._path)

    def measure(self, name: str, work: Callable[[], Row], needs_s: float = 0.0) -> None:
        """Make a row unless it is there, or less than `needs_s` is left; a failure is a row too."""
        if self.has(name):
            return
        if self.left_s < needs_s:
            self.skipped += 1
            return
        try:
            row = work()
        except Exception as error:
            traceback.print_exc(limit=-4)
            row = {"error": one_line(error)}
        self.put(name, row)


def shown(row: Row) -> str:
    """A row on one line, without what is long."""
    short = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
    said = {name: f"{value:,.4g}" if isinstance(value, float) else value for name, value in short.items()}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
