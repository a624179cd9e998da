"""What was executed in place of a decision, and inputs outside the range that training saw, on every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import observed, random_bundle

from mast_runtime import ObservationError, native
from mast_runtime.backends import installed_backends
from mast_runtime.native import NativeStep, make_team, new_agent

BACKENDS = installed_backends()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
def test_the_executed_action_is_the_next_last_action(backend, shared):
    """An agent that is told equals one that could not do anything else; a team does as its agents do."""
    bundle, rng = random_bundle(3, hidden=20, shared=shared), np.random.default_rng(0)
    c = bundle.contract
    told, forced = bundle.agent(1, backend), bundle.agent(1, backend)
    team, whole = bundle.team(backend=backend), [bundle.agent(i, backend) for i in range(3)]
    for step in range(12):
        obs, done = rng.standard_normal((3, c.obs_dim)).astype(np.float32), rng.integers(0, c.n_actions, 3)
        told.act(obs[1])
        forced.act(obs[1], np.arange(c.n_actions) == done[1])
        np.testing.assert_allclose(told.q, forced.q, atol=1e-5)
        chosen = team.act(obs)
        assert chosen.tolist() == [agent.act(obs[i]) for i, agent in enumerate(whole)]
        np.testing.assert_allclose(team.q, [agent.q for agent in whole], atol=1e-5)
        told.executed(int(done[1]))
        if step % 3:
            team.executed(done)
            for agent, action in zip(whole, done, strict=True):
                agent.executed(action)
        assert told.last_action == done[1]
        assert team.last_action.tolist() == [agent.last_action for agent in whole]


@pytest.mark.parametrize("backend", BACKENDS)
def test_lanes_are_told_as_single_agents_are(backend):
    bundle, rng = random_bundle(4, n_agents=1, hidden=20), np.random.default_rng(0)
    c = bundle.contract
    team, agents = bundle.team(40, backend), [bundle.agent(0, backend) for _ in range(40)]
    for _ in range(4):
        obs, done = rng.standard_normal((40, c.obs_dim)).astype(np.float32), rng.integers(0, c.n_actions, 40)
        assert team.act(obs).tolist() == [agent.act(row) for agent, row in zip(agents, obs, strict=True)]
        np.testing.assert_allclose(team.q, [agent.q for agent in agents], atol=1e-5)
        team.executed(done.tolist())
        for agent, action in zip(agents, done.tolist(), strict=True):
            agent.executed(action)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_have_been_executed_is_refused(backend):
    bundle = random_bundle(3, hidden=8)
    agent, team, obs = bundle.agent(0, backend), bundle.team(backend=backend), np.zeros((3, 20), np.float32)
    with pytest.raises(
        ObservationError, match=r"executed action 2: there was no decision yet in this episode; call act"
    ):
        agent.executed(2)
    with pytest.raises(ObservationError, match=r"executed action 2 of agent 0: there was no decision"):
        team.executed([2, 2, 2])
    agent.act(obs[0])
    team.act(obs)
    before = agent.last_action, team.last_action.tolist()
    wrong: Any
    for wrong in (-1, 7, 2.0, "2", None, True, 1 << 80, [1]):
        with pytest.raises(ObservationError, match=r"executed action .*: expected a whole number from 0 to 6"):
            agent.executed(wrong)
        with pytest.raises(ObservationError, match=r"executed action"):
            team.executed([0, wrong, 0])
    for wrong in ([0, 0], [[0, 0, 0]], 3, [], None):
        with pytest.raises(ObservationError, match=r"executed actions have shape .*, expected \[3\]"):
            team.executed(wrong)
    assert (agent.last_action, team.last_action.tolist()) == before
    agent.reset()
    with pytest.raises(ObservationError, match="no decision yet"):
        agent.executed(2)
    team.reset([1])
    with pytest.raises(ObservationError, match="of agent 1: there was no decision"):
        team.executed([2, 2, 2])


def slow_count(inputs, obs) -> np.ndarray:
    """Outside low and high by more than 1/256 of the range and 1e-6, counted one by one."""
    counts = []
    for low, high, value in zip(inputs.low, inputs.high, obs, strict=True):
        slack = (float(high) - float(low)) / 256 + 1e-6 * max(1.0, abs(low), abs(high))
        counts.append(int(value < np.float32(low - slack) or value > np.float32(high + slack)))
    return np.array(counts)


@pytest.mark.parametrize("obs_dim", [1, 7, 16, 20, 33])
@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_outside_their_range_are_counted(backend, obs_dim):
    bundle, rng = observed(random_bundle(5, obs_dim=obs_dim, hidden=12)), np.random.default_rng(0)
    agent, team, expected = bundle.agent(1, backend), bundle.team(24, backend), np.zeros((24, obs_dim), int)
    for scale in (0.0, 0.3, 1.0, 3.0, 1e4):
        obs = (scale * rng.standard_normal((24, obs_dim))).astype(np.float32)
        agent.act(obs[1])
        team.act(obs)
        expected += [slow_count(bundle.networks[i % 3].inputs, row) for i, row in enumerate(obs)]
    assert team.out_of_range_counts.tolist() == expected.tolist() and team.out_of_range == expected.sum() > 0
    assert agent.out_of_range_counts.tolist() == expected[1].tolist() and agent.out_of_range == expected[1].sum()
    with pytest.raises(ObservationError):
        agent.act(np.full(obs_dim, np.nan))
    agent.reset()
    assert agent.out_of_range == expected[1].sum(), (
        "a refused observation is none, and an episode's end forgets nothing"
    )


@pytest.mark.parametrize("level", native.levels())
def test_every_level_sees_one_input_just_outside(level):
    bundle = observed(random_bundle(5, obs_dim=37, hidden=12))
    network = bundle.networks[0]
    assert network.inputs is not None
    low, high = (np.asarray(x) for x in network.inputs.limits())
    agent = new_agent(bundle.contract, NativeStep(bundle.contract, network, level), 0)
    for i in range(37):
        for limit, outwards in ((low, -np.inf), (high, np.inf)):
            obs = network.inputs.mean.copy()
            obs[i] = limit[i]
            before = agent.out_of_range
            agent.act(obs)
            assert agent.out_of_range == before, "the limit itself is inside"
            obs[i] = np.nextafter(limit[i], np.float32(outwards))
            agent.act(obs)
            assert agent.out_of_range == before + 1
    assert agent.out_of_range_counts.tolist() == [2] * 37


@pytest.mark.parametrize("obs_dim", [1, 7, 8, 9, 37])
@pytest.mark.parametrize("level", native.levels())
def test_every_level_counts_in_lanes(level, obs_dim):
    """40 agents of one network: a tile and part of one. A decision that one agent's NaN undoes counts nothing."""
    bundle = observed(random_bundle(5, n_agents=1, obs_dim=obs_dim, hidden=12))
    network = bundle.networks[0]
    assert network.inputs is not None
    low, high = (np.asarray(x) for x in network.inputs.limits())
    team, rng, expected = make_team(bundle.contract, [network], [0], 40, level), np.random.default_rng(0), 0
    for share in (0.0, 0.0, 0.01, 0.1, 1.0):
        up, outside = rng.random((2, 40, obs_dim)) < np.array([0.5, share])[:, None, None]
        inside = np.where(up, high, low)
        beyond = np.nextafter(inside, np.where(up, np.float32(np.inf), np.float32(-np.inf)))
        obs = np.where(outside, beyond, inside)
        for who in (0, 31, 39):
            broken = obs.copy()
            broken[who, -1] = np.nan
            with pytest.raises(ObservationError, match=rf"obs\[{obs_dim - 1}\] of agent {who} is nan"):
                team.act(broken)
        team.act(obs)
        expected = expected + outside
        assert team.out_of_range_counts.tolist() == expected.tolist() and team.out_of_range == expected.sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_known_range_nothing_is_outside(backend):
    agent = random_bundle(1).agent(0, backend)
    agent.act(np.full(20, 1e5, np.float32))
    assert agent.out_of_range == 0 and not agent.out_of_range_counts.any()


def test_a_range_as_wide_as_float32_has_limits():
    inputs = observed(random_bundle(1)).networks[0].inputs
    assert inputs is not None
    wide = replace(inputs, low=np.full(20, -3e38, np.float32), high=np.full(20, 3.4e38, np.float32))
    assert np.isfinite(wide.limits()).all()
