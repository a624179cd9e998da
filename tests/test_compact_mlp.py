"""Lossless compaction of networks without a memory: what leaves, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bounded import bounded_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_bundle, with_noise
from test_c_bounded import traced
from test_compact import edited, record

from mast_export.c.build import find_compiler
from mast_export.compact import compact, compact_bundle
from mast_export.formats.c import export_c
from mast_export.quantise import quantise
from mast_export.verify import verify
from mast_runtime import Bundle, Network, load, save
from mast_runtime.backends import installed_backends

SPARSE = {
    "seed": st.integers(0, 1 << 16),
    "hidden": st.integers(1, 14),
    "fc1": st.integers(1, 14),
    "sparsity": st.sampled_from([0.5, 0.8, 0.95, 1.0]),
    "blocks": st.fixed_dictionaries({}, optional={name: st.integers(1, 5) for name in ("fc1", "mid")}),
}


def idle(bundle: Bundle, seed: int) -> Bundle:
    """The team with idle units of each kind, where its layers have no blocks."""
    rng, networks = np.random.default_rng(seed), []
    for network in bundle.networks:
        if max(layer.block for layer in network.layers().values()) > 1:
            return bundle
        weight = {name: layer.dense() for name, layer in network.layers().items()}
        weight["fc1"][rng.random(network.fc1.outputs) < 0.3] = 0.0
        weight["mid"][rng.random(network.hidden) < 0.3] = 0.0
        weight["mid"][:, rng.random(network.fc1.outputs) < 0.2] = 0.0
        weight["fc2"][:, rng.random(network.hidden) < 0.2] = 0.0
        networks.append(edited(network, **weight))
    return replace(bundle, networks=tuple(networks))


def in_order(network: Network, x: np.ndarray) -> np.ndarray:
    """q in float32, each sum begun at its bias and taken connection by connection."""
    values = x.astype(np.float32)
    for name, bias in zip(network.parts.layers, network.parts.biases, strict=True):
        sums = []
        for row, start in zip(network.layers()[name].dense(), getattr(network, bias), strict=True):
            total = np.float32(start)
            for w, v in zip(row, values, strict=True):
                if w != 0.0:
                    total = np.float32(total + np.float32(w * v))
            sums.append(total)
        values = np.array(sums, np.float32) if name == "fc2" else np.maximum(np.array(sums, np.float32), np.float32(0))
    return values


@settings(max_examples=40, deadline=None)
@given(**SPARSE)
def test_removal_changes_no_bit(seed, hidden, fc1, sparsity, blocks):
    """Without folding sums keep their addends and order; with it they are rounded in another."""
    options = {"hidden": hidden, "fc1": fc1, "sparsity": sparsity, "blocks": blocks}
    (network,) = idle(random_bundle(seed, 1, 5, 3, memory=False, **options), seed).networks
    part, folded = compact(network, fold=False), compact(network)
    for x in np.random.default_rng(seed).standard_normal((6, 8)):
        expected = in_order(network, x)
        np.testing.assert_array_equal(in_order(part.network, x), expected)
        np.testing.assert_allclose(in_order(folded.network, x), expected, atol=1e-5)
    assert part.folded == 0
    for more, less, block in (  # the group that always stays may be the larger one
        (part.fc1, folded.fc1, network.fc1.block),
        (part.hidden, folded.hidden, network.mid.block),
    ):
        assert less.size <= max(more.size, block)
    for done in (part, folded):
        again = compact(done.network, fold=done is folded)
        assert (again.fc1.size, again.hidden.size, again.folded) == (done.fc1.size, done.hidden.size, 0)


@settings(max_examples=20, deadline=None)
@given(**SPARSE)
def test_the_same_actions_in_every_backend(seed, hidden, fc1, sparsity, blocks):
    bundle = idle(random_bundle(seed, memory=False, hidden=hidden, fc1=fc1, sparsity=sparsity, blocks=blocks), seed)
    smaller, kept, removed = compact_bundle(bundle, record(bundle, 20, seed))
    for part, network in zip(removed, smaller.networks, strict=True):
        assert (fc1 - part.fc1, hidden - part.hidden) == (network.fc1.outputs, network.hidden)
    for backend in installed_backends():
        report = verify(smaller, kept, backend)
        assert report.agreement == 1.0 and report.max_q_error < 1e-5, report


def test_each_kind_of_idle_unit():
    """fc1 0 and mid 0 do all the work; the others are constant, 0 for ever, or read by nobody."""
    (network,) = random_bundle(0, 1, 2, 1, hidden=5, sparsity=1.0, memory=False).networks
    weight = {name: layer.dense() for name, layer in network.layers().items()}
    weight["fc1"][[0, 3], 0] = 1.0
    weight["mid"][0, :3] = 1.0, 2.0, 9.0  # reads fc1 0, fc1 1, a positive constant, and fc1 2, which is 0 for ever
    weight["mid"][1, 1] = 3.0  # reads the constant alone, so is one
    weight["mid"][2, 2] = 1.0  # reads the 0 alone, and has a bias below 0
    weight["mid"][3, 3] = 1.0  # is read by nobody, and alone reads fc1 3
    weight["fc2"][0, [0, 1, 2]] = 1.0, 4.0, 5.0
    fc1_bias = np.array([0.5, 0.5, -0.5, 0.5, 0.5], np.float32)
    mid_bias = np.array([0.25, 0.25, -0.25, 0.25, 0.25], np.float32)
    zero = np.zeros(1, np.float32)
    network = replace(edited(network, **weight), fc1_bias=fc1_bias, mid_bias=mid_bias, fc2_bias=zero)
    part = compact(network)
    assert (part.fc1.tolist(), part.hidden.tolist(), part.folded) == ([0], [0], 2)
    np.testing.assert_array_equal(part.network.mid_bias, [0.25 + 2.0 * 0.5])
    np.testing.assert_array_equal(part.network.fc2_bias, [4.0 * (0.25 + 3.0 * 0.5)])
    assert {name: layer.nnz for name, layer in part.network.layers().items()} == {"fc1": 1, "mid": 1, "fc2": 1}
    part = compact(network, fold=False)
    assert (part.fc1.tolist(), part.hidden.tolist(), part.folded) == ([0, 1], [0, 1], 0)
    large = compact(replace(network, fc1_bias=fc1_bias * np.float32(3e38)))
    assert large.folded == 0 and 1 in large.fc1, "a constant too large to fold stays"


def test_a_network_without_connections_keeps_a_unit_of_each_and_blocks_leave_whole():
    (network,) = random_bundle(0, 1, hidden=5, sparsity=1.0, memory=False).networks
    part = compact(network)
    assert (part.network.fc1.outputs, part.network.hidden, part.network.nnz) == (1, 1, 0)
    (network,) = random_bundle(1, 1, hidden=10, sparsity=0.0, memory=False, blocks={"fc1": 4, "mid": 2}).networks
    fc2, mid = network.fc2.dense(), network.mid.dense()
    fc2[:, [1, 4, 5]] = 0.0
    mid[:, [1, 8, 9]] = 0.0
    part = compact(edited(network, fc2=fc2, mid=mid))
    assert part.hidden.tolist() == [0, 1, 2, 3, 6, 7, 8, 9] and part.fc1.tolist() == list(range(8))


@pytest.mark.parametrize("dtype", ["f32", "i8"])
def test_networks_of_different_sizes_are_exported(dtype, tmp_path):
    bundle = idle(random_bundle(3, memory=False, hidden=24), 3)
    smaller, kept, _ = compact_bundle(bundle, record(bundle))
    assert len({network.hidden for network in smaller.networks}) > 1
    narrow = quantise(smaller, dtype)
    save(narrow, tmp_path / "p.mast")
    assert verify(load(tmp_path / "p.mast"), with_noise(kept, narrow, dtype)).passed


@pytest.mark.skipif(not find_compiler(), reason="no C compiler")
def test_continuous_actions_stay_what_they_were(tmp_path):
    bundle = idle(bounded_bundle(3, memory=False, hidden=24), 3)
    trace = traced(bundle, 60)
    smaller, kept, removed = compact_bundle(bundle, trace)
    assert all(part.fc1 + part.hidden > 0 for part in removed)
    assert [file.report.passed for file in export_c(smaller, tmp_path / "c", None, kept) if file.report] == [True] * 3
