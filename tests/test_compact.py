"""Lossless compaction: what leaves, that nothing else changes, in every backend and export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_bundle, with_noise

from mast_export import compact as compact_module
from mast_export.c.build import find_compiler
from mast_export.compact import Compacted, Removed, compact, compact_bundle
from mast_export.formats.c import export_c
from mast_export.formats.onnx import export_onnx
from mast_export.quantise import quantise
from mast_export.verify import Trace, verify
from mast_runtime import Bundle, Layer, Network, load, save
from mast_runtime.backends import installed_backends
from mast_runtime.measure.inspect import describe


def edited(network: Network, **weights: np.ndarray) -> Network:
    """The network with other matrices, in the same blocks; a connection is a weight that is not 0."""
    layers = network.layers()
    new = {
        name: Layer.from_dense(matrix, np.not_equal(matrix, 0.0), layers[name].block, layers[name].segments)
        for name, matrix in weights.items()
    }
    return replace(network, **new)


def with_idle_units(seed: int, **options) -> Bundle:
    """Random networks in which, of each kind that compaction knows, some units are idle."""
    bundle, networks = random_bundle(seed, **options), []
    rng = np.random.default_rng(seed)
    for network in bundle.networks:
        weight = {name: layer.dense() for name, layer in network.layers().items()}
        bias, h = network.gru_bias.copy(), network.hidden
        idle_fc1, unread_fc1 = rng.random((2, network.fc1.outputs)) < 0.2
        dead, zero = rng.random((2, h)) < 0.2
        weight["fc1"][idle_fc1] = 0.0
        weight["weight_ih"][:, unread_fc1] = 0.0
        weight["fc2"][:, dead] = 0.0
        weight["weight_hh"].reshape(3, h, h)[:, :, dead] *= dead[:, None]
        weight["weight_ih"][2 * h :][zero] = 0.0
        weight["weight_hh"][2 * h :][zero] *= zero
        bias[2:, zero] = 0.0
        networks.append(replace(edited(network, **weight), gru_bias=bias))
    return replace(bundle, networks=tuple(networks))


def record(bundle: Bundle, steps: int = 60, seed: int = 0) -> Trace:
    """Random observations, and what the reference makes of them acting greedily."""
    rng, c, n = np.random.default_rng(seed), bundle.contract, len(bundle.agents)
    obs = rng.standard_normal((steps, n, c.obs_dim)).astype(np.float32)
    avail = rng.random((steps, n, c.n_actions)) < 0.6
    avail[..., 0] = True
    team, q, hidden = bundle.team(backend="reference"), [], []
    for step in zip(obs, avail, strict=True):
        team.act(*step)
        q.append(team.q)
        hidden.append(team.hidden)
    return Trace(obs, avail, np.array(q), np.array(hidden))


def sequential(network: Network, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q and hidden over time in float32, each sum begun at its bias and taken connection by connection, by hand."""
    f = np.float32

    def total(start, weights, values):
        for w, v in zip(weights, values, strict=True):
            if w != 0.0:
                start = f(start + f(w * v))
        return start

    weight = {name: layer.dense() for name, layer in network.layers().items()}
    memory, h, out = np.zeros(network.hidden, f), network.hidden, []
    for x in inputs:
        y = [max(total(b, w, x), f(0)) for w, b in zip(weight["fc1"], network.fc1_bias, strict=True)]
        new = []
        for j in range(h):
            r, z, nx, nh = network.gru_bias[:, j]
            r = total(total(r, weight["weight_ih"][j], y), weight["weight_hh"][j], memory)
            z = total(total(z, weight["weight_ih"][h + j], y), weight["weight_hh"][h + j], memory)
            nx, nh = total(nx, weight["weight_ih"][2 * h + j], y), total(nh, weight["weight_hh"][2 * h + j], memory)
            r, z = (f(0.5) * (f(1) + np.tanh(f(0.5) * gate)) for gate in (r, z))
            n = np.tanh(f(nx + f(r * nh)))
            new.append(f(f(f(1 - z) * n) + f(z * memory[j])))
        memory = np.array(new, f)
        q = [total(b, w, memory) for w, b in zip(weight["fc2"], network.fc2_bias, strict=True)]
        out.append((q, memory))
    return tuple(np.array(part, f) for part in zip(*out, strict=True))


SPARSE = {
    "seed": st.integers(0, 1 << 16),
    "hidden": st.integers(1, 14),
    "fc1": st.integers(1, 14),
    "sparsity": st.sampled_from([0.5, 0.8, 0.95, 1.0]),
    "blocks": st.fixed_dictionaries(
        {}, optional={name: st.integers(1, 5) for name in ("fc1", "weight_ih", "weight_hh")}
    ),
}


@settings(max_examples=60, deadline=None)
@given(**SPARSE)
def test_removal_changes_no_bit(seed, hidden, fc1, sparsity, blocks):
    """Without folding, sums keep their addends and order: the same bits in any arithmetic that adds in order."""
    options = {"hidden": hidden, "fc1": fc1, "sparsity": sparsity}
    (network,) = (with_idle_units if not blocks else random_bundle)(
        seed, n_agents=1, obs_dim=5, n_actions=3, **options, **({"blocks": blocks} if blocks else {})
    ).networks
    part = compact(network, fold=False)
    inputs = np.random.default_rng(seed).standard_normal((6, 8)).astype(np.float32)
    q, memory = sequential(network, inputs)
    q_compact, memory_compact = sequential(part.network, inputs)
    np.testing.assert_array_equal(q_compact, q)
    np.testing.assert_array_equal(memory_compact, memory[:, part.hidden])
    assert part.folded == 0
    again = compact(part.network, fold=False)
    assert (again.fc1.size, again.hidden.size) == (part.fc1.size, part.hidden.size)


@settings(max_examples=40, deadline=None)
@given(**SPARSE, shared=st.booleans())
def test_the_same_actions_in_every_backend(seed, hidden, fc1, sparsity, blocks, shared):
    options = {"hidden": hidden, "fc1": fc1, "sparsity": sparsity, "shared": shared}
    if blocks:
        bundle = random_bundle(seed, blocks=blocks, **options)
    else:
        bundle = with_idle_units(seed, **options)
    trace = record(bundle, 20, seed)
    smaller, kept, removed = compact_bundle(bundle, trace)
    assert len(removed) == len(bundle.networks) and smaller.info["trained_units"] == [fc1, hidden]
    for part, network in zip(removed, smaller.networks, strict=True):
        assert (fc1 - part.fc1, hidden - part.hidden) == (network.fc1.outputs, network.hidden)
    for backend in installed_backends():
        report = verify(smaller, kept, backend)
        assert report.agreement == 1.0 and report.max_q_error < 1e-5 and report.max_hidden_error < 1e-5, report


def hand_network() -> Network:
    """Six fc1 units and six of the GRU, of which fc1 0 and hidden 0 and 1 do all the work."""
    (network,) = random_bundle(0, n_agents=1, obs_dim=2, n_actions=1, hidden=6, sparsity=1.0).networks
    weight = {name: layer.dense() for name, layer in network.layers().items()}
    weight["fc1"][[0, 3], 0] = 1.0
    weight["weight_ih"][0, 0] = 1.0  # hidden 0 reads fc1 0,
    weight["weight_ih"][[1, 7, 13], 1] = 2.0, 3.0, 4.0  # hidden 1 reads fc1 1, a positive constant,
    weight["weight_ih"][1, 2] = 9.0  # and fc1 2, which is 0 for ever,
    weight["weight_ih"][2, 4] = 1.0  # hidden 2, which nothing reads, alone reads fc1 4
    weight["weight_hh"][0, 1] = 1.0  # hidden 0 reads hidden 1,
    weight["weight_hh"][[3, 4], [4, 3]] = 1.0  # hidden 3 and 4 read each other,
    weight["weight_hh"][0, 5] = 1.0  # hidden 0 reads hidden 5, which is 0 for ever,
    weight["fc2"][0, [0, 5]] = 1.0
    bias = np.full((4, 6), 0.25, np.float32)
    bias[2:, 5] = 0.0
    fc1_bias = np.array([0.5, 0.5, -0.5, 0.5, 0.5, 0.0], np.float32)
    return replace(edited(network, **weight), gru_bias=bias, fc1_bias=fc1_bias)


def test_each_kind_of_idle_unit():
    part = compact(hand_network())
    assert (part.fc1.tolist(), part.hidden.tolist(), part.folded) == ([0], [0, 1], 1)
    np.testing.assert_array_equal(part.network.gru_bias[:, 1], [0.25 + 1.0, 0.25 + 1.5, 0.25 + 2.0, 0.25])
    assert {name: layer.nnz for name, layer in part.network.layers().items()} == {
        "fc1": 1, "weight_ih": 1, "weight_hh": 1, "fc2": 1
    }  # fmt: skip
    part = compact(hand_network(), fold=False)
    assert (part.fc1.tolist(), part.hidden.tolist(), part.folded) == ([0, 1], [0, 1], 0)


@pytest.mark.parametrize("gate", [2, 3])
def test_a_unit_without_inputs_but_with_a_bias_moves_and_stays(gate):
    network = hand_network()
    bias = network.gru_bias.copy()
    bias[gate, 5] = 1e-30
    assert compact(replace(network, gru_bias=bias)).hidden.tolist() == [0, 1, 5]


def test_blocks_leave_whole():
    bundle = random_bundle(1, n_agents=1, hidden=10, sparsity=0.0, blocks={"fc1": 4, "weight_ih": 2, "weight_hh": 4})
    (network,) = bundle.networks
    fc2, from_input = network.fc2.dense(), network.weight_ih.dense()
    hidden = network.weight_hh.dense().reshape(3, 10, 10)
    fc2[:, [1, 4, 5, 6, 7]] = 0.0
    hidden[:, :, [1, 4, 5, 6, 7]] = 0.0
    from_input[:, [1, 8, 9]] = 0.0
    part = compact(edited(network, fc2=fc2, weight_hh=hidden.reshape(30, 10), weight_ih=from_input))
    assert part.hidden.tolist() == [0, 1, 2, 3, 8, 9]
    assert part.fc1.tolist() == list(range(8))
    assert (part.network.weight_hh.block, part.network.weight_hh.outputs) == (4, 18)


def test_a_network_without_connections_keeps_a_unit_of_each():
    (network,) = random_bundle(0, n_agents=1, hidden=5, sparsity=1.0).networks
    part = compact(network)
    assert (part.network.fc1.outputs, part.network.hidden, part.network.nnz) == (1, 1, 0)


def test_a_constant_too_large_to_fold_stays():
    network = hand_network()
    part = compact(replace(network, fc1_bias=network.fc1_bias * np.float32(3e38)))
    assert part.folded == 0 and 1 in part.fc1


def test_what_changes_an_action_is_not_done(monkeypatch):
    bundle = with_idle_units(5)
    trace = record(bundle, 10)

    def folds_wrongly(network: Network, fold: bool = True) -> Compacted:
        part = compact(network, fold)
        bias = part.network.fc2_bias[::-1].copy() * 100
        return replace(part, network=replace(part.network, fc2_bias=bias)) if fold else part

    def always_wrong(network: Network, fold: bool = True) -> Compacted:
        return folds_wrongly(network, True)

    monkeypatch.setattr(compact_module, "compact", folds_wrongly)
    smaller, _, removed = compact_bundle(bundle, trace)
    assert all(part.folded == 0 for part in removed) and smaller.networks[0].hidden < 64
    monkeypatch.setattr(compact_module, "compact", always_wrong)
    same, _, removed = compact_bundle(bundle, trace)
    assert same.networks == bundle.networks
    assert all(part.fc1 == part.hidden == 0 for part in removed)


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_every_export_of_networks_of_different_sizes(dtype, tmp_path):
    """Three agents, three sizes, one bundle: the file, ONNX and C agree with the uncompacted team."""
    bundle = with_idle_units(3, hidden=24)
    trace = record(bundle)
    smaller, kept, _ = compact_bundle(bundle, trace)
    assert len({network.hidden for network in smaller.networks}) > 1
    narrow = quantise(smaller, dtype)
    save(narrow, tmp_path / "p.mast")
    kept = with_noise(kept, narrow, dtype)
    assert verify(load(tmp_path / "p.mast"), kept).passed
    if dtype == "f32":
        for sparse in (False, True):
            files = export_onnx(smaller, tmp_path / f"onnx-{sparse}", sparse=sparse, trace=kept)
            assert [file.report.agreement for file in files] == [1.0] * 3
    if find_compiler():
        reports = [folder.report for folder in export_c(narrow, tmp_path / "c", None, kept)]
        assert [report.passed for report in reports] == [True] * 3


def test_what_left_is_said_in_words():
    removed = Removed(0, "ally_0", 3, 2, 1, 64, 32)
    assert str(removed) == (
        "ally_0: removed 3 of 64 fc1 units (1 constants folded into biases) and 2 of 32 hidden units"
    )


def test_inspect_shows_the_trained_units():
    bundle = with_idle_units(3, hidden=24)
    smaller, _, removed = compact_bundle(bundle, record(bundle, 5))
    units = [(network.fc1, network.hidden, network.trained) for network in describe(smaller).networks]
    assert units == [(24 - part.fc1, 24 - part.hidden, [24, 24]) for part in removed]
    assert describe(bundle).networks[0].trained == [24, 24]
