"""What a sweep would do, and how long it would take by what was measured before."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from mast_train.settings.config import flatten, load_toml
from mast_train.settings.errors import UserError
from mast_train.sweeps.display import duration
from mast_train.sweeps.run import units
from mast_train.sweeps.state import planned_cells, run_status
from mast_train.sweeps.sweep import Cell, Sweep
from mast_train.sweeps.width import Width

Rates = dict[tuple[str, str, str], float]
"""(map, algorithm, method) -> environment steps per second; method "": the median over methods."""


def measured_rates(root: Path) -> Rates:
    """The median speed of the finished runs under `root` and in its sweeps."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for path in (*root.glob("*/run.json"), *root.glob("*/*/run.json")):
        try:
            config = flatten(load_toml(path.parent / "config.toml"))
            finished = json.loads(path.read_text())["status"] == "finished"
        except (OSError, ValueError, KeyError, UserError):
            continue
        rate = run_status(path.parent).rate
        if finished and rate:
            for method in (config["method"], ""):
                found.setdefault((config["env.map"], config["algorithm"], method), []).append(rate)
    return {key: median(rates) for key, rates in found.items()}


def seconds_left(cell: Cell, done: int, rates: Rates) -> float | None:
    """What a cell still takes by itself; None where no finished run tells the speed of its map and algorithm."""
    key = (cell.config.env.map, cell.config.algorithm)
    rate = rates.get((*key, cell.config.method)) or rates.get((*key, ""))
    return None if rate is None else max(0, cell.config.train.total_steps - done) / rate


def print_plan(sweep: Sweep, root: Path, width: Width, console: Console) -> None:
    """`mast sweep --dry-run`: every cell, its state, and the cost of what is left."""
    rates = measured_rates(root)
    lines = [("cell", "steps", "learning rate", "state", "estimate")]
    left: dict[str, list[Cell]] = {"tune": [], "final": []}
    estimates: dict[str, float | None] = {}
    for cell, state, done in planned_cells(sweep, root / sweep.name):
        if state != "finished":
            left[cell.phase].append(cell)
            estimates[cell.name] = seconds_left(cell, done, rates)
        lr = "to be tuned" if state == "untuned" else f"{cell.config.train.lr:g}"
        word = {"absent": "to run", "untuned": "to run", "unfinished": f"at step {done:,}"}.get(state, state)
        steps = f"{cell.config.train.total_steps:,}"
        lines.append((cell.name, steps, lr, word, "" if state == "finished" else duration(estimates[cell.name])))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        console.print(Text("  ".join(word.ljust(wide) for word, wide in zip(line, widths, strict=True)).rstrip()))
    phases = [units(cells, root / sweep.name, width.most(len(cells))) for cells in left.values()]
    console.print(Text(_cost(phases, estimates, width)))
    todo = [cell for cells in left.values() for cell in cells]
    unknown = {f"{cell.config.env.map} {cell.config.algorithm}" for cell in todo if estimates[cell.name] is None}
    if unknown:
        word = "in it" if any(estimates.values()) else "estimated"
        console.print(f"not {word}, for want of a finished run to measure by: {', '.join(sorted(unknown))}")


def _cost(phases: Sequence[Sequence[Sequence[Cell]]], estimates: Mapping[str, float | None], width: Width) -> str:
    """What is left, in words. phases: of each its processes, which take as long as their slowest cell."""
    cells, processes = sum(len(unit) for phase in phases for unit in phase), sum(map(len, phases))
    words = f"{cells} cells to run"
    if processes != cells:
        words += f" in {processes} processes" if processes > 1 else " in one process"
    seconds = [[max(estimates[cell.name] or 0.0 for cell in unit) for unit in phase] for phase in phases]
    total = sum(map(sum, seconds))
    if not total:
        return words
    at_once = sum(_at_once(phase, width.jobs) for phase in seconds)
    words += f"; {duration(total)} one after another, {duration(at_once)} with {width.jobs} at once"
    if width.together > 1:
        words += "\nby the speed of finished runs; whether those shared a process, which slows a cell, is not known"
    return words


def _at_once(seconds: Sequence[float], jobs: int) -> float:
    """How long processes take that are started in this order, `jobs` at once."""
    ends = [0.0] * jobs
    for taken in seconds:
        heapq.heapreplace(ends, ends[0] + taken)
    return max(ends)
