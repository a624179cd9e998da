"""What a person sees while a run trains: one live line on a terminal, plain lines elsewhere.

Where an environment does not say what winning is, the return stands in the win rate's place.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from mast_train.events import Evaluation
from mast_train.events import Progress as Round

PLAIN_SECONDS = 15.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "- steps/s")


class TrainingDisplay:
    """Steps, steps per second, win rate or return, epsilon, sparsity and time remaining."""

    def __init__(self, console: Console, total: int, start: int, sparsity: dict[str, float]) -> None:
        self._console, self._total = console, total
        self._sparsity = f"sparsity {sparsity['agents']:.1%}" if sparsity["agents"] else "dense"
        self._score = "win rate -"
        self._printed, self._printed_step = time.monotonic(), start
        self._live = Progress(
            TextColumn("{task.completed:,}/{task.total:,}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6)),
            _Rate(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[score]} epsilon {task.fields[epsilon]:.2f} {task.fields[sparsity]} ETA",
                table_column=Column(no_wrap=True),
            ),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            expand=True,
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=20.0,
        )
        self._task = self._live.add_task(
            "train", total=total, completed=start, score=self._score, epsilon=1.0, sparsity=self._sparsity
        )

    def round(self, event: Round) -> None:
        """After a round of episodes."""
        self._live.update(self._task, completed=min(event.step, self._total), epsilon=event.epsilon)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._printed > PLAIN_SECONDS:
            rate = (event.step - self._printed_step) / (now - self._printed)
            self._console.print(
                f"{event.step:,}/{self._total:,} steps, {rate:,.0f} steps/s, {self._score}, "
                f"epsilon {event.epsilon:.2f}, ETA {max(0.0, self._total - event.step) / max(rate, 1e-9):,.0f} s"
            )
            self._printed, self._printed_step = now, event.step

    def evaluation(self, event: Evaluation) -> None:
        """After greedy episodes."""
        rate = event.win_rate
        self._score = f"return {event.return_mean:.2f}" if rate is None else f"win rate {rate:.2f}"
        self._live.update(self._task, score=self._score)
        won = "" if rate is None else f"win rate {rate:.3f}, "
        self._live.console.print(
            f"  step {event.step:>9,}: {won}return {event.return_mean:.2f}, length {event.length_mean:.1f} "
            f"over {event.episodes} greedy episodes"
        )

    def __enter__(self) -> TrainingDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)
