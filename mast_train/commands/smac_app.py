"""The group `mast smac` of the command line. Loads nothing heavy before a command of it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from mast_runtime import shell
from mast_runtime.shell import typer


def smac_app(user_errors: Callable[[], Sequence[type[Exception]]]) -> typer.Typer:
    """The group; user_errors: see shell.guarded."""
    app = typer.Typer(rich_markup_mode=None)
    app.callback()(_group)
    app.command(name="install")(shell.guarded(_install, "smac install", user_errors))
    return app


def _group() -> None:
    """The real game: a Python of its own for SMAC."""


def _install(
    folder: Annotated[Path | None, typer.Option(help="Where to (default: ~/.local/share/mast/smac).")] = None,
    python: Annotated[str | None, typer.Option(help="Python to make it of, 3.8 or later (default: 3.10 down).")] = None,
    source: Annotated[str | None, typer.Option(help="SMAC's source: folder, zip or URL (default: GitHub).")] = None,
) -> None:
    """Make a Python of its own for SMAC, with PySC2 and what they need; copy SMAC's maps to the game."""
    from mast_train.commands.smac import install

    install(folder, python, source, lambda line: shell.console.print(line, soft_wrap=True))
