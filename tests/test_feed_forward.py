"""Networks without a memory, on every backend and instruction set, one agent and many, in files and described."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bounded import bounded_bundle, by_hand
from networks import random_bundle

from mast_runtime import Bundle, load, native, save
from mast_runtime.backends import installed_backends
from mast_runtime.measure.card import print_description
from mast_runtime.measure.flops import network_counts
from mast_runtime.measure.inspect import describe
from mast_runtime.measure.pictures import masks_png
from mast_runtime.native import make_team

SHAPES = {
    "unstructured": {"hidden": 40, "fc1": 24},
    "dense": {"hidden": 33, "sparsity": None},
    "blocks": {"hidden": 64, "blocks": {"mid": 8, "fc1": 16}},
    "wide and empty": {"hidden": 200, "sparsity": 0.97},
}


def outputs(bundle: Bundle, i: int, obs: np.ndarray, last: np.ndarray) -> np.ndarray:
    """q [n,A] of network i, in float64."""
    network, c = bundle.networks[i], bundle.contract
    x = np.concatenate([obs, np.eye(c.n_actions + 1)[last][:, : c.n_actions]], 1).astype(np.float64)
    y = np.maximum(x @ network.fc1.dense().T + network.fc1_bias, 0.0)
    middle = np.maximum(y @ network.mid.dense().T + network.mid_bias, 0.0)
    return middle @ network.fc2.dense().T + network.fc2_bias


def played(bundle: Bundle, team, n: int, steps: int = 4) -> None:
    """A team's outputs are those in float64, whatever came before."""
    rng, last = np.random.default_rng(0), np.full(n, -1)
    for _ in range(steps):
        obs = rng.standard_normal((n, bundle.contract.obs_dim)).astype(np.float32)
        actions = team.act(obs)
        expected = np.zeros((n, bundle.contract.n_actions))
        for i in range(len(bundle.agents)):
            rows = slice(i, None, len(bundle.agents))
            expected[rows] = outputs(bundle, i, obs[rows], last[rows])
        np.testing.assert_allclose(team.q, expected, atol=2e-5)
        np.testing.assert_array_equal(actions, team.q.argmax(1))
        assert not team.hidden.any(), "no memory"
        last = actions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", installed_backends())
def test_every_backend_computes_the_layers(backend, shape):
    bundle = random_bundle(1, memory=False, **SHAPES[shape])
    played(bundle, bundle.team(backend=backend), 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", native.levels())
def test_every_instruction_set_runs_one_and_many(level, shape):
    """Three agents of three networks, and forty of each as lanes."""
    bundle = random_bundle(2, memory=False, **SHAPES[shape])
    for n in (3, 120):
        ids = [agent.index for agent in bundle.agents]
        played(bundle, make_team(bundle.contract, bundle.networks, ids, n, level), n)


def test_continuous_actions_follow_from_them():
    bundle = bounded_bundle(3, 0.1, memory=False, hidden=24)
    obs = np.random.default_rng(0).standard_normal((8, 3, 20)).astype(np.float32)
    _, actions = by_hand(bundle, obs)
    for backend in installed_backends():
        team = bundle.team(backend=backend)
        np.testing.assert_allclose([team.act(row) for row in obs], actions, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_holds_them(tmp_path, shape):
    bundle = random_bundle(4, memory=False, **SHAPES[shape])
    save(bundle, tmp_path / "p.mast")
    again = load(tmp_path / "p.mast")
    for before, now in zip(bundle.networks, again.networks, strict=True):
        assert now.architecture == "mlp" and now.hidden == before.hidden
        assert [*now.layers()] == ["fc1", "mid", "fc2"]
        for name, layer in before.layers().items():
            np.testing.assert_array_equal(now.layers()[name].dense(), layer.dense())
        np.testing.assert_array_equal(now.mid_bias, before.mid_bias)
    mixed = replace(bundle, networks=(*bundle.networks[:2], random_bundle(5, **SHAPES[shape]).networks[2]))
    with pytest.raises(ValueError, match=r"same architecture"):
        save(mixed, tmp_path / "mixed.mast")


def test_they_are_counted_described_and_drawn(tmp_path, capsys):
    bundle = random_bundle(6, memory=False, hidden=16, fc1=12, sparsity=None, n_actions=5, obs_dim=10)
    counts = network_counts(bundle.contract, bundle.networks[0])
    assert counts.counted_parameters == 15 * 12 + 12 + 12 * 16 + 16 + 16 * 5 + 5
    one_hot = 12 - 2 * 5 * 12
    matrices = 2 * (15 * 12 + 12 * 16 + 16 * 5) + (12 + 16 + 5)
    assert counts.counted_flops == matrices + one_hot + (12 + 16) + 2 * 5 - 1
    assert counts.dense() == counts
    assert [layer.layer for layer in describe(bundle).layers[:3]] == ["fc1", "mid", "fc2"]
    from rich.console import Console

    print_description(Console(width=120), describe(bundle))
    assert "mid" in capsys.readouterr().out
    masks_png(bundle, tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 1000
