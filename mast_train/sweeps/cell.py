"""One cell of a sweep in a process of its own: `main` with the arguments NAME FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from mast_runtime import shell
from mast_train.settings.errors import UserError


def main() -> None:
    """Train FOLDER/NAME.toml into FOLDER/NAME. User mistakes end in one line and exit code 2."""
    try:
        shell.guarded(train, "train", lambda: (UserError,))(sys.argv[1], Path(sys.argv[2]))
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None


def train(name: str, folder: Path) -> None:
    """From its checkpoint where there is one. Raises UserError."""
    from mast_train.commands import session
    from mast_train.settings.config import load_toml
    from mast_train.settings.limits import validate

    if (folder / name / "checkpoint.safetensors").is_file():
        session.resume(folder / name, shell.console)
    else:
        session.start(validate(load_toml(folder / f"{name}.toml")), folder, name, shell.console)
