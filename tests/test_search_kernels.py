"""The native kernels' search for actions: on every instruction set the reference's; what does not fit is refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from searched import WIDTH, by_loops, searching_bundle

from mast_runtime import Bundle, native
from mast_runtime.continuous import ContinuousAgent, ContinuousTeam
from mast_runtime.head import Search
from mast_runtime.inner import inner_contract, inner_network
from mast_runtime.native import NativeStep, levels, make_team, new_agent
from mast_runtime.native.searching import searching
from mast_runtime.search import Searcher, Values

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=f"native backend: needs {native.missing()}")
SIZES = [3, 1, 2]
NEAR = 1e-6
"""Of actions in [-1, 1]: both compute in float64, and float32 holds the result."""


def players(level: str, bundle: Bundle, n: int) -> Any:
    """A team of n on one instruction set, in lanes from 24 on."""
    contract, own = bundle.contract, [inner_network(bundle.contract, network) for network in bundle.team_networks]
    team = make_team(inner_contract(contract), own, [0, 1, 2], n, level)
    return ContinuousTeam(contract, [*bundle.team_networks] * (n // 3), team, [0, 1, 2] * (n // 3))


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize(("n", "kind"), [(3, {}), (3, {"memory": False}), (48, {"shared": True}), (48, {})])
def test_a_team_finds_what_the_reference_finds_from_the_same_outputs(level, n, kind):
    bundle = searching_bundle(4, 0.4, hidden=24, **kind)
    team = players(level, bundle, n)
    head: Any = bundle.contract.head
    has = np.tile(np.arange(3) < np.array(SIZES)[:, None], (n // 3, 1))
    find = Searcher(head.search, Values.of([*bundle.team_networks] * (n // 3)), has)
    last = np.zeros((n, 3))
    for obs in np.random.default_rng(0).standard_normal((6, n, 20)).astype(np.float32):
        actions, q = team.act(obs), team.q
        assert q.shape == (n, WIDTH)
        last = np.clip(find(q), last - 0.8, last + 0.8)
        np.testing.assert_allclose(team.scaled, last, atol=NEAR)
        for i, (row, low, high) in enumerate(zip(actions[:3], head.low, head.high, strict=True)):
            wanted = np.array(low) + (last[i, : SIZES[i]] + 1) / 2 * (np.array(high) - low)
            np.testing.assert_allclose(row[: SIZES[i]], wanted, atol=1e-5)
            assert (row[SIZES[i] :] == 0).all() and (row[: SIZES[i]] <= np.float32(high)).all()


@pytest.mark.parametrize("level", levels())
def test_an_agent_finds_what_loops_find_and_its_last_action_is_an_input(level):
    bundle = searching_bundle(5, hidden=16)
    for i, network in enumerate(bundle.team_networks):
        inner = inner_contract(bundle.contract)
        own = inner_network(bundle.contract, network)
        agent: Any = ContinuousAgent(bundle.contract, network, new_agent(inner, NativeStep(inner, own, level), i), i)
        oracle: Any = bundle.agent(i, "reference")
        for obs in np.random.default_rng(i).standard_normal((4, 20)).astype(np.float32):
            agent.act(obs)
            np.testing.assert_allclose(agent.scaled, by_loops(bundle, i, agent.q), atol=NEAR)
            oracle.act(obs)
            np.testing.assert_allclose(agent.q, oracle.q, atol=2e-5)
            oracle.executed(agent.scaled, scaled=True)


@pytest.mark.parametrize("candidates", [2, 15, 16, 17, 64])
def test_any_number_of_candidates(candidates):
    """Those that fill a vector up are never the best; of equals the first goes on."""
    bundle, rng = searching_bundle(6, hidden=8), np.random.default_rng(candidates)
    noise = rng.standard_normal((3, candidates, 3)).astype("<f4")
    noise[:, 0] = 0.0
    head: Any = bundle.contract.head
    search = Search(WIDTH, candidates, min(5, candidates), 3, noise.tobytes())
    has = np.arange(3) < np.array(SIZES)[:, None]
    inner = inner_contract(bundle.contract)
    for p in (1.0, -1e3, 1e30, 0.0):
        nets = [_giving(bundle, k, p) for k in range(3)]
        team = make_team(inner, nets, [0, 1, 2], 3)
        last, out = np.zeros(9, np.float32), np.zeros(9, np.float32)
        bounds = np.repeat(np.array([-1, 1, 0, 1, 4], np.float32), 9)
        team.bind(last, bounds, out, False, searching(search, bundle.team_networks, SIZES, 3))
        team.bounded(np.zeros((3, 23), np.float32))
        found = Searcher(search, Values.of(bundle.team_networks), has)(np.asarray(team.q))
        np.testing.assert_allclose(last.reshape(3, 3), found, atol=NEAR)
    assert head.search is not None


def _giving(bundle: Bundle, k: int, scale: float) -> Any:
    """A network whose outputs are these numbers times `scale`, whatever it sees."""
    own = inner_network(bundle.contract, bundle.team_networks[k])
    bias = (scale * np.random.default_rng(k).standard_normal(WIDTH)).astype(np.float32)
    return replace(own, fc2=replace(own.fc2, values=own.fc2.values * 0), fc2_bias=bias)


def test_what_does_not_fit_is_refused():
    bundle = searching_bundle(hidden=8)
    head: Any = bundle.contract.head
    inner, own = inner_contract(bundle.contract), [inner_network(bundle.contract, x) for x in bundle.team_networks]
    team = make_team(inner, own, [0, 1, 2], 3)
    good = searching(head.search, bundle.team_networks, SIZES, 3)
    bounds = np.repeat(np.array([-1, 1, 0, 1, 4], np.float32), 9)
    arrays = [np.zeros(9, np.float32), bounds, np.zeros(9, np.float32)]
    team.bind(*arrays, True, good)

    def changed(name: str, index: int, value: float) -> Any:
        column = getattr(good, name)[:]
        column[index] = value
        return good._replace(**{name: column})

    wrong = [
        good._replace(actions=2), good._replace(actions=0), good._replace(iterations=4), good._replace(elites=33),
        good._replace(elites=0), good._replace(candidates=1), good._replace(iterations=1 << 20),
        good._replace(noise=good.noise[1:]), good._replace(owner=good.owner[1:]), changed("owner", 0, 3),
        changed("sizes", 1, 0), changed("sizes", 1, 4), changed("first", 0, 1), changed("first", 1, 10_000),
        changed("first", 3, 1), changed("units", 0, WIDTH), good._replace(weights=good.weights[1:]),
        changed("weights", 0, np.nan), changed("weights", 0, np.inf), good._replace(units=good.owner),
    ]  # fmt: skip
    for search in wrong:
        with pytest.raises((TypeError, ValueError)):
            team.bind(*arrays, True, search)
    with pytest.raises(ValueError, match="do not fit the networks"):
        team.bind(arrays[0][:6], *arrays[1:], True, good)
    team.bounded(np.zeros((3, 20), np.float32))
    assert np.abs(arrays[0]).max() > 0, "what was bound first still is"


def test_a_team_so_large_that_it_lets_other_threads_run_refuses_them():
    bundle = searching_bundle(3, hidden=64)
    team: Any = bundle.team(240, "native")
    obs = np.random.default_rng(0).standard_normal((240, 20)).astype(np.float32)
    alone: Any = bundle.team(240, "native")
    taken, refused = [], []

    def decide() -> None:
        for _ in range(20):
            try:
                team.act(obs)
                taken.append(1)
            except RuntimeError as error:
                assert "another thread" in str(error)
                refused.append(1)

    threads = [threading.Thread(target=decide) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in taken:
        alone.act(obs)
    np.testing.assert_array_equal(team.hidden, alone.hidden)
    np.testing.assert_array_equal(team.scaled, alone.scaled)
    assert len(taken) + len(refused) == 40
