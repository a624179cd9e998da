"""VMAS: robots in a plane. The batch is one simulation, and its worlds still end, freeze and repeat one by one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mast_train.envs import available_maps
from mast_train.envs.find import load_factory
from mast_train.envs.scene import Circle
from mast_train.runs.run import build_env
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")


def vmas(name="navigation", num_envs=3, seed=0, options=None, **settings):
    return build_env(
        EnvConfig("vmas", name, num_envs, options=options or {}, **{"reward_scale": 1.0, **settings}), seed, CPU
    )


def actions(env, generator):
    shape = (env.num_envs, env.spec.n_agents)
    return torch.randint(env.spec.n_actions, shape, generator=generator)


def test_the_contract_of_navigation():
    env = vmas(options={"n_agents": 3})
    spec, seen = env.spec, env.reset()
    assert (spec.n_agents, spec.obs_dim, spec.n_actions, spec.state_dim) == (3, 18, 9, 54)
    assert spec.agent_types == ("agent",) * 3 and spec.episode_limit == 100 and spec.version == "vmas 1.5.2"
    assert seen.obs.shape == (3, 3, 18) and seen.avail_actions.all()
    assert torch.equal(seen.state, seen.obs.flatten(1))
    assert not torch.equal(seen.obs[0], seen.obs[1])


def test_the_limit_truncates_and_a_finished_world_waits():
    env, generator = vmas(episode_limit=4), torch.Generator().manual_seed(0)
    env.reset()
    steps = [env.step(actions(env, generator)) for _ in range(6)]
    assert [bool(s.truncated.all()) for s in steps] == [False] * 3 + [True] * 3
    assert not steps[-1].terminated.any() and not steps[-1].won.any()
    assert not steps[4].reward.any() and steps[3].reward.any()
    assert torch.equal(steps[5].next.obs, steps[3].next.obs) and not torch.equal(steps[3].next.obs, steps[2].next.obs)


def test_robots_put_on_their_goals_have_won():
    env = vmas(num_envs=2)
    env.reset()
    for agent in env._env.world.agents:
        agent.set_pos(agent.goal.state.pos[0], batch_index=0)
    last = env.step(torch.zeros(2, 4, dtype=torch.int64))
    assert last.won.tolist() == last.terminated.tolist() == [True, False]
    frozen = env.step(torch.full((2, 4), 3))
    assert frozen.terminated.tolist() == [True, False] and float(frozen.reward[0]) == 0.0
    assert torch.equal(frozen.next.obs[0], last.next.obs[0]) and not torch.equal(frozen.next.obs[1], last.next.obs[1])


def test_where_an_end_may_be_a_failure_there_is_no_win():
    env = vmas("balance")
    env.reset()
    assert env.step(torch.zeros(3, 3, dtype=torch.int64)).won is None


def test_the_team_earns_the_sum_or_the_mean_of_its_robots():
    total, mean = vmas(reward_scale=2.0), vmas(team_reward="mean")
    for env in (total, mean):
        env.reset()
    joint = torch.ones(3, 4, dtype=torch.int64)
    assert torch.allclose(total.step(joint).reward, 8.0 * mean.step(joint).reward)


def test_episodes_repeat_from_the_saved_stream_and_nothing_else_notices():
    env, other = vmas("dispersion", seed=5), vmas("dispersion", seed=6)
    env.reset()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    outside = torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()
    saved = json.loads(json.dumps(env.state_dict()))
    joint = torch.full((3, 4), 2)
    first = [env.reset().obs, env.step(joint).next.obs]
    other.load_state_dict(saved)
    between = other.reset().obs
    env.reset()
    again = [between, other.step(joint).next.obs]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.random.get_rng_state(), outside[0]) and random.getstate() == outside[2]
    assert np.array_equal(np.random.get_state()[1], outside[1])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("navigaton", {}, ["did you mean 'navigation'?"]),
        ("navigation", {"n_robots": 3}, ["n_robots", "not used by the scenario"]),
        ("navigation", {"reward_scale": 3}, ["env.reward_scale", "set that one"]),
    ],
)
def test_mistakes_are_named_on_one_line(name, options, words):
    with pytest.raises(UserError) as error:
        vmas(name, options=options)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_the_picture_shows_every_robot_and_its_target():
    env = vmas(options={"n_agents": 3})
    env.reset()
    circles = [shape for shape in env.picture().shapes if isinstance(shape, Circle)]
    assert [circle.label for circle in circles] == ["", "", "", "0", "1", "2"]
    assert circles[3].centre == pytest.approx(tuple(env._env.world.agents[0].state.pos[0].tolist()))


def test_the_maps_are_the_scenarios():
    assert {"navigation", "dispersion", "transport"} <= set(available_maps("vmas"))


def test_one_world_through_the_parallel_env_contract_is_the_same_task():
    """examples/robots.py: the same seed and actions give the observations and rewards of the batched adapter."""
    batched, generator = vmas(num_envs=1, episode_limit=5), torch.Generator().manual_seed(3)
    number = int(np.random.default_rng(0).integers(2**31))
    alone = load_factory(f"{Path(__file__).resolve().parent.parent / 'examples' / 'robots.py'}:Robots")(max_cycles=5)
    seen, _ = alone.reset(seed=number)
    first = batched.reset()
    for agent, expected in zip(alone.agents, first.obs[0], strict=True):
        assert np.array_equal(seen[agent], expected.numpy())
    for _ in range(5):
        joint = actions(batched, generator)
        seen, rewards, terminated, truncated, _ = alone.step(dict(zip(alone.agents, joint[0].tolist(), strict=True)))
        step = batched.step(joint)
        assert np.array_equal(np.stack(list(seen.values())), step.next.obs[0].numpy())
        assert sum(rewards.values()) == pytest.approx(float(step.reward[0]), abs=1e-6)
        assert all(value == bool(step.truncated[0]) for value in truncated.values()) and not any(terminated.values())
    assert alone.agents == []
