"""What a person sees while a sweep runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mast_train.report.statistics import RETURN, WIN_RATE, measure_word
from mast_train.sweeps.sweep import Cell

PLAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Status:
    """Where a cell stands: its last logged step, what its last greedy evaluation measured, and steps per second.

    score: the win rate or, by `measure`, the return; None before the first evaluation.
    """

    step: int = 0
    score: float | None = None
    rate: float | None = None
    measure: str = WIN_RATE

    def words(self) -> str:
        """ "win rate 0.532", "return 3.20", or "-" before the first evaluation."""
        if self.score is None:
            return "-"
        return f"{measure_word(self.measure)} {self.score:{'.2f' if self.measure == RETURN else '.3f'}}"


@dataclass
class _Row:
    cell: Cell
    status: Status = Status()
    started: float = field(default_factory=time.monotonic)

    @property
    def left_s(self) -> float | None:
        left = max(0, self.cell.config.train.total_steps - self.status.step)
        return left / self.status.rate if self.status.rate else None


def duration(seconds: float | None) -> str:
    """90 -> "1.5 min"; None -> "-"."""
    if seconds is None:
        return "-"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if unit == 1 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86_400:.1f} days"


class SweepDisplay:
    """Every running cell with its step, its last evaluation, speed and time left; the sweep's counts below."""

    def __init__(self, console: Console, name: str, total: int, done: int, jobs: int) -> None:
        self._console, self._name, self._total, self._done, self._jobs = console, name, total, done, jobs
        self._failed, self._queue = 0, 0
        self._rows: dict[str, _Row] = {}
        self._queued_steps, self._spoke = 0, time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def started(self, cell: Cell, resumed: bool) -> None:
        """A cell was launched."""
        self._rows[cell.name] = _Row(cell)
        if self._live is None:
            self._console.print(f"{cell.name}: {'resumed' if resumed else 'started'}")

    def progress(self, cell: Cell, status: Status) -> None:
        """Where a running cell stands; what it does not say is as it was."""
        row = self._rows[cell.name]
        known = row.status if status.score is None else status
        row.status = replace(known, step=status.step, rate=status.rate or row.status.rate)

    def finished(self, cell: Cell, status: Status) -> None:
        """A cell trained to its end."""
        self._done += 1
        self.ended(cell, status.words())

    def ended(self, cell: Cell, word: str) -> None:
        """A cell ended; `word` says how."""
        row = self._rows.pop(cell.name)
        self._failed += word.startswith("FAILED")
        self.say(f"[{self._done}/{self._total}] {cell.name}: {word}, {duration(time.monotonic() - row.started)}")

    def split(self, cells: Sequence[Cell], parts: int, word: str) -> None:
        """The process of `cells` ended before they did, for the reason `word`; they go on in `parts` processes."""
        after = duration(max(time.monotonic() - self._rows.pop(cell.name).started for cell in cells))
        one = len(cells) == 1
        others = "" if one else f" and {len(cells) - 1} more"
        how = "it goes on alone" if one else f"its {'halves' if parts == 2 else f'{parts} parts'} go on"
        counts = f"[{self._done}/{self._total}]"
        self.say(f"{counts} the process of {cells[0].name}{others} ended after {after} with {word}; {how}")

    def remaining(self, queue: Sequence[Cell]) -> None:
        """Refresh; `queue`: what has not started."""
        self._queue, self._queued_steps = len(queue), sum(cell.config.train.total_steps for cell in queue)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif time.monotonic() - self._spoke > PLAIN_SECONDS:
            self.say("; ".join(self._line(row) for row in self._rows.values()))
            self.say(self._summary())

    def say(self, line: str) -> None:
        """One line that stays."""
        self._spoke = time.monotonic()
        self._console.print(Text(line))

    def _line(self, row: _Row) -> str:
        total = row.cell.config.train.total_steps
        return f"{row.cell.name} {row.status.step:,}/{total:,} {row.status.words()} ETA {duration(row.left_s)}"

    def _left_s(self) -> float | None:
        """A guess: what runs now at its own pace, the queue at the mean pace of what runs."""
        rates = [row.status.rate for row in self._rows.values() if row.status.rate]
        if not rates:
            return None
        running = [row.left_s or 0.0 for row in self._rows.values()]
        queued = self._queued_steps / (sum(rates) / len(rates))
        return max(max(running), (sum(running) + queued) / max(self._jobs, len(running)))

    def _summary(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return (
            f"{self._name}: {self._done} of {self._total} finished{failed}, {len(self._rows)} running, "
            f"{self._queue} waiting; about {duration(self._left_s())} left"
        )

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("cell", "step", "last evaluation", "steps/s", "ETA"):
            table.add_column(column, justify="left" if column == "cell" else "right", no_wrap=True)
        for row in self._rows.values():
            total = row.cell.config.train.total_steps
            table.add_row(
                row.cell.name,
                f"{row.status.step:,} ({row.status.step / total:.0%})",
                row.status.words(),
                f"{row.status.rate:,.0f}" if row.status.rate else "-",
                duration(row.left_s),
            )
        return Group(table, Text(self._summary()))

    def __enter__(self) -> SweepDisplay:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, value, trace)
