"""What a sweep would cost, and where its cells stand."""

from __future__ import annotations

import json
import subprocess

from rich.console import Console
from test_sweep import TINY, parsed
from test_sweep_run import command, finish

from mast_train.sweeps.display import Status
from mast_train.sweeps.plan import print_plan
from mast_train.sweeps.state import planned_cells, run_status
from mast_train.sweeps.sweep import final_cells
from mast_train.sweeps.width import Width


def test_a_dry_run_estimates_from_finished_runs_of_the_map(tmp_path):
    sweep = parsed('sweep = { seeds = [0, 1, 2], steps = 120, name = "s" }\naxes.method = ["mast"]')
    finish(final_cells(sweep, {})[0], tmp_path / "s")
    assert [state for _, state, _ in planned_cells(sweep, tmp_path / "s")] == ["finished", "absent", "absent"]
    console = Console(width=200)
    with console.capture() as capture:
        print_plan(sweep, tmp_path, Width(2), console)
    assert "2 cells to run; 4 s one after another, 2 s with 2 at once" in capture.get()
    with console.capture() as capture:
        print_plan(parsed('axes.method = ["mast"]\naxes.map = ["8m"]'), tmp_path, Width(2), console)
    assert "for want of a finished run to measure by: 8m qmix" in capture.get()


def test_a_dry_run_counts_the_slowest_cell_of_each_process(tmp_path):
    """Five cells at 60 steps/s: one is finished, two were saved with 60 and 90 of 120 steps left, two are new."""
    sweep = parsed('sweep = { seeds = 5, steps = 120, name = "s" }\naxes.method = ["mast"]')
    cells, folder, console = final_cells(sweep, {}), tmp_path / "s", Console(width=200)
    finish(cells[0], folder)
    for cell, step in zip(cells[1:3], (60, 30), strict=True):
        finish(cell, folder, status="interrupted")
        row = {"kind": "train", "step": step, "elapsed_s": 1.0}
        (folder / cell.name / "metrics.jsonl").write_text(json.dumps(row))
        (folder / cell.name / "checkpoint.safetensors").touch()
    for planned, words in (
        (
            Width(1, 64, divided=True),
            "4 cells to run in 2 processes; 4 s one after another, 4 s with 1 at once\nby the ",
        ),
        (Width(2, 64), "4 cells to run in 2 processes; 4 s one after another, 2 s with 2 at once\nby the speed"),
        (Width(4), "4 cells to run; 6 s one after another, 2 s with 4 at once\n"),
    ):
        with console.capture() as capture:
            print_plan(sweep, tmp_path, planned, console)
        assert words in capture.get()
    assert "shared a process" not in capture.get()


def test_a_dry_run_plans_the_processes_that_the_command_would_start(tmp_path):
    (tmp_path / "s.toml").write_text(f'{TINY}[sweep]\nseeds = 5\n[axes]\nmethod = ["mast"]')
    for options, words in (((), "5 cells to run\n"), (("--together", "2"), "5 cells to run in 3 processes\n")):
        plan = command("s.toml", "--dry-run", "--jobs", "1", *options)
        assert words in subprocess.run(plan, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_a_late_evaluation_does_not_set_a_run_back(tmp_path):
    """Evaluations that wait for each other are logged after later steps."""
    rows = [
        {"kind": "evaluation", "step": 0, "elapsed_s": 1.0, "win_rate": 0.0},
        {"kind": "train", "step": 1000, "elapsed_s": 10.0},
        {"kind": "train", "step": 1100, "elapsed_s": 11.0},
        {"kind": "evaluation", "step": 600, "elapsed_s": 12.0, "win_rate": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_status(tmp_path) == Status(1100, 0.5, 100.0)
