"""Whole runs on tiny games: exact resume to the bit, known optima, run folders, saving on a full disk."""

from __future__ import annotations

import io
import threading
from concurrent.futures import Executor, Future
from contextlib import nullcontext

import pytest
import torch
from learning import events
from rich.console import Console

from mast_runtime import bundle as bundle_module
from mast_train.commands import session
from mast_train.commands.evaluate import wilson
from mast_train.engines.native import SparseSequence
from mast_train.envs.base import EnvSpec, Observation, Transition
from mast_train.envs.matrix import MatrixEnv
from mast_train.experience.rollout import AgentPolicy, rollout
from mast_train.networks.build import agent_inputs
from mast_train.runs import checkpoint
from mast_train.runs import run as trainer_module
from mast_train.runs.due import Due
from mast_train.runs.loop import Loop
from mast_train.runs.run import Evaluation, Run, Saved, play
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset


def config(method="mast", **settings):
    base = {
        "env.name": "matrix", "env.map": "two_step", "env.num_envs": 8, "net.hidden": 16, "mixer.embed": 8,
        "mixer.hypernet_hidden": 16, "train.total_steps": 1200, "train.epsilon_steps": 600, "train.eval_interval": 300,
        "train.eval_episodes": 16, "sparse.update_interval": 10, "replay.capacity": 200, "train.save_minutes": 1e6,
    }  # fmt: skip
    return override(preset(method), {**base, **settings})


def run(trainer, until=None):
    told = []
    for event in events(trainer):
        told.append(event)
        if until is not None and trainer.step >= until:
            trainer.stop_requested = True
    return told


@pytest.mark.parametrize(
    ("method", "algorithm", "overlap"),
    [("mast", "qmix", False), ("mast normalised", "qmix", False), ("dense normalised", "vdn", True),
      ("rlx2", "qmix", False), ("set", "qmix", False), ("tiny", "qmix", False),
     ("dense", "qmix", False), ("mast", "owqmix", False), ("tiny", "cwqmix", False), ("mast", "res", False),
     ("mast", "qmix", True), ("rlx2", "qmix", True), ("dense", "qmix", True)],
)  # fmt: skip
def test_resume_is_exact_to_the_bit(tmp_path, method, algorithm, overlap):
    method, normalised, _ = method.partition(" normalised")
    settings = config(method, algorithm=algorithm, **{"wqmix.embed": 16, "train.overlap": overlap})
    settings = override(settings, {"env.normalise": "running" if normalised else "off"})
    whole, first = Run(settings, tmp_path / "a"), Run(settings, tmp_path / "b")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    straight = [e for e in run(whole) if isinstance(e, Evaluation)]
    part = [e for e in run(first, until=500) if isinstance(e, Evaluation)]
    second = Run.resume(tmp_path / "b")
    assert second.step == first.step and second.epsilon == first.epsilon and second.clock == first.clock
    part += [e for e in run(second) if isinstance(e, Evaluation)]
    assert part == straight
    assert_same(whole, second)


def assert_same(whole, second):
    for part_of in ("learner", "replay"):
        expected, got = (getattr(trainer, part_of).state_dict() for trainer in (whole, second))
        assert expected.keys() == got.keys()
        assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
    assert torch.equal(whole.exploration.get_state(), second.exploration.get_state())
    assert torch.equal(whole.sampling.get_state(), second.sampling.get_state())
    assert whole.env.state_dict() == second.env.state_dict()


class InTurn(Executor):
    """Runs what is submitted at once, or when its result is asked for: the overlapped schedule without a thread."""

    def __init__(self, late):
        self.late = late

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        if self.late:
            future.result = lambda timeout=None: function(*args, **kwargs)
        else:
            future.set_result(function(*args, **kwargs))
        return future


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_overlapping_changes_no_bit_whatever_thread_is_faster(kernel):
    settings = config(kernel=kernel, **{"train.overlap": True})
    trainers = [Run(settings) for _ in range(3)]
    loops = [Loop([trainer]) for trainer in trainers]
    loops[1]._thread, loops[2]._thread = InTurn(late=False), InTurn(late=True)
    told = [[e for _, e in loop.events() if isinstance(e, Evaluation)] for loop in loops]
    assert told[0] == told[1] == told[2] and trainers[0].learner.updates > 200
    assert_same(trainers[0], trainers[1])
    assert_same(trainers[0], trainers[2])


def test_a_round_played_ahead_acts_on_the_weights_and_masks_before_its_updates():
    trainer = Run(config(**{"train.overlap": True, "sparse.update_interval": 2}))
    agents, masks, acted = trainer.learner.agents, trainer.learner.masks["agents"], []
    loop = Loop([trainer])
    play_once, learn = loop._play, loop._learn

    def played(actor, exploration, seen_as):
        nets = getattr(actor, "nets", actor)
        acted.append((nets.weight_hh.clone(), nets is not agents))
        return play_once(actor, exploration, seen_as)

    loop._play = played
    before, worn = [], []

    def learned(episodes):
        before.append(agents.weight_hh.detach().clone())
        worn.append(masks["weight_hh"].clone())
        return learn(episodes)

    loop._learn = learned
    for _ in loop.events():
        trainer.stop_requested = trainer.step >= 500
    assert len(acted) == len(before) + 1 and not acted[0][1] and all(copied for _, copied in acted[1:])
    assert all(torch.equal(weight, now) for (weight, _), now in zip(acted[1:], before, strict=True))
    assert not torch.equal(before[0], before[-1]) and not torch.equal(worn[0], worn[-1])
    engine = loop._update.engine
    if isinstance(engine.actor, SparseSequence):
        frozen = engine.frozen_actor()
        assert frozen.structure.current() is frozen.structure.current() is not engine.actor.structure.current()
        observed = torch.randn(4, 2, agents.inputs), agents.initial_hidden(4, 2)
        assert torch.equal(frozen.step(*observed)[0], engine.actor.step(*observed)[0])


def test_what_the_thread_raises_ends_the_run_and_the_environments_are_closed_after_it(monkeypatch):
    trainer = Run(config(**{"train.overlap": True}))
    step, calls = trainer.env.step, []

    def fails(actions):
        calls.append(threading.current_thread() is threading.main_thread())
        if len(calls) == 7:
            raise UserError("the game is gone")
        return step(actions)

    monkeypatch.setattr(trainer.env, "step", fails)
    loop = Loop([trainer])
    with pytest.raises(UserError, match="the game is gone"):
        list(loop.events())
    assert calls == [True] * 2 + [False] * 5
    loop.close()
    assert not any(thread.is_alive() for thread in loop._thread._threads)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    a, b, c = (Run(config(seed=seed)) for seed in (3, 3, 4))
    for trainer in (a, b, c):
        run(trainer, until=500)
    assert torch.equal(a.learner.agents.weight_hh, b.learner.agents.weight_hh)
    assert not torch.equal(a.learner.agents.weight_hh, c.learner.agents.weight_hh)


def test_qmix_reaches_the_optimum_of_the_two_step_game_and_vdn_does_not():
    """Rashid et al. 2018, section 5: 8 for QMIX, 7 for VDN."""
    settings = {
        "train.total_steps": 6000,
        "train.epsilon_start": 1.0,
        "train.epsilon_end": 1.0,
        "train.target_interval": 20,
        "train.lr": 3e-3,
        "target.returns": "one_step",
    }
    returns = {}
    for algorithm in ("qmix", "vdn"):
        told = run(Run(config("dense", algorithm=algorithm, **settings)))
        returns[algorithm] = [e for e in told if isinstance(e, Evaluation)][-1].return_mean
    assert returns == {"qmix": pytest.approx(8.0), "vdn": pytest.approx(7.0)}


def test_the_value_estimate_is_the_mixed_greedy_value_and_the_realised_one_its_discounted_return():
    trainer = Run(config(**{"train.gamma": 0.5}))
    run(trainer, until=300)
    rounds = play(trainer.eval_env, AgentPolicy(trainer.learner.agents, trainer.inputs), 16)
    estimate, realised = Due(trainer).values(rounds, 12)
    learner, estimates, returns = trainer.learner, [], []
    with torch.no_grad():
        for e in range(12):
            part, e = rounds[e // 8].episodes, e % 8
            x = agent_inputs(trainer.config, trainer.spec, part.obs[e, 0], torch.full((2,), -1))
            q = learner.agents(x[None, None])[0][0, 0]
            best = torch.stack(
                [max(q[i][a] for a in range(q.shape[1]) if part.avail_actions[e, 0, i, a]) for i in (0, 1)]
            )
            estimates.append(float(learner.mixer(best, part.state[e, 0])))
            returns.append(sum(float(r) * 0.5**t for t, r in enumerate(part.reward[e][part.filled[e]])))
    assert estimate == pytest.approx(sum(estimates) / 12, abs=1e-5)
    assert realised == pytest.approx(sum(returns) / 12, abs=1e-6)


def test_sparse_recurrent_team_learns_to_recall():
    settings = {
        "seed": 1,
        "env.map": "recall",
        "train.total_steps": 6000,
        "net.hidden": 32,
        "sparse.agent_sparsity": 0.8,
        "sparse.mixer_sparsity": 0.8,
    }
    last = [e for e in run(Run(config(**settings))) if isinstance(e, Evaluation)][-1]
    assert last.win_rate == 1.0


def test_a_finished_run_is_saved_without_its_episodes_and_cannot_be_resumed(tmp_path):
    saved = [e for e in run(Run(config(**{"train.total_steps": 600}), tmp_path)) if isinstance(e, Saved)]
    assert saved[-1].reason == "finished"
    assert not (tmp_path / "replay.safetensors").exists()
    with pytest.raises(UserError, match="finished"):
        Run.resume(tmp_path)
    assert len(list((tmp_path / "snapshots").iterdir())) == 3
    trace, header = checkpoint.read(tmp_path / "trace.safetensors")
    assert trace["obs"].shape[1:] == (2, 3) and header["spec"]["map"] == "two_step"


def test_saving_on_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    trainer = Run(config(), tmp_path)
    run(trainer, until=600)
    before, saved_at = (tmp_path / "checkpoint.safetensors").read_bytes(), trainer.step
    trainer.step += 1

    def full(*_):
        raise OSError(28, "No space left on device")

    fsync, calls = bundle_module.os.fsync, []

    def full_at(call):
        def sync(handle):
            calls.append(handle)
            return full() if len(calls) == call else fsync(handle)

        return sync

    for failing in (1, 2):
        calls.clear()
        monkeypatch.setattr(bundle_module.os, "fsync", full_at(failing))
        with pytest.raises(UserError, match="No space left"):
            trainer.save("interrupted")
        assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
        assert not list(tmp_path.glob(".*tmp"))
        assert Run.resume(tmp_path).step == saved_at
        trainer.step += 1


def test_damaged_and_mismatched_checkpoints(tmp_path):
    run(Run(config(), tmp_path), until=600)
    path = tmp_path / "checkpoint.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        Run.resume(tmp_path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"damaged|not a checkpoint"):
        Run.resume(tmp_path)
    path.write_bytes(data)
    tensors, header = checkpoint.read(path)
    other = override(checkpoint.config_of(header), {"net.hidden": 8})
    meta = {key: value for key, value in header.items() if key not in ("config", "spec", "format")}
    checkpoint.write(path, tensors, other, checkpoint.spec_of(header), meta)
    with pytest.raises(UserError, match="shape"):
        Run.resume(tmp_path)
    checkpoint.write(path, tensors, checkpoint.config_of(header), checkpoint.spec_of(header), {**meta, "step": 1})
    with pytest.raises(UserError, match=r"replay-1\."):
        Run.resume(tmp_path)


def test_epsilon_anneals_and_exploration_follows_it():
    trainer = Run(config(**{"train.epsilon_end": 0.0, "train.total_steps": 10_000}))
    shares = []
    for step in (0, 300, 600, 900):
        trainer.step = step
        shares.append(trainer.epsilon)
    assert shares == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_a_loss_that_is_not_finite_ends_the_run_with_advice():
    trainer = Run(config(**{"train.lr": 10.0, "train.grad_clip": 1e12, "target.omega": 1e6}))
    with torch.no_grad():
        trainer.learner.agents.fc2_bias.fill_(float("inf"))
    with pytest.raises(UserError, match=r"train\.lr"):
        run(trainer)


def test_environments_are_closed_whatever_goes_wrong(tmp_path, monkeypatch):
    opened, closed, init = [], [], MatrixEnv.__init__

    def opening(env, *given, **more):
        opened.append(env)
        init(env, *given, **more)

    monkeypatch.setattr(MatrixEnv, "__init__", opening)
    monkeypatch.setattr(MatrixEnv, "close", lambda env: closed.append(env))
    short, console = config(**{"train.total_steps": 16}), Console(file=io.StringIO())

    def start(expected, settings, seeds=1, name=None):
        with pytest.raises(UserError, match=expected) if expected else nullcontext():
            session.start(settings, tmp_path, name, console, seeds)
        assert len(opened) == 2 * seeds and set(opened) == set(closed)
        del opened[:], closed[:]

    start(None, short, name="there")
    start("there", short, name="there")
    start(r"train\.overlap", override(short, {"train.overlap": True}), seeds=2)
    with monkeypatch.context() as broken:
        broken.setattr(trainer_module, "EpisodeBuffer", fail)
        start("no memory", short)
    two = config(**{"train.total_steps": 10**6})
    with monkeypatch.context() as broken:
        broken.setattr(Due, "evaluated", fail)
        start("no memory", two, seeds=2)


def fail(*_, **__):
    raise UserError("no memory")


def test_evaluation_plays_no_more_episodes_than_are_counted():
    wide = Run(config(**{"env.num_envs": 64, "train.eval_episodes": 24}))
    assert (wide.env.num_envs, wide.eval_env.num_envs) == (64, 24)
    assert next(e for e in events(wide) if isinstance(e, Evaluation)).episodes == 24


class OneStepLimit:
    """Episodes cut by a time limit after two steps, or ended after one, by environment."""

    def __init__(self):
        self.spec, self.num_envs = EnvSpec("stub", "stub", 1, 2, 2, 2, 3, ("a",)), 2
        self.device = torch.device("cpu")

    def _observe(self):
        return Observation(torch.zeros(2, 1, 2), torch.zeros(2, 2), torch.ones(2, 1, 2, dtype=torch.bool))

    def reset(self):
        self.t = 0
        return self._observe()

    def step(self, actions):
        self.t += 1
        ended, cut = torch.tensor([True, False]), torch.tensor([False, self.t >= 2])
        return Transition(self._observe(), torch.ones(2), ended, cut, ended)


def test_a_rollout_keeps_truncation_apart_from_termination():
    episodes = rollout(OneStepLimit(), lambda t, o, playing: torch.zeros(2, 1, dtype=torch.int64)).episodes
    assert episodes.filled.tolist() == [[True, False], [True, True]]
    assert episodes.terminated.tolist() == [[True, False], [False, False]]
    assert episodes.truncated.tolist() == [[False, False], [False, True]]
    assert episodes.reward.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_updates_follow_the_episodes_played():
    counts = {}
    for episodes in (2.0, 1.0, 0.5):
        trainer = Run(config(**{"train.episodes_per_update": episodes}))
        run(trainer, until=600)
        counts[episodes] = trainer.learner.updates
    assert counts[0.5] == 2 * counts[1.0] == 4 * counts[2.0] > 0


def test_a_finished_run_trains_no_further():
    trainer = Run(config())
    run(trainer)
    assert list(events(trainer)) == []


@pytest.mark.parametrize(("threshold", "forgets"), [(0.0, True), (1.0, False)])
def test_the_dynamic_buffer_forgets_episodes_the_policy_has_left_behind(threshold, forgets):
    trainer = Run(config("rlx2", **{"replay.dynamic_threshold": threshold, "replay.dynamic_interval": 10**6}))
    run(trainer, until=600)
    before = trainer.replay.size
    trainer._shrink_replay()
    assert (trainer.replay.size == before - 32) is forgets


def test_wilson_interval_by_hand():
    """8 of 10 at z = 1.959964: centre (0.8 + 0.19207) / 1.38415, spread 1.959964 sqrt(0.016 + 0.0096037) / 1.38415."""
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 5)[0] == 0.0 and wilson(5, 5)[1] == 1.0


def test_a_run_of_another_kind_of_device_is_refused_in_one_line(tmp_path):
    run(Run(config(), tmp_path), until=300)
    path = tmp_path / "checkpoint.safetensors"
    tensors, header = checkpoint.read(path)
    tensors["exploration"] = tensors["exploration"][:16].clone()  # as long as a GPU's
    meta = {key: value for key, value in header.items() if key not in ("config", "spec")}
    loaded = Run.resume(tmp_path)
    checkpoint.write(path, tensors, loaded.config, loaded.spec, meta)
    with pytest.raises(UserError, match="another kind of device than cpu"):
        Run.resume(tmp_path)
