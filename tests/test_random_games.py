"""Random environments: episodes are what a slow loop says, and a hundred steps of training go through."""

from __future__ import annotations

import numpy as np
import random_games
import torch
from hypothesis import HealthCheck, given, settings
from learning import events
from random_games import expected, plans

from mast_train.experience.rollout import random_policy, rollout
from mast_train.runs.run import Run, build_env
from mast_train.settings.config import EnvConfig, override
from mast_train.settings.methods import preset

CPU = torch.device("cpu")
SMALL = {
    "env.name": "pettingzoo", "env.map": "random_games:make", "env.num_envs": 2, "env.reward_scale": 1.0,
    "net.hidden": 8, "mixer.embed": 4, "mixer.hypernet_hidden": 4, "replay.capacity": 20, "replay.batch": 4,
    "replay.recent_batch": 2, "train.total_steps": 100, "train.eval_interval": 50, "train.eval_episodes": 2,
}  # fmt: skip


def check_episodes(plan):
    env = build_env(EnvConfig("pettingzoo", "random_games:make", 2, 1.0), 3, CPU)
    seeds = np.random.default_rng(3).integers(2**31, size=2).tolist()
    played = rollout(env, random_policy(env.spec, torch.Generator().manual_seed(0)))
    batch, longest = played.episodes, 0
    for b, seed in enumerate(seeds):
        frames, ends = expected(plan, seed, env.spec.obs_dim, env.spec.n_actions)
        length, longest = len(ends), max(longest, len(ends))
        for t, (obs, state, avail) in enumerate(frames):
            assert np.array_equal(batch.obs[b, t].numpy(), obs), (t, batch.obs[b, t], obs)
            assert np.array_equal(batch.state[b, t].numpy(), state)
            assert np.array_equal(batch.avail_actions[b, t].numpy(), avail)
        columns = (batch.reward, batch.terminated, batch.truncated)
        assert [tuple(column[b, t].item() for column in columns) for t in range(length)] == ends
        assert batch.filled[b].tolist() == [t < length for t in range(batch.filled.shape[1])]
        for padding in (*columns, batch.actions):
            assert not padding[b, length:].any()
    assert batch.filled.shape[1] == longest
    told = [plan.told(seed) for seed in seeds]
    won, says = played.verdicts()
    assert (won.tolist(), says.tolist()) == ([bool(x) for x in told], [x is not None for x in told])


def check_training():
    run = Run(override(preset("mast"), SMALL))
    seen = list(events(run))
    assert run.step >= 100 and seen
    assert all(torch.isfinite(parameter).all() for parameter in run.learner.agents.parameters())


def test_random_environments_are_played_by_the_contract_and_trained_on(request):
    """`--random-games N` says how many."""

    @settings(
        max_examples=request.config.getoption("--random-games"), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(plans())
    def check(plan):
        random_games.current[:] = [plan]
        check_episodes(plan)
        check_training()

    check()
