"""`mast runs`: what a folder of runs says about itself, runs of sweeps, killed and unscored ones included."""

from __future__ import annotations

import json
import os
from io import StringIO

import pytest
from rich.console import Console
from test_training import config

from mast_train.commands.listing import list_runs, print_runs
from mast_train.runs.folders import locked
from mast_train.settings.config import to_toml
from mast_train.settings.errors import UserError


def make(folder, status, rows, age_s, **settings):
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config(**settings)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.json").write_text(json.dumps({"status": status}))
    os.utime(folder / "run.json", (1e9 - age_s, 1e9 - age_s))
    return folder


def evaluation(step, win_rate, return_mean):
    return {"kind": "evaluation", "step": step, "win_rate": win_rate, "return_mean": return_mean}


def test_every_run_with_its_progress_and_scores_the_newest_last(tmp_path):
    won = [evaluation(0, 0.0, 1.0), evaluation(300, 0.75, 2.0), evaluation(600, 0.5, 3.0)]
    make(tmp_path / "new", "finished", won, age_s=1, method="rigl", seed=3)
    unscored = [evaluation(0, None, -2.5), {"kind": "train", "step": 80}]
    make(tmp_path / "sweep" / "cell", "running", unscored, age_s=2, **{"train.total_steps": 900})
    (tmp_path / "sweep" / "sweep.json").write_text('{"cells": {}}')
    make(tmp_path / "begun", "running", [], age_s=3)
    with locked(tmp_path / "begun"):
        begun, cell, new = list_runs(tmp_path)
        assert (begun.run, begun.status, begun.step, begun.last) == ("begun", "running", 0, None)
    assert list_runs(tmp_path)[0].status == "stopped", "no process holds it: it was killed"
    assert (cell.run, cell.step, cell.total_steps) == (os.path.join("sweep", "cell"), 80, 900)
    assert (cell.measure, cell.last, cell.best) == ("return_mean", -2.5, -2.5)
    assert (new.map, new.row, new.seed, new.status, new.step) == ("two_step", "rigl hidden 16", 3, "finished", 600)
    assert (new.measure, new.last, new.best) == ("win_rate", 0.5, 0.75)
    console = Console(width=60, file=StringIO())
    print_runs([begun, cell, new], console)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 5 and lines[1].split()[-2:] == ["-", "-"]
    assert "80 of 900" in lines[2] and "-2.50 return" in lines[2] and lines[3].split()[-3:] == ["600", "0.500", "0.750"]


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path):
    make(tmp_path / "good", "finished", [evaluation(0, 0.5, 1.0)], age_s=5)
    (make(tmp_path / "other", "finished", [], age_s=4) / "config.toml").write_text("from_another_version = 1\n")
    (make(tmp_path / "damaged", "finished", [], age_s=3) / "run.json").write_text("{")
    (make(tmp_path / "bare", "finished", [], age_s=2) / "config.toml").unlink()
    (make(tmp_path / "young", "running", [], age_s=1) / "metrics.jsonl").unlink()
    found = {run.run: run.status for run in list_runs(tmp_path)}
    assert found == {"good": "finished"} | dict.fromkeys(("other", "damaged", "bare", "young"), "unreadable")
    console = Console(file=StringIO())
    print_runs(list_runs(tmp_path), console)
    assert console.file.getvalue().count("unreadable") == 4


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(UserError, match=r"no run under .*mast train"):
        list_runs(tmp_path)
