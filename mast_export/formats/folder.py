"""Exports that are folders: written beside their place, put there whole, and recognised by their manifest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mast_export.errors import ExportError
from mast_runtime.bundle import errors_name, write_atomically

MANIFEST = "manifest.json"


@contextmanager
def replaced(path: Path, mark: str, what: str) -> Iterator[Path]:
    """A new empty folder that takes `path`'s place when the block ends without an error.

    An earlier export there, one whose manifest has `mark`, is replaced; anything else is kept.
    Raises ExportError, and OSError that names `path`.
    """
    if path.exists() and not _is_export(path, mark):
        raise ExportError(f"{path} exists and is not {what}; choose another destination")
    beside = {"dir": path.parent, "prefix": f".{path.name}.", "suffix": ".tmp"}
    with errors_name(path), tempfile.TemporaryDirectory(**beside) as temporary:
        fresh = Path(temporary, "new")
        fresh.mkdir()
        yield fresh
        if path.exists():
            os.replace(path, Path(temporary, "old"))
        os.replace(fresh, path)


def write_manifest(folder: Path, mark: str, agents: Sequence[dict[str, Any]], info: dict[str, Any]) -> None:
    """What the folder is, who is where in it, and where the policy comes from."""
    text = json.dumps({"format": mark, "agents": agents, "info": info}, indent=1) + "\n"
    write_atomically(folder / MANIFEST, text.encode())


def _is_export(path: Path, mark: str) -> bool:
    try:
        return json.loads((path / MANIFEST).read_bytes())["format"] == mark
    except (OSError, ValueError, KeyError, TypeError):
        return False
