"""What a stage of gpu.py finds, row by row, each kept on the disk: who ends a stage loses the row it was at."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
TRIES = 2
"""How often a row that fails is tried, over all calls: one that hangs or breaks the device would else stand before the
others for ever."""
BROKEN = 5
"""Exit status of a stage whose process can use its GPU no more."""


class Broken(RuntimeError):
    """After an illegal access, say, every later call of CUDA fails in this process."""


@dataclass(frozen=True)
class Options:
    """What a stage may do. device: "cuda" or "cpu"; tiny: the smallest sizes, to see that it works; seconds: about how
    long it may take (it is ended at `seconds`); jaxmarl: a checkout, for the stage that runs it."""

    device: str
    tiny: bool
    seconds: float
    jaxmarl: Path | None = None


class Rows:
    """Rows by name. One that is there already is not measured again, unless it failed and has tries left."""

    def __init__(self, path: Path, seconds: float) -> None:
        """path: a JSON file, of an earlier try or not there yet."""
        self._path, self._ends = path, time.monotonic() + seconds
        self.skipped, self._begun = 0, 0
        self.found: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def left_s(self) -> float:
        return self._ends - time.monotonic()

    def has(self, name: str) -> bool:
        row = self.found.get(name, {"error": "", "tries": 0})
        return row.get("tries", 1) >= TRIES if "error" in row else "unfinished" not in row

    def put(self, name: str, row: Row) -> None:
        """Keep a row, and say it."""
        self.keep(name, row)
        print(f"  {name}: {shown(row)}", flush=True)

    def keep(self, name: str, row: Row) -> None:
        self.found[name] = row
        write(self._path, self.found)

    def begin(self, name: str) -> int:
        """Say on the disk that a row is being measured; how often it failed before."""
        tries = self.found.get(name, {}).get("tries", 0)
        write(at(self._path), {"row": name, "tries": tries, "first": not self._begun})
        self._begun += 1
        return tries

    def measure(self, name: str, work: Callable[[], Row], needs_s: float = 0.0) -> None:
        """Make a row unless it is there, or less than `needs_s` is left; a failure is a row too."""
        if self.has(name):
            return
        if self.left_s < needs_s:
            self.skipped += 1
            return
        tries = self.begin(name)
        try:
            row = work()
        except Exception as error:
            traceback.print_exc(limit=-4)
            row = {"error": one_line(error), "tries": tries + 1}
        at(self._path).unlink()
        self.put(name, row)
        if "error" in row and broken():
            raise Broken(name)


def at(path: Path) -> Path:
    """Where rows in `path` say which is being measured."""
    return path.with_suffix(".at")


def write(path: Path, content: Row) -> None:
    written = path.with_suffix(".new")
    written.write_text(json.dumps(content))
    written.replace(path)


def ended_at(path: Path, status: str, whole: bool) -> bool:
    """Of a stage's process that ended so: whether it broke down at a row, which then has this as its error, or a row
    before broke its device. What was measured of the row until then stays.

    whole: the process was given its stage's whole time. Only the first row of such a one has failed by taking too long.
    """
    if at(path).exists():
        now, found = json.loads(at(path).read_text()), json.loads(path.read_text())
        at(path).unlink()
        cut = status == "timed out" and not (whole and now["first"])
        kept = {**found.get(now["row"], {}), "error": status, "tries": now["tries"] + (not cut)}
        write(path, {**found, now["row"]: kept})
        return status != "timed out"
    return status == f"exit {BROKEN}"


def broken() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:  # of several kinds
        return True
    return False


def shown(row: Row) -> str:
    """A row on one line, without what is long."""
    short = {name: value for name, value in row.items() if not isinstance(value, list | dict)}
    said = {name: f"{value:,.4g}" if isinstance(value, float) else value for name, value in short.items()}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
