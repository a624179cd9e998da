"""What is evaluated, where: a policy brings its environment with it, and what it does not know is not made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from mast_export.export import export_run
from mast_train.commands.evaluate import evaluate, resolve_target
from mast_train.commands.session import start
from mast_train.runs.folders import find_snapshot
from mast_train.settings.config import EnvConfig, override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run in an environment that has options and does not say what winning is."""
    settings = {
        "env.name": "pettingzoo", "env.map": f"{HERE / 'parallel_games.py'}:Expedition", "env.num_envs": 4,
        "env.team_reward": "mean", "env.reward_scale": 3.0, "env.options": {"end": "truncated", "state": False},
        "train.total_steps": 200, "train.eval_interval": 100, "train.eval_episodes": 4, "net.hidden": 8,
        "replay.capacity": 50, "replay.batch": 8, "replay.recent_batch": 2,
    }  # fmt: skip
    root, log = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("out") / "log"
    with log.open("w") as file:
        (run,) = start(override(preset("mast"), settings), root, "run", Console(file=file, width=200))
    shown = [line for line in log.read_text().splitlines() if "greedy episodes" in line]
    assert len(shown) == 3 and all("return 63.00" in line and "win" not in line for line in shown), shown
    return run


@pytest.mark.parametrize("exported", [False, True])
def test_a_policy_brings_its_environment(folder, exported):
    target = folder
    if exported:
        target = export_run(folder, find_snapshot(folder), "mast", None, None, "f32")[0].path
    who, where = resolve_target(str(target), folder.parent, "last", False, None, None)
    assert (where.name, where.team_reward, where.options) == (
        "pettingzoo",
        "mean",
        {"end": "truncated", "state": False},
    )
    assert where.reward_scale == 1.0
    result = evaluate(who, where, 6, 4, 0, "auto")
    assert (result.episodes, result.wins, result.win_rate, result.win_rate_low) == (6, None, None, None)
    assert (result.return_mean, result.length_mean) == (21.0, 4.0)
    assert "win" not in result.sentence() and "return 21.00" in result.sentence()


def test_settings_on_top_and_their_mistakes(folder):
    _, where = resolve_target(str(folder), folder.parent, "last", False, None, None, ["env.options.end=never"])
    assert where.options == {"end": "never", "state": False}
    with pytest.raises(UserError, match=r"train\.lr.*only settings of the environment"):
        resolve_target(str(folder), folder.parent, "last", False, None, None, ["train.lr=1"])
    _, elsewhere = resolve_target(str(folder), folder.parent, "last", False, "matrix", None)
    assert (elsewhere.map, elsewhere.options, elsewhere.team_reward) == ("two_step", {}, "sum")


def test_the_best_networks_are_those_of_the_highest_return_where_nothing_is_won(folder):
    assert find_snapshot(folder, "best").name == max(path.name for path in (folder / "snapshots").iterdir())


@pytest.mark.parametrize(("score", "step"), [("auto", 20), ("return", 10)])
def test_train_score_decides_which_networks_are_best(tmp_path, score, step):
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "config.toml").write_text(f'train.score = "{score}"\n')
    rows = [(10, 0.0, 5.0), (20, 0.1, 3.0), (30, 0.0, 4.0)]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for at, win_rate, earned in rows:
            (tmp_path / "snapshots" / f"step-{at:010d}.safetensors").touch()
            row = {"kind": "evaluation", "step": at, "win_rate": win_rate, "return_mean": earned}
            file.write(json.dumps(row) + "\n")
    assert find_snapshot(tmp_path, "best").stem == f"step-{step:010d}"


def test_a_random_team_needs_a_map(tmp_path):
    assert resolve_target(None, tmp_path, "last", True, "matrix:recall", None)[1] == EnvConfig(
        "matrix", "recall", reward_scale=1.0
    )
    with pytest.raises(UserError, match="needs a map"):
        resolve_target(None, tmp_path, "last", True, None, None)
