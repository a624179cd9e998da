"""Runs of several seeds and rates in one process: as alone, stopped and gone on with, and as cells of a sweep."""

from __future__ import annotations

import json
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_sweep_run import Instant, command, finish, quick  # noqa: F401

from mast_train.commands import session
from mast_train.engines import native
from mast_train.runs.events import Saved
from mast_train.runs.folders import find_unfinished, read_metrics
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset
from mast_train.sweeps.run import run_sweep, units
from mast_train.sweeps.sweep import final_cells, parse_sweep, tuning_cells
from mast_train.sweeps.width import Width

CONSOLE = Console(quiet=True)
FILE = """
sweep = { seeds = [0, 1], steps = 160, evaluations = 4, name = "s" }
[set]
env.name = "matrix"
env.num_envs = 4
net.hidden = 16
train.eval_episodes = 8
replay.batch = 8
replay.capacity = 60
replay.recent_batch = 2
sparse.update_interval = 5
[axes]
map = ["recall"]
method = ["dense", "mast"]
[tune]
rates = [1e-3, 3e-3]
seeds = [7]
steps = 80
"""
SWEEP = parse_sweep(tomllib.loads(FILE), "s")


def config(**settings):
    base = tomllib.loads(FILE)["set"]
    flat = {f"{room}.{key}": value for room, table in base.items() for key, value in table.items()}
    shape = {"env.map": "recall", "train.total_steps": 240, "train.eval_interval": 60, "train.save_minutes": 1e6}
    return override(preset("mast"), {**flat, **shape, **settings})


def curve(folder):
    """Everything that the run logged but its times."""
    rows = [row for kind in ("train", "evaluation") for row in read_metrics(folder, kind)]
    return [{key: value for key, value in row.items() if key not in ("elapsed_s", "seconds")} for row in rows]


@pytest.mark.skipif(not native.available(), reason=native.status())
def test_runs_of_several_rates_are_what_they_are_alone_stopped_together_and_gone_on_with(tmp_path):
    """To the bit, where networks run in C."""
    configs = [config(seed=seed, **{"train.lr": rate}) for seed, rate in ((0, 1e-3), (0, 4e-3), (3, 1e-3))]
    alone = [session.begin([own], [f"alone{k}"], tmp_path, CONSOLE)[0] for k, own in enumerate(configs)]

    def stop(event):
        return event.step < 120

    names = [f"n-seed{k}" for k in range(3)]
    begun = session.begin(configs, names, tmp_path, CONSOLE, watch=stop)
    assert all(json.loads((run / "run.json").read_text())["status"] == "interrupted" for run in begun)
    assert find_unfinished("n", tmp_path, seeds=3) == begun
    session.resume(begun, CONSOLE)
    curves = [curve(run) for run in begun]
    assert curves == [curve(run) for run in alone] and curves[0] != curves[1]
    weights = [(run / "checkpoint.safetensors").read_bytes()[-4096:] for run in (*begun, *alone)]
    assert weights[:3] == weights[3:] and len(set(weights)) == 3
    with pytest.raises(UserError, match="all of them have finished"):
        find_unfinished("n", tmp_path, seeds=3)
    with pytest.raises(UserError, match="give the --name"):
        find_unfinished(None, tmp_path, seeds=3)


def test_runs_that_differ_in_more_are_refused():
    runs = [Run(config()), Run(config(**{"train.gamma": 0.5, "seed": 1}))]
    with pytest.raises(UserError, match=r"train\.gamma = 0\.99 and another 0\.5: runs train together where"):
        Loop(runs)


def test_units_hold_what_differs_in_seed_and_rate_alone(tmp_path):
    tuning = tuning_cells(SWEEP)
    assert [len(unit) for unit in units(tuning, tmp_path, 8)] == [2, 2]
    assert units(tuning, tmp_path, 1) == [[cell] for cell in tuning]
    cells = final_cells(SWEEP, dict.fromkeys({cell.group for cell in tuning}, 1e-3))
    assert [[cell.config.seed for cell in unit] for unit in units(cells, tmp_path, 2)] == [[0, 1], [0, 1]]
    finish(cells[0], tmp_path, status="interrupted")
    (tmp_path / cells[0].name / "checkpoint.safetensors").write_bytes(b"")
    assert [len(unit) for unit in units(cells, tmp_path, 2)] == [1, 2, 1]


def test_cells_whose_process_failed_go_on_alone(tmp_path, quick):  # noqa: F811
    tuning = tuning_cells(SWEEP)
    launch = Instant({tuning[0].name: 2})
    outcome = run_sweep(SWEEP, tmp_path, Width(1, 4), launch, CONSOLE)
    assert launch.launched[0] == [tuning[0].name, tuning[2].name]
    assert [tuning[0].name] in launch.launched and [tuning[2].name] in launch.launched
    assert list(outcome.failed) == [tuning[0].name] and outcome.exit_code == 1


def test_a_sweep_trains_its_seeds_in_one_process(tmp_path):
    file = tmp_path / "s.toml"
    text = FILE.replace('name = "s"', 'name = "s", together = 2, jobs = 1').replace('"dense", "mast"', '"mast"')
    file.write_text(text[: text.index("[tune]")])
    done = subprocess.run(command(file, "--runs", tmp_path / "runs"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "s"
    assert "2 finished" in done.stdout and len(list(folder.glob("recall-*-seed*/run.json"))) == 2
    assert [Path(path).name for path in folder.glob("*.log")] == ["recall-qmix-mast-seed0.log"]


@pytest.mark.parametrize(
    ("folders", "trained", "expected"),
    [
        (["a-seed0", "a-seed1"], {0: "a-seed0", 1: "a-seed1"}, "--seeds 2"),
        (["a-seed3", "a-seed4", "a-seed5"], {3: "a-seed3", 5: "a-seed5"}, "--seeds 3 --seed 3"),
        (["a-seed3", "a-seed5"], {3: "a-seed3", 5: "a-seed5"}, None),
        (["a-seed0-2", "a-seed1"], {0: "a-seed0-2", 1: "a-seed1"}, None),
        (["a-seed0", "b-seed1"], {0: "a-seed0", 1: "b-seed1"}, None),
    ],
)
def test_the_command_that_continues_all_names_runs_that_are_there(tmp_path, folders, trained, expected):
    """A seed that had finished before, between others that go on; folders of other names."""
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text('{"status": "interrupted"}')
    runs = [Run(config(seed=seed), tmp_path / name) for seed, name in trained.items()]
    command = session._resuming(runs)
    assert command == (f"mast train --resume --name {tmp_path}/a {expected}" if expected else "")
    if expected:
        found = find_unfinished(f"{tmp_path}/a", Path("runs"), len(folders), min(trained))
        assert set(trained.values()) <= {path.name for path in found}


def test_the_command_is_told_where_the_last_seed_has_finished(tmp_path, monkeypatch):
    given, said = config(**{"train.total_steps": 240}), Console(record=True, width=500, quiet=False)
    events = Loop.events

    def cut(loop):
        """The first seed still had steps to take."""
        for run, event in events(loop):
            if isinstance(event, Saved) and run is loop.runs[0]:
                event = replace(event, reason="interrupted")
            yield run, event

    monkeypatch.setattr(Loop, "events", cut)
    session.start(given, tmp_path, "pair", said, seeds=2)
    text = said.export_text()
    assert "finished 2" in text and "all of them together: mast train --resume" in text
