"""The functions of docs/python.md, by running the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_training import config

from mast_train.commands import api
from mast_train.envs.base import EnvSpec
from mast_train.learning.learner import stream_seed
from mast_train.runs.events import Evaluation, Progress, Saved
from mast_train.settings.config import flatten
from mast_train.settings.errors import UserError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["run"] == Path("runs/two_step-qmix-mast-seed0") and names["longer"] == Path("runs/longer")
    assert f'weights_from = "{names["run"]}"' in (names["longer"] / "config.toml").read_text()
    assert names["q"].shape == (10, 4, 2, 2)
    assert "<Bundle two_step mast: 2 of 2 agents" in capsys.readouterr().out


def test_a_watcher_sees_every_event_and_ends_the_run_saved(tmp_path):
    settings = {key: value for key, value in flatten(config()).items() if key != "env.options"}
    seen = []

    def watch(event):
        seen.append(event)
        return not (isinstance(event, Evaluation) and event.step >= 300)

    folder = api.train(settings, watch=watch, name="watched", runs=tmp_path)
    assert [event.step for event in seen if isinstance(event, Evaluation)][-1] < 600 < settings["train.total_steps"]
    assert isinstance(seen[-1], Saved) and seen[-1].reason == "interrupted"
    assert any(isinstance(event, Progress) for event in seen)
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    with pytest.raises(UserError, match="no run there"):
        api.train(start="absent", runs=tmp_path)
    with pytest.raises(UserError, match=r"unknown config key 'lr': did you mean 'train\.lr'"):
        api.train({"lr": 1.0})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: api.train("env.name=matrix"), "settings = 'env.name=matrix': expected a mapping"),
        (lambda: api.train({1: 2}), "settings = .*: expected a mapping"),
        (lambda: api.train({}, name=5), "name = 5: expected text"),
        (lambda: api.train({}, runs=5), "runs = 5: expected a folder"),
        (lambda: api.train({"env.name": "matrix", "seed": -1}), "seed = -1"),
        (lambda: api.evaluate("x", episodes=0), "episodes = 0: expected a whole number, 1 or above"),
        (lambda: api.evaluate("x", seed=-1), "seed = -1: expected a whole number, 0 or above"),
        (lambda: api.evaluate("x", seed=1.5), "seed = 1.5"),
        (lambda: api.load("x", runs=None), "runs = None: expected a folder"),
        (lambda: stream_seed(-1, "evaluation"), "seed = -1"),
        (lambda: EnvSpec("e", "m", 1, 1, 1, 1, 1, ("arm\xa0left",)), "e m: agent type 'arm.xa0left' cannot be printed"),
    ],
)
def test_misuse_is_one_line(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
