"""The native backend against the numpy reference: instruction sets, layouts, odd sizes; errors; threads."""

from __future__ import annotations

import gc
import re
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import random_bundle, random_network

import mast_runtime
from mast_runtime import BackendError, Contract, Layer, ObservationError
from mast_runtime.agent import Agent, Team
from mast_runtime.backends.reference import ReferenceStep
from mast_runtime.native import NativeStep, find_level, levels, make_team, missing, new_agent, packing
from mast_runtime.network import LAYERS, SEGMENTS

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"native backend: needs {missing()}")
SIZES = (1, 3, 7, 8, 9, 63, 65)
BLOCKS = {
    "unstructured": {},
    "8x1": dict.fromkeys(LAYERS, 8),
    "16x1": dict.fromkeys(LAYERS, 16),
    "mixed": {"weight_ih": 16, "weight_hh": 8},
    "odd": {"weight_ih": 5, "weight_hh": 16},
    "dense": None,
}
TOLERANCE = 1e-4
"""Of q and hidden, over any number of steps: sums in another order and rational gates, errors that the GRU forgets."""


@pytest.fixture(params=levels())
def level(request):
    return request.param


def build(hidden, kind="unstructured", obs_dim=9, n_actions=5, sparsity=0.8, seed=0, **contract):
    """A contract and a network of it; fc1 wider than hidden, so that no two sizes are equal."""
    c = Contract(obs_dim, n_actions, 3, **contract)
    blocks = BLOCKS[kind]
    rng = np.random.default_rng(seed)
    return c, random_network(rng, c, hidden, hidden + 2, None if blocks is None else sparsity, blocks)


def episodes(contract, steps, n=0, seed=1):
    """(obs, avail) per step: [O], [A], or with n agents [n,O], [n,A]."""
    rng = np.random.default_rng(seed)
    rows = (n,) if n else ()
    for _ in range(steps):
        avail = rng.random((*rows, contract.n_actions)) < 0.6
        avail[..., -1] = True
        yield rng.standard_normal((*rows, contract.obs_dim)).astype(np.float32), avail


def compare(mine, oracle, steps):
    """Same actions, q and hidden at each step. An action may differ only where the oracle's values all but tie."""
    for obs, avail in steps:
        chosen, expected = np.atleast_1d(mine.act(obs, avail)), np.atleast_1d(oracle.act(obs, avail))
        np.testing.assert_allclose(mine.q, oracle.q, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(mine.hidden, oracle.hidden, atol=TOLERANCE, rtol=0)
        q = np.atleast_2d(oracle.q)
        rows = np.arange(len(q))
        np.testing.assert_allclose(q[rows, chosen], q[rows, expected], atol=2 * TOLERANCE, rtol=0)
        np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("hidden", SIZES)
def test_agent_as_reference(level, kind, hidden):
    for obs_dim, n_actions in ((1, 1), (7, 3), (hidden + 14, 17)):
        contract, network = build(hidden, kind, obs_dim, n_actions, agent_id=True)
        agent = new_agent(contract, NativeStep(contract, network, level), 2)
        compare(agent, Agent(contract, ReferenceStep(contract, network), 2, ""), episodes(contract, 12))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("hidden", SIZES)
def test_lanes_as_reference(level, kind, hidden):
    contract, network = build(hidden, kind, hidden + 3, 6, agent_id=True)
    for n in (8, 45):
        team = make_team(contract, [network], [1], n, level)
        oracle = Team(contract, [ReferenceStep(contract, network)], [1], n, "")
        compare(team, oracle, episodes(contract, 4, n))
        for which in ([0, -1], np.arange(n) % 3 == 0):
            team.reset(which)
            oracle.reset(which)
            np.testing.assert_array_equal(team.last_action, oracle.last_action)
            compare(team, oracle, episodes(contract, 2, n))


@pytest.mark.parametrize("kind", ["unstructured", "16x1", "dense"])
def test_a_thousand_steps(level, kind):
    contract, network = build(64, kind, 80, 14, 0.95)
    agent = new_agent(contract, NativeStep(contract, network, level), 0)
    compare(agent, Agent(contract, ReferenceStep(contract, network), 0, ""), episodes(contract, 1000))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999])
def test_every_density(level, sparsity, monkeypatch):
    """Full rows, empty rows, and each layout at densities for which another would be chosen."""
    for kind in ("unstructured", "8x1", "16x1"):
        contract, network = build(33, kind, sparsity=sparsity)
        for limit in (-1.0, 2.0):
            row = find_level(level)
            row = replace(row, dense_from=tuple(limit if density else 0.0 for density in row.dense_from))
            monkeypatch.setattr(packing, "PERMUTED_FROM", limit)
            agent = new_agent(contract, NativeStep(contract, network, row), 0)
            compare(agent, Agent(contract, ReferenceStep(contract, network), 0, ""), episodes(contract, 10))
            team = make_team(contract, [network], [0], 11, row)
            compare(team, Team(contract, [ReferenceStep(contract, network)], [0], 11, ""), episodes(contract, 5, 11))


def test_empty_network_and_no_last_action(level):
    contract, network = build(9, sparsity=1.0, last_action=False)
    assert network.nnz == 0
    agent = new_agent(contract, NativeStep(contract, network, level), 0)
    compare(agent, Agent(contract, ReferenceStep(contract, network), 0, ""), episodes(contract, 5))


def test_saturated_gates(level):
    contract, network = build(17, "16x1", seed=3)
    scaled = {name: replace(layer, values=layer.values * 60) for name, layer in network.layers().items()}
    network = replace(network, **scaled)
    agent = new_agent(contract, NativeStep(contract, network, level), 0)
    oracle = Agent(contract, ReferenceStep(contract, network), 0, "")
    for obs, avail in episodes(contract, 20):
        agent.act(obs, avail), oracle.act(obs, avail)
        assert np.all(np.abs(agent.hidden) <= 1.0)
        np.testing.assert_allclose(agent.hidden, oracle.hidden, atol=1e-3)


def gate_network(hidden=1):
    """h' = n where r = sigmoid(b_r), z = 0 or 1 by bias: the gates one at a time, read off the state."""
    contract = Contract(1, 1, 1, last_action=False)
    one = np.ones((1, 1), np.float32)
    empty = {name: Layer.from_dense(np.zeros((rows, 1), np.float32), None, 1, SEGMENTS[name])
             for name, rows in (("fc1", 1), ("weight_ih", 3), ("weight_hh", 3), ("fc2", 1))}  # fmt: skip
    network = mast_runtime.Network(
        **empty, fc1_bias=np.zeros(1, np.float32), gru_bias=np.zeros((4, 1), np.float32), fc2_bias=one[0]
    )
    return contract, network


def test_activation_errors(level):
    """tanh and sigmoid within the bounds that mast_network.h states."""
    contract, network = gate_network()
    x = np.concatenate([np.linspace(-20, 20, 401), np.linspace(-1e-3, 1e-3, 21), [-1e30, 1e30, 7.9, -7.9, 15.8, 0]])
    obs, last, one = np.zeros((1, 1), np.float32), np.array([-1]), np.ones((1, 1), np.float32)
    for value in x.astype(np.float32):
        as_n = replace(network, gru_bias=np.array([[0], [-1e9], [value], [0]], np.float32))
        _, hidden = NativeStep(contract, as_n, level)(obs, last, [0], one * 0)
        assert abs(hidden[0, 0] - np.tanh(np.float64(value))) < 6e-7 + 4e-7
        as_z = replace(network, gru_bias=np.array([[0], [value], [0], [0]], np.float32))
        _, hidden = NativeStep(contract, as_z, level)(obs, last, [0], one)
        exact = 0.5 * (1 + np.tanh(0.5 * np.float64(value)))
        assert abs(hidden[0, 0] - exact) < 4e-7


def test_teams_of_own_networks(level):
    """Agent i runs network i mod k; states are one per agent, and lanes give what single agents give."""
    bundle = random_bundle(n_agents=3, hidden=19)
    networks, ids = list(bundle.networks), [0, 1, 2]
    for n in (3, 6, 27):
        team = make_team(bundle.contract, networks, ids, n, level)
        alone = [
            new_agent(bundle.contract, NativeStep(bundle.contract, networks[i % 3], level), i % 3) for i in range(n)
        ]
        for obs, avail in episodes(bundle.contract, 20, n):
            actions = team.act(obs, avail)
            assert list(actions) == [a.act(o, v) for a, o, v in zip(alone, obs, avail, strict=True)]
            np.testing.assert_allclose(team.q, [a.q for a in alone], atol=1e-5)
            np.testing.assert_allclose(team.hidden, [a.hidden for a in alone], atol=1e-5)
            np.testing.assert_array_equal(team.last_action, [a.last_action for a in alone])


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_stored_types(level, dtype):
    contract, network = build(12)
    scale = {"scale": np.full(12 * 3, 0.02, np.float32)} if dtype is np.int8 else {}
    values = network.weight_hh.values * (40 if scale else 1)
    network = replace(network, weight_hh=replace(network.weight_hh, values=values.astype(dtype), **scale))
    agent = new_agent(contract, NativeStep(contract, network, level), 0)
    compare(agent, Agent(contract, ReferenceStep(contract, network), 0, ""), episodes(contract, 20))


def with_values(network, code):
    """The network with its weights rounded to float16 and stored as `code`."""
    layers = network.layers().items()
    return replace(network, **{k: replace(x, values=x.values.astype(np.float16).astype(code)) for k, x in layers})


@pytest.mark.parametrize("kind", ["8x1", "16x1", "mixed", "odd", "unstructured"])
def test_half_precision(level, kind):
    """Weights widened by the kernel or at load: to the bit the same values and memory."""
    for hidden in (1, 9, 65):
        contract, network = build(hidden, kind, hidden + 6, 5)
        agents = []
        for code, limit in ((np.float16, 0), (np.float16, 10**9), (np.float32, 0)):
            row = replace(find_level(level), halves_from=limit)
            step = NativeStep(contract, with_values(network, code), row)
            agents.append(new_agent(contract, step, 0))
        for obs, avail in episodes(contract, 10):
            assert len({agent.act(obs, avail) for agent in agents}) == 1
            assert len({agent.q.tobytes() + agent.hidden.tobytes() for agent in agents}) == 1


def test_half_precision_where_it_pays(level):
    """Only where there are kernels for it, for one agent, in blocks, from a number of connections on."""
    contract, network = build(40, "16x1")
    halves, row = with_values(network, np.float16), find_level(level)

    def layouts(network, limit, lanes=False):
        packed = packing.pack(contract, network, replace(row, halves_from=limit), lanes)
        return {matrix.layout for matrix in (packed.fc1, packed.gru, packed.fc2)}

    kept = packing.Layout.HALVES16 if row.has(packing.Layout.HALVES16) else packing.Layout.BLOCKS16
    assert layouts(halves, network.nnz) == {kept}
    for others in (
        layouts(halves, network.nnz + 1),
        layouts(network, network.nnz),
        layouts(halves, network.nnz, lanes=True),
    ):
        assert others == {packing.Layout.BLOCKS16}


def test_ties_and_availability(level):
    contract, network = build(5, n_actions=20)
    flat = replace(network, fc2=Layer.from_dense(np.zeros((20, 5), np.float32), np.zeros((20, 5), bool)),
                   fc2_bias=np.zeros(20, np.float32))  # fmt: skip
    agent = new_agent(contract, NativeStep(contract, flat, level), 0)
    team = make_team(contract, [flat], [0], 9, level)
    obs = np.zeros(9, np.float32)
    assert agent.act(obs) == 0
    for lowest in (1, 15, 16, 19):
        avail = np.arange(20) >= lowest
        assert agent.act(obs, avail) == lowest
        assert agent.act(obs, avail_actions=list(avail)) == lowest
        assert set(team.act(np.tile(obs, (9, 1)), np.tile(avail, (9, 1)))) == {lowest}


def bad_inputs(obs_dim, n_actions):
    """obs, avail, and what the message must say; for one agent."""
    obs = np.ones(obs_dim, np.float32)
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, obs_dim // 2, obs_dim - 1):
            broken = obs.copy()
            broken[place] = value
            yield broken, None, f"obs\\[{place}\\] of agent 0 is {value}"
            yield list(broken), None, "finite"
    yield obs[:-1], None, f"obs has shape \\[{obs_dim - 1}\\], expected \\[{obs_dim}\\]"
    yield obs[None], None, "obs has shape"
    yield ["a"] * obs_dim, None, "not an array of numbers"
    yield obs * np.float32(3e38), None, "overflow float32"
    yield obs, np.zeros(n_actions, bool), "agent 0 has no available action"
    yield obs, np.zeros(n_actions), "no available action"
    yield obs, np.ones(n_actions + 1, bool), "avail_actions has shape"


@pytest.mark.parametrize("obs_dim", [2, 35])
def test_refusals_leave_the_state(level, obs_dim):
    contract, network = build(8, obs_dim=obs_dim, sparsity=0.2)
    network = replace(network, fc1=replace(network.fc1, values=network.fc1.values * 4))
    agent = new_agent(contract, NativeStep(contract, network, level), 0)
    oracle = Agent(contract, ReferenceStep(contract, network), 0, "")
    for obs, avail in episodes(contract, 3):
        agent.act(obs, avail)
    before = agent.hidden, agent.q, agent.last_action
    for obs, avail, message in bad_inputs(obs_dim, contract.n_actions):
        with pytest.raises(ObservationError, match=message):
            oracle.act(obs, avail)
        with pytest.raises(ObservationError, match=message):
            agent.act(obs, avail)
        for now, then in zip((agent.hidden, agent.q, agent.last_action), before, strict=True):
            np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("n", [3, 40])
def test_team_refusals_leave_the_state(level, n):
    contract, network = build(8, sparsity=0.2)
    team = make_team(contract, [network], [0], n, level)
    for obs, avail in episodes(contract, 3, n):
        team.act(obs, avail)
    before = team.hidden, team.q, team.last_action
    none, broken = avail.copy(), obs.copy()
    none[n - 1], broken[1, 2] = False, np.nan
    for bad_obs, bad_avail, message in (
        (broken, None, "obs\\[2\\] of agent 1 is nan"),
        (obs, none, f"agent {n - 1} has no available action"),
        (obs[:, :-1], None, "obs has shape"),
        (np.copysign(np.float32(3e38), obs), None, "overflow float32"),
    ):
        with pytest.raises(ObservationError, match=message):
            team.act(bad_obs, bad_avail)
        for now, then in zip((team.hidden, team.q, team.last_action), before, strict=True):
            np.testing.assert_array_equal(now, then)


def test_other_kinds_of_input(level):
    """float64, lists, strided, unaligned, big-endian and integer masks all give the same action."""
    contract, network = build(8, obs_dim=4)
    obs, avail = np.array([0.5, -1, 2, 0.25], np.float32), np.array([0, 1, 1, 0, 1], bool)
    unaligned = np.frombuffer(b"x" + obs.tobytes(), np.uint8)[1:].view(np.float32)
    step = NativeStep(contract, network, level)
    forms = [obs, obs.astype(np.float64), obs.tolist(), np.repeat(obs, 2)[::2], unaligned, obs.astype(">f4")]
    masks = [avail, avail.astype(np.int64), avail.tolist(), np.repeat(avail, 2)[::2], avail.astype(float)]
    answers = set()
    for form in forms:
        for mask in masks:
            agent = new_agent(contract, step, 0)
            answers.add((agent.act(form, mask), agent.q.tobytes()))
    assert len(answers) == 1
    for wrong in ((), (obs, avail, obs)):
        with pytest.raises(TypeError, match="act"):
            agent.act(*wrong)
    with pytest.raises(TypeError, match="unexpected"):
        agent.act(obs, mask=avail)


def test_bundle_backends(level, monkeypatch):
    """`auto` is native, MAST_NATIVE_LEVEL chooses, and agents share the interface of mast_runtime.agent.Agent."""
    monkeypatch.setenv("MAST_NATIVE_LEVEL", level)
    bundle = random_bundle(hidden=12)
    agent, team = bundle.agent(1), bundle.team(6)
    assert (agent.backend, agent.index, agent.contract) == ("native", 1, bundle.contract)
    assert (team.backend, team.n, team.contract) == ("native", 6, bundle.contract)
    assert mast_runtime.native_status() == f"native: {level}"
    compare(agent, bundle.agent(1, "reference"), episodes(bundle.contract, 5))
    compare(team, bundle.team(6, "reference"), episodes(bundle.contract, 5, 6))
    agent.reset(), team.reset()
    assert agent.last_action == -1 and not agent.hidden.any() and not team.q.any() and set(team.last_action) == {-1}
    monkeypatch.setenv("MAST_NATIVE_LEVEL", "sse9")
    with pytest.raises(BackendError, match="sse9"):
        bundle.agent(0)


def test_step_as_reference(level):
    contract, network = build(10, agent_id=True)
    rng = np.random.default_rng(0)
    batch = (rng.standard_normal((5, 9)).astype(np.float32), np.array([-1, 0, 4, 2, -1]), np.array([0, 1, 2, 0, 1]))
    hidden = rng.standard_normal((5, 10)).astype(np.float32) / 3
    mine, oracle = NativeStep(contract, network, level), ReferenceStep(contract, network)
    for got, expected in zip(mine(*batch, hidden), oracle(*batch, hidden), strict=True):
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match="do not fit"):
        mine(batch[0], np.array([5, 0, 0, 0, 0]), batch[2], hidden)


def test_a_thread_per_agent(level):
    """Agents that share a network, and teams large enough to release the GIL, step in threads as they do alone."""
    contract, network = build(64, obs_dim=60, sparsity=0.5)
    step = NativeStep(contract, network, level)
    steps = list(episodes(contract, 200)), list(episodes(contract, 2, 400))

    def run() -> list:
        agent, team = new_agent(contract, step, 0), make_team(contract, [network], [0], 400, level)
        return [agent.act(o, a) for o, a in steps[0]] + [team.act(o, a).tolist() for o, a in steps[1]]

    results: list = []
    threads = [threading.Thread(target=lambda: results.append(run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [run()] * 4


def test_nothing_leaks(level):
    contract, network = build(8)
    step = NativeStep(contract, network, level)
    obs, counted = np.zeros(9, np.float32), (contract, step.compiled)

    def use() -> None:
        agent, team = new_agent(contract, step, 0), make_team(contract, [network], [0], 9, level)
        for _ in range(20):
            agent.act(obs), agent.act(list(obs)), team.act(np.tile(obs, (9, 1)))
            agent.q, agent.hidden, team.q, team.hidden, agent.reset(), team.reset([1])
            with pytest.raises(ObservationError):
                agent.act(obs[1:])

    use()
    gc.collect()
    before = [sys.getrefcount(thing) for thing in counted]
    tracemalloc.start()
    use()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        use()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert [sys.getrefcount(thing) for thing in counted] == before
    assert grown < 20_000


def test_the_table_of_levels_is_the_folder():
    """levels.def has a line for each level_NAME.c, and the best that runs here comes first."""
    folder = Path(mast_runtime.__file__).parent / "native"
    named = re.findall(r"^LEVEL\((\w+)\)$", (folder / "levels.def").read_text(), re.M)
    assert {f"level_{name}.c" for name in named} == {path.name for path in folder.glob("level_*.c")}
    assert [name for name in named if name in levels()] == list(levels()) and levels()[-1] == "scalar"
