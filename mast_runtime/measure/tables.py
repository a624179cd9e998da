"""How the command line's tables look: plain, and narrow enough for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def new_table(title: str, caption: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table: columns of text, then columns of numbers, which are aligned to the right."""
    table = Table(
        title=f"\n{title}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in texts:
        table.add_column(heading, vertical="bottom", overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", vertical="bottom", overflow="fold")
    return table
