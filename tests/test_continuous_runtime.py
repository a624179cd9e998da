"""Continuous actions in the runtime: agents and teams on every backend, what was executed, limits, files."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bounded import HEAD, bounded_bundle, by_hand, recorded

from mast_runtime import ObservationError, load, native, save
from mast_runtime.backends import installed_backends
from mast_runtime.inner import inner_contract
from mast_runtime.measure.flops import TANH, network_counts
from mast_runtime.measure.inspect import describe
from mast_runtime.selftest.replay import replay

BACKENDS = installed_backends()
SIZES = [len(row) for row in HEAD.low]


def observations(steps: int = 10, n: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((steps, n, 20)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate_limit", [None, 0.04])
@pytest.mark.parametrize("shared", [False, True])
def test_agents_and_a_team_act_as_by_hand(backend, rate_limit, shared):
    """Every agent in its own units and its own number of components; the last action is an input."""
    bundle, obs = bounded_bundle(1, rate_limit, shared, hidden=24), observations()
    outputs, actions = by_hand(bundle, obs)
    team: Any = bundle.team(backend=backend)
    agents: list[Any] = [bundle.agent(i, backend) for i in range(3)]
    for t in range(len(obs)):
        given = team.act(obs[t])
        assert given.dtype == np.float32
        np.testing.assert_allclose(given, actions[t], atol=2e-5)
        np.testing.assert_allclose(team.q, outputs[t], atol=2e-5)
        np.testing.assert_array_equal(team.last_action, given)
        for i, agent in enumerate(agents):
            own = agent.act(obs[t, i])
            assert own.shape == (SIZES[i],) and own.dtype == np.float32
            np.testing.assert_allclose(own, actions[t, i, : SIZES[i]], atol=2e-5)
    low, high = (np.array([np.resize(row, 3) for row in rows]) for rows in (HEAD.low, HEAD.high))
    assert np.ptp(actions, 0)[np.arange(3) < np.array(SIZES)[:, None]].min() > 0
    assert (actions >= np.minimum(low, 0) - 1e-6).all() and (actions <= np.maximum(high, 0) + 1e-6).all()


def test_a_rate_limit_counts_from_the_last_action_and_from_the_middle_at_first():
    bundle, obs = bounded_bundle(2, 0.05, hidden=24), observations(30)
    free = bounded_bundle(2, None, hidden=24).team()
    team: Any = bundle.team()
    ranges = np.array([[0.5, 7.0, 1.0], [0.4, 1.0, 1.0], [1.0, 2.0, 1.0]])
    before, hit = team.last_action, 0
    np.testing.assert_allclose(before, [[0.0, 1.5, 0.5], [0.1, 0.0, 0.0], [3.5, 0.0, 0.0]])
    for row in obs:
        now, unlimited = team.act(row), free.act(row)
        assert (np.abs(now - before) <= 0.05 * ranges + 1e-6).all()
        hit += int((np.abs(unlimited - free.last_action.mean()) > 0).any() and np.abs(now - unlimited).max() > 1e-3)
        before = now
    assert hit > 0
    team.executed([[0.25, 5.0, 1.0], [0.3], [4.0, 1.0]])
    assert (team.act(obs[0])[0] >= np.array([0.225, 4.65, 0.95]) - 1e-6).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_executed_is_the_next_last_action(backend):
    """Outside the bounds it counts as the bound; rows are padded or of their own size."""
    bundle, obs = bounded_bundle(3, hidden=24), observations()
    done = np.random.default_rng(1).uniform(-3, 6, (10, 3, 3)).astype(np.float32)
    outputs, _ = by_hand(bundle, obs, done)
    team: Any = bundle.team(backend=backend)
    agents: list[Any] = [bundle.agent(i, backend) for i in range(3)]
    for t in range(len(obs)):
        team.act(obs[t])
        np.testing.assert_allclose(team.q, outputs[t], atol=2e-5)
        team.executed(done[t] if t % 2 else [row[:size] for row, size in zip(done[t], SIZES, strict=True)])
        for i, agent in enumerate(agents):
            agent.act(obs[t, i])
            np.testing.assert_allclose(agent.q, outputs[t, i, : SIZES[i]], atol=2e-5)
            agent.executed(done[t, i, : SIZES[i]].tolist())
            np.testing.assert_array_equal(agent.last_action, team.last_action[i, : SIZES[i]])
            assert agent.last_action == pytest.approx(np.clip(done[t, i, : SIZES[i]], HEAD.low[i], HEAD.high[i]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_cannot_be_is_refused_and_changes_nothing(backend):
    bundle, obs = bounded_bundle(4, hidden=8), observations()
    agent: Any = bundle.agent(0, backend)
    team: Any = bundle.team(backend=backend)
    with pytest.raises(ObservationError, match=r"executed action: there was no decision yet in this episode; call act"):
        agent.executed([0.0, 0.0, 0.0])
    agent.act(obs[0, 0])
    team.act(obs[0])
    kept = agent.last_action, agent.hidden, team.last_action, team.hidden
    for wrong, words in (
        ([0.0], r"executed action has shape \[1\], expected \[3\]"),
        (0.5, r"has shape \[\], expected \[3\]"),
        ([0.0, np.nan, 0.0], r"nan.*every component must be finite"),
        ([0.0, np.inf, 0.0], r"inf.*every component must be finite"),
        (["a", 0, 0], "not an array of numbers"),
    ):
        with pytest.raises(ObservationError, match=words):
            agent.executed(wrong)
        with pytest.raises(ObservationError, match=r"executed action.* of agent 0"):
            team.executed([wrong, [0.0], [3.0, 0.0]])
    with pytest.raises(ObservationError, match=r"executed actions of 2 agents, expected 3"):
        team.executed([[0.0] * 3] * 2)
    for wrong in (3, None, 0.5):
        with pytest.raises(ObservationError, match=r"executed actions are no rows of numbers"):
            team.executed(wrong)
    with pytest.raises(ObservationError, match=r"executed action of agent 1 has shape \[2\], expected \[1\]"):
        team.executed([[0.0] * 3, [0.0, 0.0], [3.0, 0.0]])
    with pytest.raises(ObservationError, match=r"executed action of agent 2 is not an array of numbers"):
        team.executed([[0.0] * 3, [0.0], [[0.0], [1.0, 2.0]]])
    with pytest.raises(ObservationError, match=r"obs has shape \[19\], expected \[20\]"):
        agent.act(obs[0, 0, 1:])
    with pytest.raises(ObservationError, match=r"obs\[2\] of agent 1 is nan"):
        team.act(np.where(np.arange(60).reshape(3, 20) == 22, np.nan, obs[1]))
    with pytest.raises(ObservationError, match=r"nan|inf"):
        agent.act(np.full(20, np.inf, np.float32))
    for one in (agent, team):
        with pytest.raises(ObservationError, match=r"avail_actions was given, but continuous actions are not chosen"):
            one.act(obs[0], np.ones((3, 3), np.bool_))
    for before, now in zip(kept, (agent.last_action, agent.hidden, team.last_action, team.hidden), strict=True):
        np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_forgets_all_or_some_and_inputs_out_of_range_are_counted(backend):
    bundle, obs = recorded(bounded_bundle(5, hidden=16)), observations(4, 6)
    team, fresh = bundle.team(6, backend), bundle.team(6, backend)
    team.act(obs[0])
    team.act(obs[1])
    team.reset([1, 4])
    mixed, new = team.act(obs[2]), fresh.act(obs[2])
    np.testing.assert_allclose(mixed[[1, 4]], new[[1, 4]], atol=1e-6)
    assert np.abs(mixed - new)[[0, 2, 3, 5]].max() > 1e-4
    team.reset()
    np.testing.assert_allclose(team.act(obs[2]), new, atol=1e-6)
    agent, far = bundle.agent(2, backend), np.zeros(20, np.float32)
    far[7] = 100.0
    agent.act(np.zeros(20, np.float32))
    assert agent.out_of_range == 0
    agent.act(far)
    assert agent.out_of_range == 1 and agent.out_of_range_counts.tolist() == (np.arange(20) == 7).tolist()
    assert team.out_of_range_counts.shape == (6, 20)


@pytest.mark.parametrize("rate_limit", [None, 0.1])
def test_a_file_holds_the_head_and_a_recording_that_every_engine_replays(tmp_path, rate_limit):
    bundle = recorded(bounded_bundle(6, rate_limit, hidden=16))
    save(bundle, tmp_path / "p.mast")
    again = load(tmp_path / "p.mast")
    assert again.contract == bundle.contract and again.contract.head == replace(HEAD, rate_limit=rate_limit)
    for before, now in zip(bundle.networks, again.networks, strict=True):
        assert now.recording == before.recording and now.recording is not None
    first: list[Any] = [network.recording.actions[0] for network in again.networks if network.recording]
    assert [*map(len, first)] == SIZES
    result = replay(again)
    assert result.passed and {check.backend for check in result.checks} >= {"reference", "onnx"}
    drifted = replace(again.networks[1], fc2_bias=again.networks[1].fc2_bias + 0.02)
    failed = replay(replace(again, networks=(again.networks[0], drifted, again.networks[2])))
    assert not any(check.passed for check in failed.checks)
    assert re.match(r"ally_1, step \d+: action \[0\.\d+\], recorded \[0\.\d+\]$", failed.checks[0].differs)


def test_the_description_and_the_costs_know_the_head():
    bundle = bounded_bundle(7, 0.1, hidden=16)
    found = describe(bundle).as_dict()
    assert found["contract"]["head"]["rate_limit"] == 0.1
    counts = network_counts(bundle.contract, bundle.networks[0])
    assert not counts.one_hots
    greedy = network_counts(replace(bundle.contract, head=None), bundle.networks[0])
    (last,) = greedy.one_hots
    looked_up = 2 * last.nnz - last.nnz / last.inputs
    assert counts.counted_flops == pytest.approx(greedy.counted_flops + looked_up + 3 * (TANH + 2) - (2 * 3 - 1))


@pytest.mark.skipif(bool(native.missing()), reason="the C extension is not built")
def test_the_native_agent_refuses_buffers_that_do_not_fit():
    agent: Any = native.new_agent(
        inner_contract(bounded_bundle(1, hidden=8).contract), _native_step(bounded_bundle(1, hidden=8)), 0
    )
    x, last, out = np.zeros(23, np.float32), np.zeros(3, np.float32), np.zeros(2, np.float32)
    bounds = np.array([-1, -2, 1, 2, 0, 0, 1, 2, 4, 4], np.float32)
    with pytest.raises(ValueError, match=r"bounded\(\) before bind\(\)"):
        agent.bounded(x)
    agent.bind(last, bounds, out, False, None)
    agent.bounded(x)
    unbound: Any = native.new_agent(agent.contract, _native_step(bounded_bundle(1, hidden=8)), 0)
    assert last[:2].any() and last[2] == 0 and out == pytest.approx(last[:2] * [1, 2])
    fixed = np.zeros(3, np.float32)
    fixed.flags.writeable = False
    wrong: list[tuple] = [
        (), (last, bounds, out), (last, bounds, out, False),
        (last, bounds, out, False, None, out), (last[1:], bounds, out, False, None),
        (fixed, bounds, out, False, None), (last, bounds[1:], out, False, None),
        (last, bounds, np.zeros(0, np.float32), False, None),
        (last, bounds, np.zeros(4, np.float32), False, None), (last, bounds, np.zeros(2), False, None),
        (last, bounds, None, False, None), (None, bounds, out, False, None), (last[::2], bounds, out, False, None),
    ]  # fmt: skip
    before = agent.hidden
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError)):
            unbound.bind(*arguments)
    for given in (x[1:], np.where(np.arange(23) == 5, np.nan, x)):
        with pytest.raises(ObservationError, match=r"obs\[5\]|expected \[23\]"):
            agent.bounded(given)
    np.testing.assert_array_equal(agent.hidden, before)


def _native_step(bundle):
    return native.NativeStep(inner_contract(bundle.contract), bundle.networks[0])
