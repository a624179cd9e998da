"""Cells of a sweep in a process of their own: `main` with the arguments FOLDER NAME..."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mast_runtime import shell
from mast_runtime.shell import typer
from mast_train.settings.errors import UserError


def main() -> None:
    """Train each FOLDER/NAME.toml into FOLDER/NAME, together. User mistakes end in one line and exit code 2."""
    try:
        shell.guarded(train, "train", lambda: (UserError,))(Path(sys.argv[1]), sys.argv[2:])
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None


def train(folder: Path, names: Sequence[str]) -> None:
    """From their checkpoints where there are some: all of them have one, or none. Raises UserError."""
    from mast_train.commands import session
    from mast_train.settings.config import load_toml

    if (folder / names[0] / "checkpoint.safetensors").is_file():
        session.resume([folder / name for name in names], shell.console)
    else:
        session.begin([load_toml(folder / f"{name}.toml") for name in names], names, folder, shell.console)
