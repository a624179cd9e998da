"""What is printed where rich is not installed: lines as they are, and tables in columns of text."""

from __future__ import annotations

from typing import Any

from mast_runtime.streams import stdout


class PlainTable:
    """As much of rich.table.Table as the commands of a robot use."""

    def __init__(self, title: str = "", caption: str = "", **looks: Any) -> None:
        self._title, self._caption = title, caption
        self._right: list[bool] = []
        self._rows: list[list[str]] = [[]]

    def add_column(self, heading: str, justify: str = "left", **looks: Any) -> None:
        """A column; right or left."""
        self._rows[0].append(heading)
        self._right.append(justify == "right")

    def add_row(self, *cells: str) -> None:
        """A row of as many cells as there are columns."""
        self._rows.append(list(cells))

    def add_section(self) -> None:
        """An empty line."""
        self._rows.append([""] * len(self._right))

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self._right, strict=True)
            ).rstrip()
            for row in self._rows
        ]
        return "\n".join([self._title] * bool(self._title) + lines + [self._caption] * bool(self._caption))


class PlainConsole:
    """As much of rich.console.Console."""

    def print(self, *shown: Any, **looks: Any) -> None:
        """A line of these."""
        print(*shown, file=stdout())
