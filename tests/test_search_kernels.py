"""The native kernels' search for actions: on every instruction set the reference's; what does not fit is refused."""

from __future__ import annotations

import threading
import time
from array import array
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
@pytest.mark.parametrize(
    ("n", "seed", "kind"), [(3, 21, {}), (3, 21, {"memory": False}), (48, 13, {"shared": True}), (48, 21, {})]
)
def test_a_team_finds_what_the_reference_finds_from_the_same_outputs(level, n, seed, kind):
    """With these seeds each agent has optima inside its range."""
    bundle = searching_bundle(seed, 0.4, hidden=24, **kind)
    team = players(level, bundle, n)
    head: Any = bundle.contract.head
    has = np.tile(np.arange(3) < np.array(SIZES)[:, None], (n // 3, 1))
    find = Searcher(head.search, Values.of([*bundle.team_networks] * (n // 3)), has)
    last, inside = np.zeros((n, 3)), []
    for obs in np.random.default_rng(0).standard_normal((6, n, 20)).astype(np.float32):
        actions, q = team.act(obs), team.q
        assert q.shape == (n, WIDTH)
        best = find(q)
        inside.append(np.abs(best) < 1.0)
        last = np.clip(best, last - 0.8, last + 0.8)
        np.testing.assert_allclose(team.scaled, last, atol=NEAR)
        for i, (row, low, high) in enumerate(zip(actions[:3], head.low, head.high, strict=True)):
            wanted = np.array(low) + (last[i, : SIZES[i]] + 1) / 2 * (np.array(high) - low)
            np.testing.assert_allclose(row[: SIZES[i]], wanted, atol=1e-5)
            assert (row[SIZES[i] :] == 0).all() and (row[: SIZES[i]] <= np.float32(high)).all()
    shares = [np.array(inside)[:, i::3, :size].mean() for i, size in enumerate(SIZES)]
    assert min(shares) > 0.3, shares


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
    search, moved = Search(WIDTH, candidates, min(5, candidates), 3, noise.tobytes()), False
    has = np.arange(3) < np.array(SIZES)[:, None]
    inner = inner_contract(bundle.contract)
    for p in (1.0, -1e3, 1e30, 0.0):
        nets = [_giving(bundle, k, p) for k in range(3)]
        team = make_team(inner, nets, [0, 1, 2], 3)
        last, bounds, out = plain_arrays(3)
        team.bind(last, bounds, out, False, searching(search, bundle.team_networks, SIZES, 3))
        team.bounded(np.zeros((3, 23), np.float32))
        found = Searcher(search, Values.of(bundle.team_networks), has)(np.asarray(team.q))
        np.testing.assert_allclose(last.reshape(3, 3), found, atol=NEAR)
        moved |= bool(last.any())
    assert moved == (candidates > 2), "the first two stay where they are"


@pytest.mark.parametrize(("candidates", "elites"), [(64, 1), (64, 2), (64, 33), (64, 64), (32768, 32768)])
def test_any_number_of_elites_in_the_references_order_and_time(candidates, elites):
    """Half of the candidates are twins: the order of equals matters. An insertion sort of the last takes ten times
    as long as numpy, or longer."""
    bundle, rng = searching_bundle(11, hidden=8), np.random.default_rng(elites)
    iterations = 3 if candidates == 64 else 1
    noise = rng.standard_normal((iterations, candidates, 3)).astype("<f4")
    noise[:, 0], noise[:, candidates // 2 :] = 0.0, noise[:, : candidates // 2]
    search = Search(WIDTH, candidates, elites, iterations, noise.tobytes())
    team = make_team(inner_contract(bundle.contract), [_giving(bundle, k, 1.0) for k in range(3)], [0, 1, 2], 3)
    last, bounds, out = plain_arrays(3)
    team.bind(last, bounds, out, False, searching(search, bundle.team_networks, SIZES, 3))
    find = Searcher(search, Values.of(bundle.team_networks), np.arange(3) < np.array(SIZES)[:, None])
    obs, taken = np.zeros((3, 23), np.float32), []
    for _ in range(3):
        started = time.perf_counter()
        team.bounded(obs)
        between = time.perf_counter()
        found = find(np.asarray(team.q))
        taken.append((between - started, time.perf_counter() - between))
    np.testing.assert_allclose(last.reshape(3, 3), found, atol=NEAR)
    own, oracle = np.min(taken, 0)
    assert candidates == 64 or own < 4.0 * oracle


def _giving(bundle: Bundle, k: int, scale: float) -> Any:
    """A network whose outputs are these numbers times `scale`, whatever it sees."""
    own = inner_network(bundle.contract, bundle.team_networks[k])
    bias = (scale * np.random.default_rng(k).standard_normal(WIDTH)).astype(np.float32)
    return replace(own, fc2=replace(own.fc2, values=own.fc2.values * 0), fc2_bias=bias)


def bindable(n: int = 3, hidden: int = 8) -> tuple[Any, Any, list[np.ndarray]]:
    """A team of n, or an agent, a search that fits it, and arrays."""
    bundle = searching_bundle(3, hidden=hidden)
    head: Any = bundle.contract.head
    inner, own = inner_contract(bundle.contract), [inner_network(bundle.contract, x) for x in bundle.team_networks]
    who = [k % 3 for k in range(n)]
    found = searching(head.search, [bundle.team_networks[k] for k in who], [SIZES[k] for k in who], 3)
    agent = new_agent(inner, NativeStep(inner, own[0], levels()[0]), 0) if n == 1 else None
    return agent or make_team(inner, own, [0, 1, 2], n), found, plain_arrays(n)


def plain_arrays(n: int) -> list[np.ndarray]:
    """Last actions, bounds and actions, three of each agent."""
    bounds = np.repeat(np.array([-1, 1, 0, 1, 4], np.float32), 3 * n)
    return [np.zeros(3 * n, np.float32), bounds, np.zeros(3 * n, np.float32)]


def test_what_does_not_fit_is_refused():
    team, good, arrays = bindable()

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
        changed("noise", 7, np.nan), changed("noise", 7, -np.inf),
    ]  # fmt: skip
    for search in wrong:
        with pytest.raises((TypeError, ValueError)):
            team.bind(*arrays, True, search)
    with pytest.raises(ValueError, match="do not fit the networks"):
        team.bind(arrays[0][:6], *arrays[1:], True, good)
    team.bind(*arrays, True, good)
    team.bounded(np.zeros((3, 20), np.float32))
    assert np.abs(arrays[0]).max() > 0


@pytest.mark.parametrize("n", [1, 3])
def test_arrays_are_bound_once_whatever_runs_meanwhile(n):
    """A decision reads them without the interpreter's lock: others in their place would be freed under it."""
    player, search, arrays = bindable(n)
    others = plain_arrays(n)

    class Binding:
        """Binds while a bind reads it, or a decision converts it."""

        def __getattr__(self, name):
            if name == "weights":
                player.bind(*arrays, True, search)
            return getattr(search, name)

        def __array__(self, *kind, **how):
            with pytest.raises(ValueError, match="a second time"):
                player.bind(*others, False, None)
            return np.zeros((n, 20) if n > 1 else 20, np.float32)

    with pytest.raises(ValueError, match="a second time; make a new agent or team"):
        player.bind(*others, True, Binding())
    player.bounded(Binding())
    assert arrays[0].any() and arrays[2].any() and not others[0].any() and not others[2].any()


def test_a_team_so_large_that_it_lets_other_threads_run_refuses_them():
    n, worth = 600, 1 << 22  # WEIGHTS_WORTH_THE_GIL of _native.c
    (team, search, arrays), (alone, _, others) = bindable(n, 64), bindable(n, 64)
    search = search._replace(first=array("I", [0, 0, *search.first[2:]]))  # the first network's values know no action
    units = sum(search.first[owner + 1] - search.first[owner] for owner in search.owner)
    assert search.iterations * search.candidates * units * (search.actions + 1) > worth
    team.bind(*arrays, True, search)
    alone.bind(*others, True, search)
    obs = np.random.default_rng(0).standard_normal((n, 20)).astype(np.float32)
    taken, refused = [], []

    def decide() -> None:
        try:
            team.bounded(obs)
            taken.append(1)
        except RuntimeError as error:
            assert "another thread" in str(error)
            refused.append(1)

    other = threading.Thread(target=lambda: [decide() for _ in range(10)])
    other.start()
    while other.is_alive():
        decide()
    assert taken and refused
    for _ in taken:
        alone.bounded(obs)
    np.testing.assert_array_equal(team.hidden, alone.hidden)
    np.testing.assert_array_equal(team.q, alone.q)
    for one, expected in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(one, expected)
