"""What a sweep would do, and how long it would take by what was measured before."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from mast_train.settings.config import flatten, load_toml
from mast_train.settings.errors import UserError
from mast_train.sweeps.display import duration
from mast_train.sweeps.state import planned_cells, run_status
from mast_train.sweeps.sweep import Cell, Sweep

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


def print_plan(sweep: Sweep, root: Path, jobs: int, console: Console) -> None:
    """`mast sweep --dry-run`: every cell, its state, and the cost of what is left."""
    rates = measured_rates(root)
    lines = [("cell", "steps", "learning rate", "state", "estimate")]
    left, unknown, todo = 0.0, set(), 0
    for cell, state, done in planned_cells(sweep, root / sweep.name):
        seconds = 0.0 if state == "finished" else seconds_left(cell, done, rates)
        todo += state != "finished"
        left += seconds or 0.0
        if seconds is None:
            unknown.add(f"{cell.config.env.map} {cell.config.algorithm}")
        lr = "to be tuned" if state == "untuned" else f"{cell.config.train.lr:g}"
        word = {"absent": "to run", "untuned": "to run", "unfinished": f"at step {done:,}"}.get(state, state)
        steps = f"{cell.config.train.total_steps:,}"
        lines.append((cell.name, steps, lr, word, "" if state == "finished" else duration(seconds)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        console.print(Text("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()))
    times = f"; {duration(left)} one after another, {duration(left / jobs)} with {jobs} at once" if left else ""
    console.print(f"{todo} cells to run{times}")
    if unknown:
        word = "in it" if left else "estimated"
        console.print(f"not {word}, for want of a finished run to measure by: {', '.join(sorted(unknown))}")
