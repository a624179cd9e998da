"""The one way of printing to a person."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console

from mast_runtime.streams import open_streams, stdout


class _Stdout:
    """`stdout` at the time of use, for who keeps a file."""

    def __getattr__(self, name: str) -> Any:
        return getattr(stdout(), name)


def new_console(**options: Any) -> Console:
    """A console that prints text as it is: brackets and colons in names and paths are no markup.

    Cells and captions of tables are as literal; looks are asked for with `style`. Off a terminal no line is broken.
    Without rich it is a PlainConsole. options: of rich.console.Console.
    """
    open_streams()
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        from mast_runtime.plain_text import PlainConsole

        return cast("Console", PlainConsole())
    options.setdefault("soft_wrap", not stdout().isatty())
    options.setdefault("file", _Stdout())
    return Console(markup=False, emoji=False, highlight=False, **options)


class _Later:
    """A console that is made at its first use: a command that prints no table does not wait for rich."""

    @cached_property
    def _console(self) -> Console:
        return new_console()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)

    def __enter__(self) -> Console:
        return self._console.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._console.__exit__(*raised)


def later_console() -> Console:
    """A new console, imported and made when it is first used."""
    return cast("Console", _Later())
