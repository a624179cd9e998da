"""What lies in a folder of runs: every run's task, row, progress and scores, as `mast runs` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mast_train.report.collect import row_name, run_folders
from mast_train.report.statistics import RETURN, WIN_RATE, measure_of
from mast_train.runs.folders import read_metrics, status_of
from mast_train.settings.config import load_toml
from mast_train.settings.errors import UserError


@dataclass(frozen=True)
class Listed:
    """One run. last, best: greedy win rate, or the return by `measure`; None before the first evaluation."""

    run: str
    env: str
    map: str
    algorithm: str
    row: str
    seed: int
    status: str
    step: int
    total_steps: int
    measure: str
    last: float | None
    best: float | None


def list_runs(root: Path) -> list[Listed]:
    """The runs under `root`, those of its sweeps too, the newest last. Raises UserError when there is none."""
    try:
        found = run_folders(root)
    except UserError as error:
        raise UserError(f"no run under {root}/; train one first: mast train --map 3m") from error
    folders = sorted(found, key=lambda folder: (folder / "run.json").stat().st_mtime)
    return [_listed(folder, root) for folder in folders]


def _listed(folder: Path, root: Path) -> Listed:
    name = str(folder.relative_to(root))
    try:
        return _read(folder, name)
    except (UserError, OSError, ValueError, KeyError):  # of another version, damaged, or just about to begin
        return Listed(name, "-", "-", "-", "-", 0, "unreadable", 0, 0, WIN_RATE, None, None)


def _read(folder: Path, name: str) -> Listed:
    config = load_toml(folder / "config.toml")
    evaluations = read_metrics(folder, "evaluation")
    step = max((row["step"] for row in (*evaluations, *read_metrics(folder, "train"))), default=0)
    measure = measure_of((row["win_rate"] for row in evaluations), [config.train.score])
    scores = [row[measure] for row in evaluations]
    last, best = (scores[-1], max(scores)) if scores else (None, None)
    return Listed(
        name, config.env.name, config.env.map, config.algorithm, row_name(config), config.seed,
        status_of(folder), step, config.train.total_steps, measure, last, best,
    )  # fmt: skip


def print_runs(runs: list[Listed], console: Console) -> None:
    """One line a run, never cut: a name is there to be copied."""
    lines = [("run", "task", "row", "status", "steps", "last", "best")]
    for run in runs:
        steps = f"{run.step:,}" if run.status == "finished" else f"{run.step:,} of {run.total_steps:,}"
        form = "{:.2f} return" if run.measure == RETURN else "{:.3f}"
        last, best = ("-" if value is None else form.format(value) for value in (run.last, run.best))
        lines.append((run.run, f"{run.env} {run.map}", f"{run.algorithm} {run.row}", run.status, steps, last, best))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        console.print(Text("  ".join(padded).rstrip()), soft_wrap=True)
    console.print("last, best: win rate of the greedy evaluations, or the return where it says so", soft_wrap=True)
