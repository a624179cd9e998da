"""What an agent and a team promise, under every backend installed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from networks import random_bundle

from mast_runtime import BackendError, ObservationError
from mast_runtime.agent import Team
from mast_runtime.backends import installed_backends
from mast_runtime.network import Contract

OBS, ACTIONS = 20, 7


def observations(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def availability(seed: int, *shape: int) -> np.ndarray:
    avail = np.random.default_rng(seed).random(shape) < 0.5
    avail[..., 0] |= ~avail.any(-1)
    return avail


@pytest.fixture(params=installed_backends())
def backend(request) -> str:
    return request.param


class FixedStep:
    """Answers the action values it was given; counts its calls in the first hidden unit."""

    hidden = 2

    def __init__(self, q) -> None:
        self.q = np.asarray(q, np.float32)

    def __call__(self, obs, last_action, agent_id, hidden):
        return np.tile(self.q, (len(obs), 1)), hidden + np.float32(1.0)


def fixed_team(q, n: int = 1) -> Team:
    return Team(Contract(OBS, len(q), n), [FixedStep(q)], [0], n, "fixed")


def test_agents_of_a_team_act_as_each_would_alone(backend):
    bundle = random_bundle(1)
    team = bundle.team(backend=backend)
    agents = [bundle.agent(i, backend=backend) for i in range(3)]
    for t in range(30):
        obs, avail = observations(t, 3, OBS), availability(t, 3, ACTIONS)
        together = team.act(obs, avail)
        alone = [agent.act(obs[i], avail[i]) for i, agent in enumerate(agents)]
        assert together.tolist() == alone == team.last_action.tolist() == [agent.last_action for agent in agents]
        np.testing.assert_allclose(team.q, [agent.q for agent in agents], atol=1e-6)
        np.testing.assert_allclose(team.hidden, [agent.hidden for agent in agents], atol=1e-6)


def test_a_larger_team_repeats_the_bundle(backend):
    bundle = random_bundle(2)
    team, small = bundle.team(6, backend=backend), bundle.team(backend=backend)
    for t in range(5):
        obs = observations(t, 3, OBS)
        assert team.act(np.tile(obs, (2, 1))).tolist() == small.act(obs).tolist() * 2
    with pytest.raises(ValueError, match="multiple of the bundle's 3 agents"):
        bundle.team(4)


def test_agents_of_a_shared_network_differ_by_their_id(backend):
    bundle = random_bundle(3, shared=True)
    team = bundle.team(backend=backend)
    obs = np.tile(observations(0, OBS), (3, 1))
    team.act(obs)
    assert len(np.unique(team.q, axis=0)) == 3
    for i in range(3):
        agent = bundle.agent(i, backend=backend)
        agent.act(obs[i])
        np.testing.assert_allclose(agent.q, team.q[i], atol=1e-6)


def test_a_bundle_of_one_agent():
    bundle = random_bundle(4, n_agents=1)
    agent, team = bundle.agent(), bundle.team(2)
    obs = observations(0, OBS)
    assert team.act([obs, obs]).tolist() == [agent.act(obs)] * 2
    with pytest.raises(IndexError, match="agents 0 to 0"):
        bundle.agent(1)


def test_an_unknown_backend():
    with pytest.raises(BackendError, match="unknown backend 'abacus'"):
        random_bundle(0).agent(backend="abacus")


def test_memory_and_last_action_matter_and_reset_forgets_them(backend):
    agent = random_bundle(5).agent(backend=backend)
    obs = observations(0, OBS)
    assert agent.last_action == -1 and not agent.hidden.any()
    agent.act(obs)
    first = agent.q.copy()
    agent.act(obs)
    assert not np.allclose(agent.q, first)
    agent.reset()
    assert agent.last_action == -1 and not agent.hidden.any() and not agent.q.any()
    agent.act(obs)
    np.testing.assert_array_equal(agent.q, first)


def test_reset_of_no_agent(backend):
    team = random_bundle(6).team(backend=backend)
    team.act(observations(0, 3, OBS))
    hidden = team.hidden.copy()
    team.reset([])
    np.testing.assert_array_equal(team.hidden, hidden)


def test_the_returned_actions_are_the_callers(backend):
    team = random_bundle(6).team(backend=backend)
    actions = team.act(observations(0, 3, OBS))
    kept = actions.copy()
    actions[:] = 99
    np.testing.assert_array_equal(team.last_action, kept)


@pytest.mark.parametrize("which", [[False, True, False], [1], np.array([1])], ids=["bool", "list", "array"])
def test_reset_of_some_agents(which, backend):
    team = random_bundle(6).team(backend=backend)
    team.act(observations(0, 3, OBS))
    hidden, last = team.hidden.copy(), team.last_action.copy()
    team.reset(which)
    assert not team.hidden[1].any() and team.last_action[1] == -1
    np.testing.assert_array_equal(team.hidden[[0, 2]], hidden[[0, 2]])
    np.testing.assert_array_equal(team.last_action[[0, 2]], last[[0, 2]])


def test_ties_go_to_the_lowest_available_action():
    team = fixed_team([1.0, 5.0, 5.0, 9.0, 5.0])
    assert team.act([[0.0] * OBS], [[1, 0, 1, 0, 1]]).tolist() == [2]
    assert team.act([[0.0] * OBS], [[True, True, True, False, True]]).tolist() == [1]
    assert team.act([[0.0] * OBS]).tolist() == [3]


def test_an_unavailable_action_is_never_chosen(backend):
    lowest = np.finfo(np.float32).min
    team = fixed_team([lowest, 3.0, lowest])
    assert team.act([[0.0] * OBS], [[False, False, True]]).tolist() == [2]
    team = random_bundle(7).team(300, backend=backend)
    for t in range(5):
        avail = availability(t, 300, ACTIONS)
        assert avail[np.arange(300), team.act(observations(t, 300, OBS), avail)].all()


BAD_INPUT = {
    "nan": ((0, 3, np.nan), None, r"obs\[3\] of agent 0 is nan"),
    "infinite": ((1, 0, -np.inf), None, r"obs\[0\] of agent 1 is -inf"),
    "no action": (None, (2, slice(None), False), "agent 2 has no available action"),
}


@pytest.mark.parametrize(("obs_at", "avail_at", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_leaves_the_state(obs_at, avail_at, message, backend):
    team = random_bundle(8).team(backend=backend)
    obs, avail = observations(0, 3, OBS), np.ones((3, ACTIONS), bool)
    team.act(obs, avail)
    before = team.hidden.copy(), team.last_action.copy(), team.q.copy()
    for array, at in ((obs, obs_at), (avail, avail_at)):
        if at is not None:
            array[at[:2]] = at[2]
    with pytest.raises(ObservationError, match=message):
        team.act(obs, avail)
    for now, then in zip((team.hidden, team.last_action, team.q), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_action_values_that_overflow_leave_the_state(backend):
    agent = random_bundle(9).agent(backend=backend)
    agent.act(observations(0, OBS))
    hidden, last = agent.hidden.copy(), agent.last_action
    with pytest.raises(ObservationError, match="overflow float32"):
        fixed_team([np.inf, 0.0]).act(np.zeros((1, OBS)))
    for large in (3e38, 1e39, 1e300):
        with pytest.raises(ObservationError, match=r"overflow float32|is inf"):
            agent.act(np.full(OBS, large))
    np.testing.assert_array_equal(agent.hidden, hidden)
    assert agent.last_action == last


@pytest.mark.parametrize(
    ("obs", "avail", "message"),
    [
        (np.zeros(OBS + 1), None, r"obs has shape \[21\], expected \[20\]"),
        (np.zeros((1, OBS)), None, r"expected \[20\]"),
        (0.0, None, r"obs has shape \[\], expected \[20\]"),
        ([[1.0], [2.0, 3.0]], None, "obs is not an array of numbers"),
        (["x"] * OBS, None, "obs is not an array of numbers"),
        (np.zeros(OBS), np.ones(ACTIONS - 1), r"avail_actions has shape \[6\], expected \[7\]"),
        (np.zeros(OBS), ["x"] * ACTIONS, "avail_actions is not an array of flags"),
        (np.zeros(OBS), [[1.0], [1.0, 0.0]], "avail_actions is not an array of flags"),
        (np.zeros(OBS), [np.nan] * ACTIONS, "avail_actions"),
    ],
)
def test_input_of_another_kind(obs, avail, message, backend):
    with pytest.raises(ObservationError, match=message):
        random_bundle(10).agent(backend=backend).act(obs, avail)


def test_integers_and_float64_are_welcome(backend):
    bundle = random_bundle(11)
    obs = np.arange(OBS) % 3
    agents = [bundle.agent(backend=backend) for _ in range(4)]
    inputs = (obs, obs.tolist(), obs.astype(np.float64), obs.astype(np.float32))
    assert len({agent.act(x, [1] * ACTIONS) for agent, x in zip(agents, inputs, strict=True)}) == 1


def test_one_agent_per_thread(backend):
    bundle = random_bundle(12, n_agents=4, shared=True)
    steps = observations(0, 200, OBS)

    def episode(i: int) -> list[int]:
        agent = bundle.agent(i % 4, backend=backend)
        return [agent.act(obs) for obs in steps]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(episode, range(8)))
    assert together == [episode(i) for i in range(8)]


def test_importing_the_runtime_loads_no_framework():
    code = (
        "import sys, mast_runtime, mast_runtime.agent, mast_runtime.backends, mast_runtime.backends.reference\n"
        "heavy = {'torch', 'jax', 'onnx', 'onnxruntime', 'mast_train', 'mast_export'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
