"""Actions that are searched for, at run time: beside loops, on every backend, in files, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from searched import WIDTH, by_loops, searching_bundle, table, with_seen

from mast_export.observed import with_recording
from mast_export.verify import Trace
from mast_runtime import BundleError, ObservationError, load, save
from mast_runtime.backends import installed_backends
from mast_runtime.encode import encode
from mast_runtime.head import Search
from mast_runtime.measure.flops import network_counts
from mast_runtime.onnx_graph import build_model, open_session
from mast_runtime.search import Values
from mast_runtime.selftest.replay import replay
from mast_runtime.serve.models import make_models

KINDS = [{"memory": True}, {"memory": False, "hidden": 40}, {"shared": True, "hidden": 32}]


def units(bundle, agent, action):
    head = bundle.contract.head
    low, high = np.array(head.low[agent]), np.array(head.high[agent])
    return low + (action + 1.0) / 2.0 * (high - low)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", installed_backends())
def test_a_decision_is_what_loops_over_the_candidates_find(backend, kind):
    bundle, rng = searching_bundle(2, **kind), np.random.default_rng(1)
    team: Any = bundle.team(backend=backend)
    agents: list[Any] = [bundle.agent(i, backend) for i in range(3)]
    for _ in range(3):
        obs = rng.standard_normal((3, bundle.contract.obs_dim)).astype(np.float32)
        actions = team.act(obs)
        assert team.q.shape == (3, WIDTH)
        for i, agent in enumerate(agents):
            expected = units(bundle, i, by_loops(bundle, i, team.q[i]))
            np.testing.assert_allclose(actions[i, : len(expected)], expected, atol=1e-5)
            assert not actions[i, len(expected) :].any(), "components that it has not"
            np.testing.assert_allclose(agent.act(obs[i]), expected, atol=1e-5)
            np.testing.assert_allclose(agent.q, team.q[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("candidates", "iterations"), [(32, 3), (2, 2), (9, 1)])
def test_a_graph_finds_the_same_for_many_at_once(candidates, iterations):
    pytest.importorskip("onnxruntime")
    noise = table(iterations, candidates)
    bundle = changed(
        searching_bundle(6, 0.6), candidates=candidates, iterations=iterations, elites=2, noise=noise.tobytes()
    )
    rng, head = np.random.default_rng(2), bundle.contract.head
    assert head is not None
    for agent, info in enumerate(bundle.agents):
        session = open_session(build_model(bundle.contract, bundle.networks[info.network], info).SerializeToString())
        size, hidden = len(head.low[agent]), np.zeros((7, bundle.networks[0].hidden), np.float32)
        robots: list[Any] = [bundle.agent(agent, "reference") for _ in range(7)]
        last = np.array([robot.last_action for robot in robots])
        for _ in range(2):
            obs = rng.standard_normal((7, bundle.contract.obs_dim)).astype(np.float32)
            given = {"obs": obs, "last_action": last, "hidden": hidden}
            q, action, hidden = map(np.asarray, session.run(None, given))
            expected = np.array([robot.act(own) for robot, own in zip(robots, obs, strict=True)])
            assert q.shape == (7, WIDTH) and action.shape == (7, size)
            np.testing.assert_allclose(action, expected, atol=1e-5)
            last = action


def test_a_server_offers_it():
    bundle = searching_bundle()
    model = make_models(bundle, 1, "auto")[0]["agent_1"]
    outputs = {spec.name: spec.shape for spec in model.outputs}
    assert outputs == {"action": (1,), "q": (WIDTH,)}
    agent: Any = model.new_agent()
    obs = [0.2] * bundle.contract.obs_dim
    assert agent.act(obs).tolist() == bundle.agent(1).act(obs).tolist() and len(agent.q) == WIDTH  # type: ignore[attr-defined]


def test_the_work_is_bounded_and_nothing_is_drawn():
    """The memory once, every candidate once; and the decision is a function of what is seen."""
    bundle = searching_bundle()
    agent: Any = bundle.agent(0, "reference")
    find = agent._search
    values, sizes = find._values, []

    class Watched:
        read = values.read

        def __call__(self, read, actions):
            sizes.append(actions.shape)
            return values(read, actions)

    find._values = Watched()
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    obs = np.ones(bundle.contract.obs_dim, np.float32)
    first = agent.act(obs)
    assert sizes == [(1, 32, 3)] * 3
    agent.reset()
    assert agent.act(obs).tolist() == first.tolist()
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


def test_a_rate_limit_holds_and_what_was_executed_is_the_last_action():
    free: Any = searching_bundle(3).team()
    limited: Any = searching_bundle(3, 0.05).team()
    obs = np.random.default_rng(0).standard_normal((3, free.contract.obs_dim)).astype(np.float32)
    assert np.abs(free.act(obs)).max() > np.abs(limited.act(obs)).max()
    before = limited.scaled
    limited.act(-obs)
    assert np.abs(limited.scaled - before).max() <= 0.1 + 1e-6
    limited.executed([[0.0, 5.0, 1.0], [0.3], [3.0, -1.0]])
    done = limited.scaled
    limited.act(obs)
    assert np.abs(limited.scaled - done).max() <= 0.1 + 1e-6


def test_where_actions_make_no_difference_every_engine_gives_the_same_one():
    bundle = searching_bundle(blind=True)
    obs = np.random.default_rng(0).standard_normal((3, bundle.contract.obs_dim)).astype(np.float32)
    found = [bundle.team(backend=backend).act(obs) for backend in installed_backends()]
    for actions in found:
        np.testing.assert_allclose(actions, found[0], atol=1e-6)


def test_only_units_that_read_an_action_are_valued():
    """Two of four: one that act leads to and fc3 does not read, one that act does not lead to."""
    act = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, -2.0], [3.0, 0.0]])
    values = Values.made([(act, np.array([2.0, 5.0, -1.0, 0.0])), (0.0 * act, np.ones(4))])
    assert values.units.tolist() == [[0, 2], [0, 0]]
    p, actions = np.array([[0.5, 7.0, 1.0, 9.0]] * 2), np.array([[[1.0, 1.0], [-1.0, 0.0]]] * 2)
    found = values(values.read(p), actions)
    assert found.tolist() == [[2 * 1.5 - 0.0, 0.0 - 1.0], [0.5, 0.5]]


def test_what_is_refused_leaves_the_memory():
    bundle = searching_bundle()
    agent, other = bundle.agent(0), bundle.agent(0)
    obs = [0.1] * bundle.contract.obs_dim
    for wrong in ([math.nan] * len(obs), [0.1], [3e38] * len(obs)):
        with pytest.raises(ObservationError):
            agent.act(wrong)
    with pytest.raises(ObservationError, match="continuous actions are not chosen"):
        agent.act(obs, [1] * 3)
    assert agent.act(obs).tolist() == other.act(obs).tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_it_all_and_its_recording_passes_on_every_engine(tmp_path, kind):
    bundle, obs = with_seen(searching_bundle(4, 0.5, **kind))
    nothing = np.zeros((12, 3, 3), np.float32)
    starts = np.arange(12) % 5 == 0
    bundle = with_recording(bundle, Trace(obs, nothing == 0, nothing, nothing, starts))
    save(bundle, tmp_path / "p.mast")
    read = load(tmp_path / "p.mast")
    assert read.contract == bundle.contract and read.networks[0].architecture == bundle.networks[0].architecture
    assert np.array_equal(read.team().act(obs[0]), bundle.team().act(obs[0]))
    tried = replay(read)
    assert len(tried.checks) > 2 and tried.passed


def test_a_decision_is_counted_by_hand():
    bundle = searching_bundle(1, hidden=16, fc1=16, sparsity=None, memory=False)
    counts, network = network_counts(bundle.contract, bundle.networks[0]), bundle.networks[0]
    each = 3 * 3 + 2 * network.act.nnz + 2 * network.fc3.nnz + 2 * WIDTH + 1
    memory = 2 * network.fc1.nnz + 16 + 16 + 2 * 16 * 16 + 16 + 16 + 2 * 16 * WIDTH + WIDTH
    assert counts.counted_flops == memory + 96 * each
    assert counts.paper_parameters == bundle.networks[0].nnz
    assert counts.counted_parameters == bundle.networks[0].nnz + 16 + 16 + WIDTH + 1


def changed(bundle, **values):
    head = bundle.contract.head
    assert head is not None and head.search is not None
    search = Search(**{**vars(head.search), **values})
    return replace(bundle, contract=replace(bundle.contract, head=replace(head, search=search)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"candidates": 1}, "a search of 3 x 1 candidates of which 5 are kept"),
        ({"elites": 33}, "a search of 3 x 32 candidates of which 33 are kept"),
        ({"iterations": 20_000}, "and 1,048,576 numbers in all"),
        ({"iterations": 0}, "expected whole numbers above 0"),
        ({"elites": True}, "expected whole numbers above 0"),
        ({"width": WIDTH + 1}, r"bias: shape \[\d+\], expected"),
        ({"noise": table(2).tobytes()}, r"noise: shape \[192\], expected \[288\]"),
        ({"noise": np.full((3, 32, 3), np.inf, "<f4").tobytes()}, "noise: holds a value that is not finite"),
    ],
)
def test_a_hostile_search_is_one_typed_error(tmp_path, values, said):
    bundle = changed(searching_bundle(hidden=8), **values)
    (tmp_path / "p.mast").write_bytes(
        encode(bundle.contract, bundle.agents, bundle.networks, bundle.info, bundle.identity)
    )
    with pytest.raises(BundleError, match=said) as found:
        load(tmp_path / "p.mast")
    assert "\n" not in str(found.value)


def test_critics_without_a_search_and_a_search_without_critics_are_refused(tmp_path):
    bundle = searching_bundle(hidden=8)
    head = bundle.contract.head
    assert head is not None
    plain = replace(bundle, contract=replace(bundle.contract, head=replace(head, search=None)))
    (tmp_path / "p.mast").write_bytes(encode(plain.contract, plain.agents, plain.networks, {}, plain.identity))
    with pytest.raises(BundleError, match="a head that does not fit the architecture 'gru-critic'"):
        load(tmp_path / "p.mast")
