"""Several seeds in one process: each run is, to the bit, what it is when it is trained alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learning import events, update

from mast_train.engines import native
from mast_train.envs import make_env, matrix
from mast_train.envs.matrix import END, Game, MatrixEnv
from mast_train.envs.together import InTurn
from mast_train.envs.together import together as joined_envs
from mast_train.experience.replay import gather
from mast_train.experience.rollout import AgentPolicy, random_actions, rollout, rollouts
from mast_train.learning.learner import Learner
from mast_train.learning.update import Update
from mast_train.runs.events import Evaluation, Progress, Saved
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

SEEDS = (0, 1, 2)


def stop_or_go():
    """Two agents walk through six rooms until they choose the same: episodes, and rounds of them, differ in length."""
    rooms = 6
    go_on = torch.arange(1, rooms + 1).masked_fill(torch.arange(rooms) == rooms - 1, END).unsqueeze(1)
    stops = torch.tensor([True, False, False, True])
    return Game(
        starts=(0, 1),
        obs=torch.eye(rooms).unsqueeze(1).repeat(1, 2, 1),
        avail_actions=torch.ones(rooms, 2, 2, dtype=torch.bool),
        reward=torch.tensor([1.0, 0.2, -0.1, 0.4]) * torch.arange(1, rooms + 1).unsqueeze(1),
        next=torch.where(stops, END, go_on),
        horizon=rooms,
    )


@pytest.fixture(autouse=True)
def _game(monkeypatch):
    monkeypatch.setitem(matrix.GAMES, "stop_or_go", stop_or_go)
    monkeypatch.setitem(matrix.OPTIMAL_RETURN, "stop_or_go", 6.0)


def config(method="mast", **settings):
    base = {
        "env.name": "matrix", "env.map": "stop_or_go", "env.num_envs": 4, "net.hidden": 16, "mixer.embed": 8,
        "mixer.hypernet_hidden": 16, "train.total_steps": 400, "train.epsilon_steps": 200, "train.eval_interval": 150,
        "train.eval_episodes": 8, "train.target_interval": 16, "sparse.update_interval": 5, "replay.capacity": 60,
        "replay.batch": 12, "replay.recent_batch": 4, "replay.dynamic_interval": 10, "train.save_minutes": 1e6,
    }  # fmt: skip
    return override(preset(method), {**base, **settings})


def separately(settings):
    """Of each seed the trainer at its end, and its progress and evaluations."""
    trainers = [Run(replace(settings, seed=seed)) for seed in SEEDS]
    return [(trainer, list(events(trainer))) for trainer in trainers]


def together(settings):
    trainers = [Run(replace(settings, seed=seed)) for seed in SEEDS]
    told = list(Loop(trainers).events())
    return [(trainer, [event for run, event in told if run is trainer]) for trainer in trainers]


def assert_same_runs(separate, joint):
    for (alone, expected), (beside, told) in zip(separate, joint, strict=True):
        assert [replace(e, seconds={}) if isinstance(e, Progress) else e for e in told] == [
            replace(e, seconds={}) if isinstance(e, Progress) else e for e in expected
        ]
        assert_same_state(alone, beside)


def assert_same_state(alone, beside):
    for part in ("learner", "replay"):
        state, other = getattr(alone, part).state_dict(), getattr(beside, part).state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    assert torch.equal(alone.exploration.get_state(), beside.exploration.get_state())
    assert torch.equal(alone.sampling.get_state(), beside.sampling.get_state())
    assert alone.env.state_dict() == beside.env.state_dict()


@pytest.mark.skipif(not native.available(), reason=native.status())
@pytest.mark.parametrize(
    ("method", "settings"),
    [("mast", {}), ("mast", {"env.normalise": "running"}),
     ("rlx2", {"net.shared": True}), ("mast-scaled", {}), ("dense", {"algorithm": "vdn"}),
     ("tiny", {"train.optimizer": "rmsprop"}), ("mast", {"algorithm": "owqmix"}), ("set", {"algorithm": "cwqmix"}),
     ("rigl", {"algorithm": "res"})],
)  # fmt: skip
def test_seeds_trained_together_are_what_they_are_alone_to_the_bit(method, settings):
    wanted = config(method, **{"wqmix.embed": 16, **settings})
    separate = separately(wanted)
    updates = [trainer.learner.updates for trainer, _ in separate]
    assert len(set(updates)) > 1 and min(updates) > 80, updates
    assert_same_runs(separate, together(wanted))


@pytest.mark.skipif(not native.available(), reason=native.status())
def test_seeds_on_smax_are_what_they_are_alone_to_the_bit():
    settings = {
        "env.name": "smax", "env.map": "3m", "env.num_envs": 2, "train.total_steps": 500, "train.eval_interval": 400,
        "train.eval_episodes": 4, "replay.batch": 6, "replay.recent_batch": 2,
    }  # fmt: skip
    wanted = config(**settings)
    separate = separately(wanted)
    assert len({trainer.learner.updates for trainer, _ in separate}) > 1
    assert_same_runs(separate, together(wanted))


@pytest.mark.parametrize("present", [4, 3])
def test_battles_of_several_seeds_are_those_of_each_to_the_bit(present):
    """Programs of another width round differently: this found it within a round of 4 x 16 battles."""
    alone, beside = ([make_env("smax", "3m", 16, seed, torch.device("cpu"), {}) for seed in range(4)] for _ in (0, 1))
    joint = joined_envs(beside[:present], 4)
    streams, others = ([torch.Generator().manual_seed(seed) for seed in range(4)] for _ in (0, 1))

    def act(streams):
        def policy(t, observation, playing):
            parts = zip(observation.avail_actions.split(16), streams, playing, strict=False)
            return torch.cat([random_actions(*p) if plays else p[0].int().argmax(-1) for *p, plays in parts])

        return policy

    for _ in range(2):
        separate = [rollout(env, act([stream])) for env, stream in zip(alone, streams, strict=True)]
        for expected, got in zip(separate, rollouts(joint, act(others), present), strict=False):
            state, other = expected.state_dict(), got.state_dict()
            assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    assert [env.state_dict() for env in beside[:present]] == [env.state_dict() for env in alone[:present]]
    assert len({played.episodes.reward.shape[1] for played in separate[:present]}) > 1
    waiting = joint.step(torch.zeros(16 * present, 3, dtype=torch.int64))
    assert not waiting.reward.any() and (waiting.terminated | waiting.truncated).all()


def test_one_pass_serves_all_seeds_and_fewer_once_one_has_finished(monkeypatch):
    passes, acted = [], []
    step, act = Update.__call__, AgentPolicy.__call__

    def recorded(self, batch, env_steps):
        passes.append(len(batch.filled))
        return step(self, batch, env_steps)

    def decided(self, t, observation, playing):
        acted.append(len(playing))
        return act(self, t, observation, playing)

    monkeypatch.setattr(Update, "__call__", recorded)
    monkeypatch.setattr(AgentPolicy, "__call__", decided)
    runs = together(config(**{"target.start": 0.0, "sparse.grow": "none"}))
    updates = sorted(run.learner.updates for run, _ in runs)
    assert updates[0] < updates[1]
    assert set(passes) <= {12, 24, 36} and passes.count(36) == updates[0]
    assert {1, 2, 3} >= set(acted) >= {1, 3}


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_updates_of_a_cohort_are_those_of_its_learners_alone(kernel):
    settings = config(kernel=kernel, **{"train.total_steps": 120})
    sources = [run for run, _ in together(settings)]
    learners, alone = ([Learner(run.config, run.spec, run.device) for run in sources] for _ in range(2))
    joint, stream = Update(learners), torch.Generator().manual_seed(0)
    for step in (*range(0, 120, 6), 0):  # past the point at which targets and evolution change, and back
        ages = [run.replay.draw(stream) for run in sources]
        steps = [step, step, min(step + 3, 119)]
        log = joint(gather([run.replay for run in sources], ages), steps)
        for k, run in enumerate(sources):
            expected = update(alone[k], run.replay.gather(ages[k]), steps[k])
            assert expected.keys() <= log.keys()
            for name, value in expected.items():
                torch.testing.assert_close(log[name][k], value, rtol=1e-4, atol=1e-5)
    for learner, other in zip(learners, alone, strict=True):
        state = other.state_dict()
        assert learner.updates == 21 and learner.masks["agents"].nnz == other.masks["agents"].nnz
        for name, tensor in learner.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native.available(), reason=native.status())
def test_each_seed_resumes_alone_exactly(tmp_path):
    wanted = config(**{"train.total_steps": 300})
    whole = separately(wanted)
    trainers = [Run(replace(wanted, seed=seed), tmp_path / str(seed)) for seed in SEEDS]
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
    saved = []
    for run, event in Loop(trainers).events():
        run.stop_requested = run.stop_requested or run.step >= 120
        saved += [(run, event)] if isinstance(event, Saved) else []
    assert [run for run, _ in saved] == trainers and {event.reason for _, event in saved} == {"interrupted"}
    resumed = [Run.resume(tmp_path / str(seed)) for seed in SEEDS]
    for trainer, (alone, told) in zip(resumed, whole, strict=True):
        later = [event for event in events(trainer) if isinstance(event, Evaluation)]
        assert later == [event for event in told if isinstance(event, Evaluation)][-len(later) :]
        assert_same_state(alone, trainer)


def test_a_seed_that_diverges_ends_all_and_the_others_are_saved(tmp_path):
    trainers = [Run(config(seed=seed), tmp_path / str(seed)) for seed in SEEDS]
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
    with torch.no_grad():
        trainers[1].learner.agents.fc2_bias.fill_(float("inf"))
    with pytest.raises(UserError, match=r"seed 1: the loss became"):
        list(Loop(trainers).events())
    assert [(tmp_path / str(seed) / "checkpoint.safetensors").exists() for seed in SEEDS] == [True, False, True]
    assert Run.resume(tmp_path / "2").learner.updates > 0


def test_playing_ahead_is_for_one_seed():
    trainers = [Run(config(seed=seed, **{"train.overlap": True})) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"train\.overlap is for one seed"):
        Loop(trainers)


def test_environments_in_turn_are_not_stepped_once_their_episodes_are_over():
    envs = [MatrixEnv("stop_or_go", 2, seed, torch.device("cpu")) for seed in (0, 1)]
    joint, stepped = InTurn(envs), [0, 0]
    for k, env in enumerate(envs):
        step = env.step

        def counted(actions, k=k, step=step):
            stepped[k] += 1
            return step(actions)

        env.step = counted
    with pytest.raises(ValueError, match="before reset"):
        joint.step(torch.zeros(4, 2, dtype=torch.int64))
    joint.reset()
    stop, go = [[0, 0]] * 2, [[0, 1]] * 2
    first = joint.step(torch.tensor(stop + go))
    second = joint.step(torch.tensor(go + go))
    assert stepped == [1, 2]
    assert first.terminated.tolist() == second.terminated.tolist() == [True, True, False, False]
    assert first.reward[:2].min() > 0 and second.reward[:2].tolist() == [0.0, 0.0] and (second.reward[2:] != 0).all()
    assert torch.equal(first.next.state[:2], second.next.state[:2])
