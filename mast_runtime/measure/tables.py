"""How the command line's tables look: plain, and narrow enough for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.table import Table


def new_table(title: str, caption: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table: columns of text, then columns of numbers, which are aligned to the right."""
    table = _titled(f"\n{title}", caption)
    for heading in texts:
        table.add_column(heading, vertical="bottom", overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", vertical="bottom", overflow="fold")
    return table


def bare_table() -> Table:
    """An empty table without a title or rules."""
    try:
        from rich.table import Table
    except ModuleNotFoundError:
        return _plain()
    return Table(box=None)


def _titled(title: str, caption: str) -> Table:
    try:
        from rich import box
        from rich.table import Table
    except ModuleNotFoundError:
        return _plain(title, caption)
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def _plain(title: str = "", caption: str = "") -> Table:
    from mast_runtime.plain_text import PlainTable

    return cast("Table", PlainTable(title, caption))
