"""Several seeds in one process: each run is, to the bit, what it is when it is trained alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mast_train.config import override
from mast_train.errors import UserError
from mast_train.events import Evaluation, Progress
from mast_train.lockstep import Lockstep
from mast_train.presets import preset
from mast_train.trainer import Trainer

SEEDS = (0, 1, 2)


def config(method="mast", **settings):
    base = {
        "env.name": "matrix", "env.map": "two_step", "env.num_envs": 8, "net.hidden": 16, "mixer.embed": 8,
        "mixer.hypernet_hidden": 16, "train.total_steps": 800, "train.epsilon_steps": 400, "train.eval_interval": 300,
        "train.eval_episodes": 16, "sparse.update_interval": 10, "replay.capacity": 60, "train.save_minutes": 1e6,
    }  # fmt: skip
    return override(preset(method), {**base, **settings})


def separately(settings):
    """Of each seed the trainer at its end, and its progress and evaluations."""
    trainers = [Trainer(replace(settings, seed=seed)) for seed in SEEDS]
    return [(trainer, list(trainer.events())) for trainer in trainers]


def together(settings):
    trainers = [Trainer(replace(settings, seed=seed)) for seed in SEEDS]
    events = list(Lockstep(trainers).events())
    return [(trainer, [event for run, event in events if run is trainer]) for trainer in trainers]


def assert_same_runs(separate, joint):
    for (alone, expected), (beside, events) in zip(separate, joint, strict=True):
        assert [replace(e, seconds={}) if isinstance(e, Progress) else e for e in events] == [
            replace(e, seconds={}) if isinstance(e, Progress) else e for e in expected
        ]
        for part in ("learner", "replay"):
            state, other = getattr(alone, part).state_dict(), getattr(beside, part).state_dict()
            assert state.keys() == other.keys()
            assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
        assert torch.equal(alone.exploration.get_state(), beside.exploration.get_state())
        assert torch.equal(alone.sampling.get_state(), beside.sampling.get_state())
        assert alone.env.state_dict() == beside.env.state_dict()


@pytest.mark.parametrize(
    ("method", "settings"),
    [("mast", {}), ("mast", {"net.shared": True}), ("mast-scaled", {}), ("rlx2", {}), ("set", {}), ("tiny", {}),
     ("dense", {"train.optimizer": "rmsprop"}), ("mast", {"algorithm": "vdn"}),
     ("mast", {"algorithm": "owqmix"}), ("rigl", {"algorithm": "cwqmix"}), ("mast", {"algorithm": "res"})],
)  # fmt: skip
def test_seeds_trained_together_are_what_they_are_alone_to_the_bit(method, settings):
    wanted = config(method, **{"wqmix.embed": 16, **settings})
    assert_same_runs(separately(wanted), together(wanted))
