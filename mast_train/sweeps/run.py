"""Running a sweep: which cells are done, the processes that train the others, and what a person sees meanwhile.

RUNS/NAME/sweep.json   what each cell is, and the learning rate that each tuned row took
RUNS/NAME/CELL.toml    the cell's settings; `mast train --config` on it repeats the run
RUNS/NAME/CELL.log     what the cell printed; of cells in one process, the first one's has it all
RUNS/NAME/CELL/        the run folder, as any other (mast_train.runs.folders)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from mast_runtime.bundle import write_atomically
from mast_runtime.streams import pasted
from mast_train.runs.folders import locked
from mast_train.settings.config import override, to_toml
from mast_train.sweeps.display import Status, SweepDisplay
from mast_train.sweeps.state import cell_state, choose_rates, chosen, planned_cells, run_status
from mast_train.sweeps.sweep import Cell, Sweep, final_cells, rate_source, tuning_cells
from mast_train.sweeps.width import Width

POLL_SECONDS = 0.5
LOG_LINES = 8


class Worker(Protocol):
    """Cells in training, in one process."""

    def poll(self) -> tuple[list[Status], int | None]:
        """The status of each, and the exit code once all have ended and their files are in place."""
        ...

    def stop(self, now: bool = False) -> None:
        """Ask them to save and end; `now`: end them without saving."""
        ...


Launch = Callable[[Sequence[Cell], Path], Worker]


class LocalWorker:
    """Cells in a process of their own, out of reach of the terminal's Ctrl-C: the sweep passes it on."""

    def __init__(self, cells: Sequence[Cell], folder: Path) -> None:
        self._cells, self._folder = cells, folder
        environment = {**os.environ, "OMP_NUM_THREADS": str(cells[0].config.threads)}
        with (folder / f"{cells[0].name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                train_command([cell.name for cell in cells], folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> tuple[list[Status], int | None]:
        code = self._process.poll()
        return [run_status(self._folder / cell.name, cell.config.train.score) for cell in self._cells], code

    def stop(self, now: bool = False) -> None:
        if self._process.poll() is None:
            self._process.kill() if now else self._process.terminate()


ROOT = Path(__file__).resolve().parents[2]
"""Where this package is found: a cell's process looks there first."""
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mast_train.sweeps.cell import main; main()"


def train_command(names: Sequence[str], folder: Path) -> list[str]:
    """What trains each FOLDER/NAME.toml into FOLDER/NAME: from their checkpoints where there are some."""
    return [sys.executable, "-c", START, str(ROOT), str(folder), *names]


def units(cells: Sequence[Cell], folder: Path, most: int) -> list[list[Cell]]:
    """Cells that one process trains, up to `most`: they differ in seed and learning rate alone, and all have a
    checkpoint or none has; with train.overlap each is alone. In the order of the first of each."""
    found: dict[tuple[bool, str], list[list[Cell]]] = {}
    order: list[list[Cell]] = []
    for cell in cells:
        alike = override(cell.config, {"seed": 0, "train.lr": 1.0})
        open_units = found.setdefault((_saved(folder / cell.name), to_toml(alike)), [])
        if not open_units or len(open_units[-1]) == most or cell.config.train.overlap:
            open_units.append([])
            order.append(open_units[-1])
        open_units[-1].append(cell)
    return order


def _saved(run: Path) -> bool:
    return (run / "checkpoint.safetensors").is_file()


@dataclass
class Outcome:
    """What became of a sweep's cells, by name. failed: name -> the last lines that the cell printed."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """1: a cell failed or could not run. 130: stopped."""
        return 130 if self.interrupted else int(bool(self.failed or self.waiting))


def run_sweep(sweep: Sweep, root: Path, width: Width, launch: Launch, console: Console) -> Outcome:
    """Train every cell that is not finished, tuning first; failures are kept and the others go on. Raises UserError."""
    folder = root / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "running this sweep"), _signals() as stop:
        planned_cells(sweep, folder)
        runner = _Runner(sweep.name, folder, width, launch, console, stop)
        _write_plan(sweep, folder, choose_rates(sweep, folder))
        runner.run(tuning_cells(sweep))
        choices = choose_rates(sweep, folder)
        _write_plan(sweep, folder, choices)
        if not stop.requested:
            runner.run(final_cells(sweep, chosen(choices)))
        runner.outcome.waiting += [
            f"{group.key}: its learning rate is not chosen, since cells of its tuning did not finish"
            for group in sweep.groups
            if rate_source(sweep, group) not in (None, *choices)
        ]
    runner.outcome.interrupted = stop.requested > 0
    return runner.outcome


class _Stop:
    """Counts requests to stop: the first lets cells save, the second ends them."""

    def __init__(self) -> None:
        self.requested = 0

    def __call__(self, number: int, frame: object) -> None:
        self.requested += 1


@contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _write_plan(sweep: Sweep, folder: Path, choices: dict[str, Any]) -> None:
    cells = [*tuning_cells(sweep), *final_cells(sweep, chosen(choices))]
    plan = {"name": sweep.name, "choices": choices, "cells": {cell.name: cell.label() for cell in cells}}
    write_atomically(folder / "sweep.json", (json.dumps(plan, indent=1) + "\n").encode())


class _Runner:
    """Keeps as many processes in training as the width says until no cell is left or a stop is asked for."""

    def __init__(self, name: str, folder: Path, width: Width, launch: Launch, console: Console, stop: _Stop) -> None:
        self._name, self._folder, self._width, self._launch = name, folder, width, launch
        self._console, self._stop = console, stop
        self._running: list[tuple[list[Cell], Worker]] = []
        self._stopped = 0
        self.outcome = Outcome()

    def run(self, cells: list[Cell]) -> None:
        states = {cell.name: cell_state(cell, self._folder) for cell in cells}
        done = [cell.name for cell in cells if states[cell.name] == "finished"]
        self.outcome.finished += done
        left = [cell for cell in cells if states[cell.name] != "finished"]
        queue = units(left, self._folder, self._width.most(len(left)))
        if not queue:
            return
        with SweepDisplay(self._console, self._name, len(cells), len(done), self._width.jobs) as display:
            while (queue and not self._stop.requested) or self._running:
                while queue and len(self._running) < self._width.jobs and not self._stop.requested:
                    unit = queue.pop(0)
                    resumed = self._prepare(unit)
                    self._running.append((unit, self._launch(unit, self._folder)))
                    for cell in unit:
                        display.started(cell, resumed)
                self._pass_on_stop(display)
                self._collect(display, queue)
                time.sleep(POLL_SECONDS)
        self.outcome.waiting += [cell.name for unit in queue for cell in unit]

    def _prepare(self, unit: Sequence[Cell]) -> bool:
        """The files that a process starts from; returns whether it goes on from checkpoints."""
        for cell in unit:
            run, toml = self._folder / cell.name, self._folder / f"{cell.name}.toml"
            if run.exists() and not _saved(run):
                shutil.rmtree(run)
            if not toml.is_file():
                write_atomically(toml, to_toml(cell.config).encode())
            (self._folder / f"{cell.name}.log").unlink(missing_ok=True)
        return _saved(self._folder / unit[0].name)

    def _pass_on_stop(self, display: SweepDisplay) -> None:
        if self._stop.requested > self._stopped:
            display.say(
                "cells save after their round; Ctrl-C again to stop without saving"
                if not self._stopped
                else "stopping without saving"
            )
            for _, worker in self._running:
                worker.stop(now=self._stopped > 0)
            self._stopped = self._stop.requested

    def _collect(self, display: SweepDisplay, queue: list[list[Cell]]) -> None:
        for running in list(self._running):
            unit, worker = running
            statuses, code = worker.poll()
            for cell, status in zip(unit, statuses, strict=True):
                display.progress(cell, status)
            if code is not None:
                self._running.remove(running)
                self._ended(unit, code, display, queue)
        display.remaining([cell for unit in queue for cell in unit])

    def _ended(self, unit: list[Cell], code: int, display: SweepDisplay, queue: list[list[Cell]]) -> None:
        """Take note of how each cell of a process ended. Several that did not finish are queued again in halves: that
        finds the one whose loss is no longer finite, which ends them all, and how many fit in memory."""
        log, left = self._folder / f"{unit[0].name}.log", []
        for cell in unit:
            if cell_state(cell, self._folder) == "finished":
                self.outcome.finished.append(cell.name)
                display.finished(cell, run_status(self._folder / cell.name, cell.config.train.score))
            elif self._stop.requested:
                self.outcome.waiting.append(cell.name)
                display.ended(cell, "stopped")
            elif len(unit) > 1:
                left.append(cell)
            else:
                self.outcome.failed[cell.name] = last_lines(log) or f"exit code {code}"
                display.ended(cell, f"FAILED, exit code {code}")
        if left:
            halves = units(left, self._folder, -(-len(left) // 2))
            queue += halves
            reason = "".join(f": {line.removeprefix('error: ')}" for line in last_lines(log).splitlines()[-1:])
            display.split(left, len(halves), f"exit code {code}{reason}")


def last_lines(path: Path) -> str:
    """The end of a cell's log."""
    try:
        return "\n".join(path.read_text(errors="replace").strip().splitlines()[-LOG_LINES:])
    except OSError:
        return ""


def print_outcome(outcome: Outcome, folder: Path, console: Console) -> None:
    """The last words: what finished, what did not, and why."""
    for name, lines in outcome.failed.items():
        console.print(Text(f"\n{name} failed; the end of {folder}/{name}.log:\n{lines}"))
    counts = [f"{len(outcome.finished)} finished"]
    counts += [f"{len(outcome.failed)} failed"] * bool(outcome.failed)
    counts += [f"{len(outcome.waiting)} not finished"] * bool(outcome.waiting)
    console.print(Text(f"{folder}: {', '.join(counts)}"))
    if outcome.interrupted:
        console.print("stopped; the same command continues")
        return
    for reason in outcome.waiting:
        console.print(Text(reason))
    console.print(Text(f"next: {pasted('mast', 'report', folder)}"))
