"""The one way of printing to a person."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from mast_runtime.streams import open_streams, stdout


class _Stdout:
    """`stdout` at the time of use, for who keeps a file."""

    def __getattr__(self, name: str) -> Any:
        return getattr(stdout(), name)


def new_console(**options: Any) -> Console:
    """A console that prints text as it is: brackets and colons in names and paths are no markup.

    Cells and captions of tables are as literal; looks are asked for with `style`. Off a terminal no line is broken.
    options: of rich.console.Console.
    """
    open_streams()
    options.setdefault("soft_wrap", not sys.stdout.isatty())
    options.setdefault("file", _Stdout())
    return Console(markup=False, emoji=False, highlight=False, **options)
