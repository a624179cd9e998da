"""What a person sees while a run trains, or several seeds do: live lines on a terminal, plain lines elsewhere.

Where an environment does not say what winning is, the return stands in the win rate's place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from mast_train.runs.events import Evaluation
from mast_train.runs.events import Progress as Round

PLAIN_SECONDS = 15.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "- steps/s")


class TrainingDisplay:
    """Steps, steps per second, win rate or return, epsilon and time remaining; a live line of 80 for each seed."""

    def __init__(self, console: Console, total: int, starts: Sequence[int], names: Sequence[str]) -> None:
        """total: steps of each run. starts: where they are; names: what tells them apart, shown of several."""
        self._console, self._total = console, total
        self._names = [f"{name} " for name in names] if len(names) > 1 else [""]
        self._steps = list(starts)
        self._measure, self._scores = "win rate", ["-"] * len(names)
        self._printed, self._printed_steps = time.monotonic(), sum(self._steps)
        self._live = Progress(
            TextColumn("{task.fields[run]}{task.completed:,}/{task.total:,}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            _Rate(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[score]} ε {task.fields[epsilon]:.2f} ETA",
                table_column=Column(no_wrap=True),
            ),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            expand=True,
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=20.0,
        )
        shown = {"total": total, "score": "win rate -", "epsilon": 1.0}
        self._tasks = [
            self._live.add_task("train", completed=step, run=name, **shown)
            for step, name in zip(starts, self._names, strict=True)
        ]

    def round(self, event: Round, run: int = 0) -> None:
        """After a round of episodes of the run of that number."""
        self._steps[run] = min(event.step, self._total)
        self._live.update(self._tasks[run], completed=self._steps[run], epsilon=event.epsilon)
        now, steps = time.monotonic(), sum(self._steps)
        if not self._console.is_terminal and now - self._printed > PLAIN_SECONDS:
            rate = (steps - self._printed_steps) / (now - self._printed)
            left = self._total * len(self._steps) - steps
            done = f"{event.step:,}/{self._total:,} steps"
            if len(self._steps) > 1:
                done = f"{min(self._steps):,} to {max(self._steps):,} of {self._total:,} steps of every run"
            self._console.print(
                f"{done}, {rate:,.0f} steps/s, {self._measure} {' '.join(self._scores)}, "
                f"epsilon {event.epsilon:.2f}, ETA {left / max(rate, 1e-9):,.0f} s"
            )
            self._printed, self._printed_steps = now, steps

    def evaluation(self, event: Evaluation, run: int = 0) -> None:
        """After greedy episodes of the run of that number."""
        rate = event.win_rate
        self._measure, score = ("return", event.return_mean) if rate is None else ("win rate", rate)
        self._scores[run] = f"{score:.2f}"
        self._live.update(self._tasks[run], score=f"{self._measure} {self._scores[run]}")
        won = "" if rate is None else f"win rate {rate:.3f}, "
        self._live.console.print(
            f"  {self._names[run]}step {event.step:>9,}: {won}return {event.return_mean:.2f}, "
            f"length {event.length_mean:.1f} over {event.episodes} greedy episodes"
        )

    def say(self, line: str) -> None:
        """A line of its own; nothing for ""."""
        if line:
            self._live.console.print(line, soft_wrap=True)

    def __enter__(self) -> TrainingDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)
