"""What an export format is, what it is given, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mast_export.compact import Removed
from mast_export.verify import Parity, Trace
from mast_runtime import Bundle
from mast_runtime.format import VALUE_DTYPES


@dataclass(frozen=True)
class Request:
    """A team's float32 policies, what the trainer's networks made of recorded observations, and what to write where.

    agent: position in the bundle of the only one to write, None: all. dtype: of the weights, one of Format.dtypes.
    prefix: what the names in the written source begin with, "": the format's own. ranges: the source can count inputs
    out of range.
    """

    bundle: Bundle
    trace: Trace
    path: Path
    agent: int | None = None
    dtype: str = "f32"
    prefix: str = ""
    ranges: bool = False


@dataclass(frozen=True)
class Exported:
    """One written file or folder, and how far it is from the trainer's network.

    agent: position in the bundle, None: the whole team. size_bytes: counted in `unit`. report: None where it was not
    verified, of which `unverified` says why. removed: what compaction took from its networks. built: the program that
    was compiled of it for another machine.
    """

    path: Path
    size_bytes: int
    report: Parity | None
    agent: int | None = None
    unit: str = "bytes"
    unverified: str = ""
    removed: list[Removed] = field(default_factory=list)
    built: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; "passed" is None for what was not verified."""
        found = {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "removed": [vars(part) for part in self.removed],
        }
        return found | (self.report.to_dict() if self.report else {"passed": None})

    def lines(self) -> list[str]:
        """For a person: the file and its check, what was removed, what was built."""
        checked = self.report.sentence() if self.report else f"not verified: {self.unverified}"
        lines = [f"{self.path}: {self.size_bytes:,} {self.unit}; {checked}", *(f"  {part}" for part in self.removed)]
        return lines + ([f"built {self.built}"] if self.built else [])


@dataclass(frozen=True)
class Format:
    """One value of --format.

    write: verifies every file before it counts; raises ExportError, OSError. suffixes: of the name of a whole team's
    file or folder, and of one agent's. dtypes: the types of weights it stores. build(path, target): compile the
    export's test for another machine, None where there is none. prefixed: it writes source, whose names have a prefix.
    check(bundle, dtype): raises ExportError for a team that it cannot write in that type, before any work.
    """

    description: str
    write: Callable[[Request], list[Exported]]
    suffixes: tuple[str, str]
    dtypes: tuple[str, ...] = tuple(VALUE_DTYPES)
    build: Callable[[Path, str], Path] | None = None
    prefixed: bool = False
    check: Callable[[Bundle, str], None] | None = None

    def file_name(self, agent: int | None, dtype: str) -> str:
        """The default destination, in the run's folder."""
        one = "" if agent is None else f"-agent{agent}"
        kind = "" if dtype == "f32" else f"-{dtype}"
        return f"policy{one}{kind}{self.suffixes[agent is not None]}"
