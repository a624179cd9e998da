"""The native kernels' squashing: on every instruction set, one agent, a team and lanes, beside float64."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from networks import random_bundle, random_network

from mast_runtime import Bundle, Contract, ObservationError, native
from mast_runtime.continuous import ContinuousAgent, ContinuousTeam
from mast_runtime.head import Head
from mast_runtime.inner import inner_contract
from mast_runtime.inputs import Inputs
from mast_runtime.native import NativeStep, levels, make_team, new_agent

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=f"native backend: needs {native.missing()}")
TANH_ERROR, RELATIVE = 6e-7, 9e-7
"""MAST_TANH_ERROR of mast_network.h, and the same of small values."""
OUTPUTS = np.concatenate(
    [[0.0, -0.0, 1e-30, 3e-8, 1e-3, 7.9, -8.0, 20.0, -1e30], np.linspace(-10, 10, 1600), np.geomspace(1e-6, 2.0, 1600)]
)
LOW, HIGH = np.linspace(-9.0, 3.0, OUTPUTS.size), np.linspace(-8.0, 90.0, OUTPUTS.size)


def constant(rate_limit: float | None = None) -> tuple[Contract, Any]:
    """A policy whose outputs are OUTPUTS whatever it sees."""
    head = Head((tuple(LOW.tolist()),), (tuple(HIGH.tolist()),), rate_limit)
    contract = Contract(2, OUTPUTS.size, 1, last_action=False, head=head)
    network = random_network(np.random.default_rng(0), contract, 3, sparsity=1.0, memory=False)
    return contract, replace(network, fc2_bias=OUTPUTS.astype(np.float32))


def players(level: str, contract: Contract, network) -> dict[str, Any]:
    """One agent, a team of three, and forty in lanes."""
    inner = inner_contract(contract)
    teams = {n: make_team(inner, [network], [0], n, level) for n in (3, 40)}
    agent = ContinuousAgent(contract, network, new_agent(inner, NativeStep(inner, network, level), 0), 0)
    return {"agent": agent} | {
        str(n): ContinuousTeam(contract, [network] * n, team, [0] * n) for n, team in teams.items()
    }


def three(seed: int, rate_limit: float | None = None, **network) -> Bundle:
    """A team of agents with three, one and two components."""
    bundle = random_bundle(seed, n_actions=3, **network)
    head = Head(((-0.25, -2.0, 0.0), (-0.1,), (3.0, -1.0)), ((0.25, 5.0, 1.0), (0.3,), (4.0, 1.0)), rate_limit)
    return replace(bundle, contract=replace(bundle.contract, head=head))


@pytest.mark.parametrize("level", levels())
def test_the_squashing_keeps_its_bound(level):
    contract, network = constant()
    exact, half = np.tanh(OUTPUTS.astype(np.float32).astype(np.float64)), 0.5 * (HIGH - LOW)
    found = []
    for player in players(level, contract, network).values():
        actions = np.atleast_2d(player.act(np.zeros((*player.hidden.shape[:-1], 2), np.float32)))
        scaled = np.atleast_2d(player.scaled).astype(np.float64)
        off = np.abs(scaled - exact)
        assert off.max() < TANH_ERROR and (off <= RELATIVE * np.abs(exact)).all() and np.abs(scaled).max() <= 1.0
        rounding = 2.0 * np.spacing(np.maximum(np.abs(LOW), np.abs(HIGH)).astype(np.float32))
        assert (np.abs(actions - (LOW + (exact + 1.0) * half)) <= 0.5 * TANH_ERROR * 2.0 * half + rounding).all()
        assert (actions >= LOW.astype(np.float32)).all() and (actions <= HIGH.astype(np.float32)).all()
        found.append((scaled[:1], actions[:1]))
        assert (scaled == scaled[0]).all() and (actions == actions[0]).all()
    for other in found[1:]:
        assert all(np.array_equal(*pair) for pair in zip(other, found[0], strict=True)), "one set of bits for all"


@pytest.mark.parametrize("level", levels())
def test_a_rate_limit_moves_as_numpy_does(level):
    contract, network = constant(0.15)
    wanted, step = np.zeros(OUTPUTS.size), 0.3
    everyone = players(level, contract, network)
    for _ in range(9):
        wanted = np.clip(np.tanh(OUTPUTS), wanted - step, wanted + step)
        for player in everyone.values():
            player.act(np.zeros((*player.hidden.shape[:-1], 2), np.float32))
            scaled = np.atleast_2d(player.scaled)
            np.testing.assert_allclose(scaled, wanted[None].repeat(len(scaled), 0), atol=2e-6)
    assert np.abs(wanted).max() == 1.0


@pytest.mark.parametrize("memory", [True, False])
def test_a_team_and_its_agents_take_the_references_actions_to_the_bound(memory):
    """Over steps whose last actions are fed back; q differs by sums in another order, and actions by that and tanh."""
    bundle = three(4, 0.3, hidden=24, memory=memory)
    team: Any = bundle.team(60, "native")
    oracle: Any = bundle.team(60, "reference")
    agents: list[Any] = [bundle.agent(i, "native") for i in range(3)]
    for obs in np.random.default_rng(0).standard_normal((12, 60, 20)).astype(np.float32):
        given, expected = team.act(obs), oracle.act(obs)
        np.testing.assert_allclose(team.scaled, oracle.scaled, atol=1e-5)
        np.testing.assert_allclose(given, expected, atol=4e-5)
        for i, agent in enumerate(agents):
            size = agent.act(obs[i]).size
            np.testing.assert_allclose(agent.scaled, team.scaled[i, :size], atol=1e-5)
        team.executed(oracle.scaled, scaled=True)
        for i, agent in enumerate(agents):
            agent.executed(oracle.scaled[i, : agent.last_action.size], scaled=True)


def test_refusals_of_buffers_that_do_not_fit():
    bundle = three(1, hidden=8)
    inner = inner_contract(bundle.contract)
    team = make_team(inner, bundle.networks, [0, 1, 2], 3)
    x, last, bounds, out = (np.zeros(shape, np.float32) for shape in ((3, 23), 9, 45, 9))
    bounds[9:18], bounds[27:36], bounds[36:] = 1.0, 1.0, 4.0
    with pytest.raises(ValueError, match=r"bounded\(\) before bind\(\)"):
        team.bounded(x)
    unbound = make_team(inner, bundle.networks, [0, 1, 2], 3)
    team.bind(last, bounds, out, False, None)
    team.bounded(x)
    np.testing.assert_allclose(last.reshape(3, 3), np.tanh(team.q), atol=TANH_ERROR)
    np.testing.assert_array_equal(out, np.clip(last, 0.0, 1.0))
    fixed = out.copy()
    fixed.flags.writeable = False
    wrong: list[tuple] = [
        (), (last, bounds, out), (last, bounds, out, False),
        (last, bounds, out, False, None, out), (last[:6], bounds, out, False, None),
        (last[::-1], bounds, out, False, None), (last, bounds, None, False, None), (None, bounds, out, False, None),
        (fixed, bounds, out, False, None), (last, bounds, fixed, False, None), (last, bounds[1:], out, False, None),
        (last, bounds, out[:6], False, None), (last, bounds, out.astype(float), False, None),
        (out.astype(float), bounds, out, False, None), (last.reshape(3, 3), bounds, out, False, None),
        (np.broadcast_to(np.float32(0.0), 9), bounds, out, False, None),
    ]  # fmt: skip
    before, done = team.hidden, out.copy()
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError)):
            unbound.bind(*arguments)
    for obs in (x[:2], x[:, :20], None):
        with pytest.raises(ObservationError):
            team.bounded(obs)
    np.testing.assert_array_equal(team.hidden, before)
    np.testing.assert_array_equal(out, done)
    with pytest.raises(ValueError, match="a second time"):
        team.bind(last, bounds, out, True, None)
    joining = make_team(inner, bundle.networks, [0, 1, 2], 3)
    joining.bind(last, bounds, out, True, None)
    with pytest.raises(ObservationError, match=r"expected \[3, 20\]"):
        joining.bounded(x)
    small = make_team(
        replace(inner, obs_dim=3), [random_network(np.random.default_rng(0), replace(inner, obs_dim=3), 8)], [0], 3
    )
    with pytest.raises(ValueError, match="do not fit the networks"):
        small.bind(last, bounds, out, True, None)  # no input would be left


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("width", [5, 29])
def test_what_the_kernels_join_is_what_a_caller_joins_to_the_bit(level, n, width):
    """Of one agent, a team, and forty in lanes: actions, memory, counts, and refusals that change nothing."""
    contract = Contract(width + 3, 3, 1, last_action=False, agent_id=False)
    network = random_network(np.random.default_rng(n), contract, 24)
    low, high, still = (np.full(width + 3, x, np.float32) for x in (-1.0, 1.0, 0.0))
    network = replace(network, inputs=Inputs(low=low, high=high, mean=still, deviation=still))
    rng = np.random.default_rng(0)

    def made() -> Any:
        return (
            new_agent(contract, NativeStep(contract, network, level), 0)
            if n == 1
            else make_team(contract, [network], [0], n, level)
        )

    joining, given = made(), made()
    bounds = np.repeat(np.array([-1.0, 1.0, 0.0, 1.0, 4.0], np.float32), 3 * n)
    arrays = [[np.zeros(3 * n, np.float32) for _ in range(2)] for _ in range(2)]
    for player, (last, out), joins in zip((joining, given), arrays, (True, False), strict=True):
        player.bind(last, bounds, out, joins, None)
    for _ in range(6):
        obs = rng.standard_normal((n, width)).astype(np.float32)
        before = arrays[0][0].copy()
        x = np.concatenate([obs, before.reshape(n, 3)], 1)
        spoilt = obs.copy()
        spoilt[n // 2, 4] = np.nan
        with pytest.raises(ObservationError, match=rf"obs\[4\] of agent {n // 2} is nan"):
            joining.bounded(spoilt if n > 1 else spoilt[0])
        joining.bounded(obs.tolist() if n > 1 else obs[0])
        given.bounded(x if n > 1 else x[0])
        for one, other in zip(*arrays, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(joining.hidden, given.hidden)
        np.testing.assert_array_equal(joining.out_of_range_counts, given.out_of_range_counts)
    assert joining.out_of_range > 0 and np.abs(arrays[0][0]).min() > 0


def test_a_second_thread_is_refused_in_whatever_it_does():
    bundle = three(2, hidden=8)
    team: Any = bundle.team(3)
    obs = np.zeros((3, 20), np.float32)
    actions = team.act(obs)
    reads = (lambda: team.scaled, lambda: team.last_action)
    with team._inside:
        for what in (lambda: team.act(obs), team.reset, lambda: team.executed(actions), *reads):
            with pytest.raises(RuntimeError, match="in another thread; give each thread a team of its own"):
                what()
    team.executed(actions)
    team.reset()
    np.testing.assert_array_equal(team.act(obs), actions)
    np.testing.assert_array_equal(team.last_action, actions)


def test_what_is_read_while_a_decision_comes_and_goes_is_refused():
    """As one thread's copy that another's decision overtakes."""
    bundle = three(2, hidden=8)
    team: Any = bundle.team(3)
    obs, whole = np.zeros((3, 20), np.float32), team._scaled

    class Overtaken:
        def __iter__(self):
            team.act(obs)
            return iter(bytes(whole))

    team._scaled = Overtaken()
    with pytest.raises(RuntimeError, match="in another thread"):
        _ = team.scaled
    team._scaled = whole
    assert team.scaled.any()


@pytest.mark.parametrize("head", [True, False])
def test_observations_that_are_read_slowly_leave_another_threads_decisions_whole(head):
    """Of a team so large that its kernel lets other threads run. The same observation always: only the number of
    decisions tells states apart."""
    bundle = (three if head else random_bundle)(5, hidden=256, sparsity=None)
    obs = np.random.default_rng(0).standard_normal((12, 20)).astype(np.float32)
    team, taken = bundle.team(12), []

    def decide(given, times=1):
        for _ in range(times):
            try:
                team.act(given)
                taken.append(1)
            except RuntimeError as error:
                assert "another thread" in str(error)

    class Slow:
        def __array__(self, *kind, **how):
            self.other = threading.Thread(target=decide, args=(obs, 30))
            self.other.start()
            time.sleep(0.002)
            return obs

    for _ in range(15):
        slow = Slow()
        decide(slow)
        slow.other.join()
    alone = bundle.team(12)
    for _ in taken:
        alone.act(obs)
    np.testing.assert_array_equal(team.hidden, alone.hidden)
