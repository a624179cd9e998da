"""Where a sweep and its cells stand, read off their folders. Nothing here trains or writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mast_train.report.statistics import measure_of, score
from mast_train.runs.folders import read_metrics
from mast_train.settings.config import flatten, load_toml
from mast_train.settings.errors import UserError
from mast_train.sweeps.display import Status
from mast_train.sweeps.sweep import Cell, Sweep, choose_rate, final_cells, rate_source, tuning_cells

TAIL_BYTES = 65_536


def choose_rates(sweep: Sweep, folder: Path) -> dict[str, dict[str, Any]]:
    """Group -> the chosen rate, what was measured and every seed's score at each rate, where tuning is complete."""
    cells: dict[str, list[Cell]] = {}
    for cell in tuning_cells(sweep):
        cells.setdefault(cell.group, []).append(cell)
    choices = {}
    for group, tried in cells.items():
        if any(cell_state(cell, folder) != "finished" for cell in tried):
            continue
        rows = {cell.name: read_metrics(folder / cell.name, "evaluation") for cell in tried}
        win_rates = (row["win_rate"] for found in rows.values() for row in found)
        measure = measure_of(win_rates, {cell.config.train.score for cell in tried})
        scores: dict[float, list[float]] = {}
        for cell in tried:
            scores.setdefault(cell.config.train.lr, []).append(score([row[measure] for row in rows[cell.name]]))
        named = {f"{rate:g}": values for rate, values in scores.items()}
        choices[group] = {"rate": choose_rate(scores), "measure": measure, "scores": named}
    return choices


def chosen(choices: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Group -> rate."""
    return {group: choice["rate"] for group, choice in choices.items()}


def planned_cells(sweep: Sweep, folder: Path) -> list[tuple[Cell, str, int]]:
    """Every cell with its state and the steps it has trained; "untuned" while its learning rate is not chosen.

    Raises UserError where a cell's folder holds another run.
    """
    rates = chosen(choose_rates(sweep, folder))
    guess = sweep.tuning.rates[0] if sweep.tuning else 0.0
    sources = {group.key: rate_source(sweep, group) for group in sweep.groups}
    everything = {source: guess for source in sources.values() if source is not None} | rates
    plan = []
    for cell in [*tuning_cells(sweep), *final_cells(sweep, everything)]:
        waits = cell.phase == "final" and sources[cell.group] not in (None, *rates)
        state = "untuned" if waits else cell_state(cell, folder)
        plan.append((cell, state, run_status(folder / cell.name).step if state == "unfinished" else 0))
    return plan


def cell_state(cell: Cell, folder: Path) -> str:
    """ "finished", "unfinished" or "absent". Raises UserError where the folder holds another run."""
    run, toml = folder / cell.name, folder / f"{cell.name}.toml"
    if not toml.is_file():
        if run.exists():
            raise UserError(f"{run}: holds a run that this sweep did not start; move it away, or rename the sweep")
        return "absent"
    before, now = flatten(load_toml(toml)), flatten(cell.config)
    different = [key for key in now if before[key] != now[key]]
    if different:
        key = different[0]
        others = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise UserError(
            f"{toml}: was started with {key} = {before[key]!r}, the sweep file now says {now[key]!r}{others}; "
            "put it back, rename the sweep, or delete that cell"
        )
    try:
        return "finished" if json.loads((run / "run.json").read_text())["status"] == "finished" else "unfinished"
    except (OSError, ValueError, KeyError):
        return "absent"


def run_status(run: Path, configured: str = "auto") -> Status:
    """Read off the end of a run's metrics.jsonl, scored by its `train.score`; nothing is known while there is none.

    Lines of one kind are in the order of their steps, but an evaluation may come after what was trained since.
    """
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return Status()
    (step, elapsed), evaluation, other = (0, 0.0), None, None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        step, elapsed = max((step, elapsed), (row["step"], row["elapsed_s"]))
        if row["kind"] == "evaluation":
            evaluation = evaluation or row
        else:
            other = row
        if evaluation and other:
            break
    rate = step / elapsed if elapsed > 0 else None
    if evaluation is None:
        return Status(step, None, rate)
    measure = measure_of([evaluation["win_rate"]], [configured])
    return Status(step, evaluation[measure], rate, measure)
