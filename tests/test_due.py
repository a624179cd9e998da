"""Evaluations that wait for those of other runs: they find what they would have found at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_rounds import PLACES, config

from mast_train.experience.rounds import Rounds
from mast_train.runs import checkpoint
from mast_train.runs.due import Due
from mast_train.runs.events import Evaluation, Progress, Saved
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

SETTINGS = {
    "train.total_steps": 300, "train.epsilon_steps": 250, "train.eval_interval": 50, "train.eval_episodes": 4,
    "replay.capacity": 40, "replay.batch": 6, "replay.recent_batch": 2, "mixer.embed": 8, "mixer.hypernet_hidden": 16,
    "train.save_minutes": 1e6, "train.lr": 5e-3, "env.normalise": "running",
}  # fmt: skip


def runs(folder, **settings):
    for seed in range(PLACES):
        (folder / str(seed)).mkdir(parents=True)
    given = config(**{**SETTINGS, **settings})
    return [Run(replace(given, seed=seed), folder / str(seed)) for seed in range(PLACES)]


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
        if run.step > 100 and loop._due and isinstance(event, Progress):
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
            if run is ours[-1] and run.step > 100 and loop._due and isinstance(event, Progress):
                waited = True
                with torch.no_grad():
                    ours[1].learner.agents.fc2_bias.fill_(float("inf"))
    assert waited
    for run in ours:
        assert of(run, told)[-1].step >= run.next_eval - SETTINGS["train.eval_interval"]
    assert Run.resume(home(ours[0])).step == ours[0].step


ENDINGS = {
    "a seed diverges": r"seed 1: the loss became.*; saved: \S.*/0; saved: \S.*/2; no memory for a round$",
    "interrupted": r"^no memory for a round; saved: .*/0; saved: .*/1; saved: .*/2$",
    "their turn": r"^no memory for a round; saved: .*/0; saved: .*/1; saved: .*/2$",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_evaluation_that_cannot_be_played_keeps_no_run_from_being_saved(tmp_path, monkeypatch, ending):
    """They are due again where their runs go on."""
    ours = runs(tmp_path, **{"train.total_steps": 1500, "train.eval_interval": 130})
    loop, play, due, ended = Loop(ours), Rounds.play, {}, False

    def failing(self, actor, exploration=(), scaling=None):
        if ended and not exploration:
            raise UserError("no memory for a round")
        return play(self, actor, exploration, scaling)

    monkeypatch.setattr(Rounds, "play", failing)
    with pytest.raises(UserError, match=ENDINGS[ending]):
        for run, event in loop.events():
            if ended or run is not ours[-1] or not (isinstance(event, Progress) and loop._due):
                continue
            if (ending == "their turn") == any(own.step >= own.next_eval for own in ours):
                ended, due = True, {own.run: own._due_from for own in loop._due}
                run.stop_requested = ending == "interrupted"
                if ending == "a seed diverges":
                    ours[1].learner.agents.fc2_bias.data.fill_(float("inf"))
    assert due
    for run in ours:
        saved = ending != "a seed diverges" or run is not ours[1]
        assert (home(run) / "checkpoint.safetensors").exists() == saved
        if saved and run in due:
            assert Run.resume(home(run)).next_eval == due[run] <= run.step


def test_a_run_that_cannot_be_saved_keeps_no_other_from_it(tmp_path, monkeypatch):
    ours, save = small(tmp_path), Run.save

    def full(run, reason):
        if run is ours[0]:
            raise UserError("no space for 0")
        return save(run, reason)

    monkeypatch.setattr(Run, "save", full)
    with pytest.raises(UserError, match=r"^no space for 0; saved: mast train --resume --name \S+/1$"):
        for run, _ in Loop(ours).events():
            run.stop_requested = True
    assert Run.resume(home(ours[1])).step == ours[1].step > 0


def small(folder):
    """Two runs that need no compilation, sparse and normalised."""
    settings = {"env.name": "matrix", "env.map": "climbing", "net.hidden": 16, "device": "cpu", "replay.batch": 4}
    settings |= {"env.normalise": "running", "replay.recent_batch": 1}
    found = [Run(replace(override(preset("mast"), settings), seed=seed), folder / str(seed)) for seed in range(2)]
    for run in found:
        home(run).mkdir()
    return found


def shown(due):
    """All that an evaluation says of the networks."""
    learner = due.learner
    nets = {f"{key}.{name}": x for key, net in learner.online.items() for name, x in net.state_dict().items()}
    tensors = learner.policy_state() | nets | due._seen
    masks = {f"{key}.{name}": x for key, own in learner.masks.items() for name, x in own.state_dict().items()}
    return {name: x.clone() for name, x in (tensors | masks).items()}, due.run.header(due._where, learner)


def test_a_copy_shares_nothing_that_training_changes(tmp_path):
    """In place, whatever a training of a few rounds would change by chance."""
    run, _ = small(tmp_path)
    assert run.learner.statistics
    for later, same in ((True, True), (False, False)):
        due = Due(run, later)
        before, header = shown(due)
        with torch.no_grad():
            for parameter in run.learner.parameters:
                parameter.add_(1.0)
            for masks in run.learner.masks.values():
                for mask in masks.state_dict().values():
                    mask.flatten()[:7].logical_not_()
            for tensor in (*run.seen.state_dict().values(), *run.learner.statistics.state_dict().values()):
                tensor.fill_(3.0 + run.step)
        run.step += 7
        after, changed = shown(due)
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]) == same, name
        for name in ("sparsity", "normalised", "step", "next_eval"):
            assert (header[name] == changed[name]) == (same or name in ("step", "next_eval")), name


def test_a_copy_has_its_own_weights_under_its_masks_and_cannot_learn(tmp_path):
    learner = small(tmp_path)[0].learner
    kept = learner.frozen()
    for key, masks in kept.masks.items():
        own = {id(parameter) for parameter in kept.online[key].parameters()}
        assert masks.weights and all(id(weight) in own for weight in masks.weights.values())
    assert not kept.targets and not any(hasattr(kept, name) for name in ("optimizer", "parameters", "generator"))
