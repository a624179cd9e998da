"""Evaluations that wait for those of other runs: they find what they would have found at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_rounds import PLACES, config

from mast_train.experience.rounds import Rounds
from mast_train.runs import checkpoint
from mast_train.runs.events import Evaluation, Progress, Saved
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.errors import UserError

SETTINGS = {
    "train.total_steps": 350, "train.epsilon_steps": 300, "train.eval_interval": 60, "train.eval_episodes": 4,
    "replay.capacity": 40, "replay.batch": 6, "replay.recent_batch": 2, "mixer.embed": 8, "mixer.hypernet_hidden": 16,
    "train.save_minutes": 1e6, "train.lr": 5e-3, "env.normalise": "running",
}  # fmt: skip


def runs(folder):
    for seed in range(PLACES):
        (folder / str(seed)).mkdir(parents=True)
    return [Run(replace(config(**SETTINGS), seed=seed), folder / str(seed)) for seed in range(PLACES)]


@pytest.fixture
def greedy(monkeypatch):
    """How many runs each greedy round was played for."""
    widths, play = [], Rounds.play

    def counted(self, actor, exploration=(), scaling=None):
        widths.extend([len(self._envs)] * (not exploration))
        return play(self, actor, exploration, scaling)

    monkeypatch.setattr(Rounds, "play", counted)
    return widths


def of(run, told):
    return [event for own, event in told if own is run and isinstance(event, Evaluation)]


def test_what_waits_finds_what_it_finds_at_once(tmp_path, greedy, monkeypatch):
    """Weights, evaluations and every snapshot, in fewer rounds."""
    waiting = runs(tmp_path / "waiting")
    told = list(Loop(waiting).events())
    waited = len(greedy)
    evaluate = Loop._evaluate
    monkeypatch.setattr(Loop, "_evaluate", lambda self, due, now=False: evaluate(self, due, True))
    at_once = runs(tmp_path / "at once")
    expected = list(Loop(at_once).events())
    assert sum(greedy[:waited]) == sum(greedy[waited:]) and waited < len(greedy) - waited
    for run, other in zip(waiting, at_once, strict=True):
        assert of(run, told) == of(other, expected) and len(of(run, told)) > 5
        assert run.eval_env.state_dict() == other.eval_env.state_dict() and run.last_eval == other.last_eval
        assert all(torch.equal(x, other.learner.state_dict()[name]) for name, x in run.learner.state_dict().items())
        ours, theirs = home(run), home(other)
        for path in (*(theirs / "snapshots").iterdir(), theirs / "trace.safetensors"):
            same_file(path, ours / path.relative_to(theirs))
    in_order = [[event.step for own, event in told if own is run and not isinstance(event, Saved)] for run in waiting]
    assert any(steps != sorted(steps) for steps in in_order), "some are told after later rounds"


def home(run) -> Path:
    assert run.folder is not None
    return run.folder


def same_file(path, other):
    tensors, header = checkpoint.read(path)
    found, about = checkpoint.read(other)
    assert tensors.keys() == found.keys() and all(torch.equal(x, found[name]) for name, x in tensors.items()), path
    keys = header.keys() - {"seconds"}
    assert keys == about.keys() - {"seconds"} and all(header[key] == about[key] for key in keys), path


def test_nothing_waits_beyond_a_save(tmp_path):
    """A run that is interrupted while an evaluation waits goes on after it."""
    whole, told = runs(tmp_path / "whole"), []
    expected = list(Loop(whole).events())
    stopped = runs(tmp_path / "stopped")
    loop = Loop(stopped)
    for run, event in loop.events():
        told.append((run, event))
        if run.step > 130 and loop._due and isinstance(event, Progress):
            run.stop_requested = True
    assert [type(event) for _, event in told[-PLACES:]] == [Saved] * PLACES
    assert isinstance(told[-PLACES - 1][1], Evaluation), "what waited is played before they are saved"
    resumed = [Run.resume(home(run)) for run in stopped]
    later = list(Loop(resumed).events())
    for own, other, last in zip(whole, stopped, resumed, strict=True):
        assert of(own, expected) == of(other, told) + of(last, later)


def test_a_seed_that_diverges_takes_no_evaluation_with_it(tmp_path):
    ours, told, waited = runs(tmp_path), [], False
    loop = Loop(ours)
    with pytest.raises(UserError, match="seed 1: the loss became"):
        for run, event in loop.events():
            told.append((run, event))
            if run is ours[-1] and run.step > 130 and loop._due and isinstance(event, Progress):
                waited = True
                with torch.no_grad():
                    ours[1].learner.agents.fc2_bias.fill_(float("inf"))
    assert waited
    for run in ours:
        assert of(run, told)[-1].step >= run.next_eval - SETTINGS["train.eval_interval"]
    assert Run.resume(home(ours[0])).step == ours[0].step
