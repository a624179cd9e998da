"""What import leaves of a policy and how it says so: pruning, formats, recorded observations, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mast_export.errors import ExportError
from mast_export.importing.model import Options, import_model
from mast_export.importing.policy import Policy, networks
from mast_export.importing.prune import prune
from mast_runtime import load
from mast_runtime.network import LAYERS

OBS, WIDE, HIDDEN, ACTIONS = 10, 20, 24, 6
SHAPES = {
    "fc1.weight": (WIDE, OBS), "fc1.bias": (WIDE,), "rnn.weight_ih": (3 * HIDDEN, WIDE),
    "rnn.weight_hh": (3 * HIDDEN, HIDDEN), "rnn.bias_ih": (3 * HIDDEN,), "rnn.bias_hh": (3 * HIDDEN,),
    "fc2.weight": (ACTIONS, HIDDEN), "fc2.bias": (ACTIONS,),
}  # fmt: skip


def state(seed: int = 0, **changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        name: (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32) for name, shape in SHAPES.items()
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def policy(seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)

    def of(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return Policy(
        of(WIDE, OBS), of(WIDE), of(3 * HIDDEN, WIDE), 5 * of(3 * HIDDEN, HIDDEN), of(4, HIDDEN), of(ACTIONS, HIDDEN),
        of(ACTIONS),
    )  # fmt: skip


@pytest.fixture
def model(tmp_path):
    save_file(state(), tmp_path / "agent.safetensors")
    return tmp_path / "agent.safetensors"


def test_pruning_keeps_the_largest_in_units_of_each_layers_spread():
    """By hand: every weight over its layer's root mean square, all sorted at once."""
    full = policy()
    pruned, masks = prune(full, 0.8)
    scores = {k: np.abs(m) / np.sqrt((m.astype(float) ** 2).mean()) for k, m in full.matrices().items()}
    flat = np.sort(np.concatenate([s.ravel() for s in scores.values()]))[::-1]
    n = int(0.2 * flat.size)
    for name, matrix in pruned.matrices().items():
        assert np.array_equal(masks[name], scores[name] >= flat[n - 1])
        assert np.array_equal(matrix, full.matrices()[name] * masks[name])
    assert sum(mask.sum() for mask in masks.values()) == n


@pytest.mark.parametrize("block", [8, 16])
def test_blocks_live_and_die_whole_within_a_gate(block):
    """24 units: blocks of 16 have a short one of 8 at each gate's end."""
    pruned, masks = prune(policy(), 0.7, block)
    for name in ("weight_ih", "weight_hh"):
        for gate in np.split(masks[name], 3):
            for first in range(0, HIDDEN, block):
                part = gate[first : first + block]
                assert (part.all(0) | ~part.any(0)).all()
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    assert 0.3 * total - 3 * block < kept <= 0.3 * total
    (network,) = networks([pruned], [masks], block)
    assert network.weight_hh.block == block and network.nnz == kept


def test_nothing_is_left_without_a_connection():
    _, masks = prune(policy(), 0.9999)
    assert all(mask.sum() == 1 for mask in masks.values())


def test_a_pruned_policy_is_written_and_its_loss_is_said(tmp_path, model):
    outcome = import_model([model], tmp_path / "p.mast", Options(sparsity=0.5), compacted=False)
    bundle = load(tmp_path / "p.mast")
    assert bundle.sparsity == pytest.approx(0.5, abs=1e-3) == outcome.sparsity
    assert outcome.same.agreement == 1.0 and outcome.loss is not None and 0.2 < outcome.loss.agreement < 1.0
    assert f"{outcome.loss.agreement:.1%} of the actions" in "\n".join(outcome.lines())
    json.dumps(outcome.as_dict(), allow_nan=False)


def test_the_loss_is_the_pruned_policys_own(tmp_path, model):
    """Counted again with torch on a file of observations: actions of the pruned network beside the whole one's."""
    obs = np.random.default_rng(8).standard_normal((150, OBS)).astype(np.float32)
    np.save(tmp_path / "obs.npy", obs)
    options = Options(sparsity=0.6, observations=tmp_path / "obs.npy")
    outcome = import_model([model], tmp_path / "p.mast", options, compacted=False)
    network, arrays = load(tmp_path / "p.mast").networks[0], {k: torch.from_numpy(v) for k, v in state().items()}
    keys = {"fc1": "fc1.weight", "weight_ih": "rnn.weight_ih", "weight_hh": "rnn.weight_hh", "fc2": "fc2.weight"}
    pruned = arrays | {keys[name]: torch.from_numpy(getattr(network, name).dense()) for name in LAYERS}

    def actions(weights):
        h, found = torch.zeros(1, HIDDEN), []
        for x in torch.from_numpy(obs):
            y = torch.relu(weights["fc1.weight"] @ x + weights["fc1.bias"])
            h = torch.gru_cell(
                y[None], h, *(weights[f"rnn.{k}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            )
            found.append(int((h @ weights["fc2.weight"].T + weights["fc2.bias"]).argmax()))
        return np.array(found)

    assert outcome.loss is not None
    assert outcome.loss.actions_equal == int((actions(arrays) == actions(pruned)).sum()) < 150


@pytest.mark.parametrize(("format_", "dtype"), [("c", "i8"), ("onnx", "f32"), ("mast", "f16")])
def test_every_format_takes_an_imported_policy(tmp_path, model, format_, dtype):
    output = tmp_path / ("out.mast" if format_ == "mast" else "out")
    options = Options(agents=2, agent_id=True, sparsity=0.7, block="8x1")
    outcome = import_model([model], output, options, format_, dtype)
    assert len(outcome.files) == (1 if format_ == "mast" else 2) and outcome.loss is not None
    assert all(file.report is None or file.report.passed for file in outcome.files) and output.exists()


def test_zeros_of_the_original_are_not_stored(tmp_path):
    weight = state()["rnn.weight_hh"] * (np.random.default_rng(2).random((3 * HIDDEN, HIDDEN)) < 0.1)
    save_file(state(**{"rnn.weight_hh": weight.astype(np.float32)}), tmp_path / "a.safetensors")
    import_model([tmp_path / "a.safetensors"], tmp_path / "a.mast", Options(), compacted=False)
    network = load(tmp_path / "a.mast").networks[0]
    assert network.weight_hh.nnz == np.count_nonzero(weight) and network.fc1.is_dense


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"rnn.weight_ih": None, "rnn.weight_hh": None}, {}, "no GRU in it"),
        ({"fc2.weight": np.ones((ACTIONS, HIDDEN + 1), np.float32)}, {}, "a GRU of 20 inputs and 24 units"),
        ({"fc3.weight": np.ones((4, 4), np.float32)}, {}, "linear layers: fc1"),
        ({"norm.weight": np.ones(4, np.float32)}, {}, "norm .* is no linear layer"),
        ({"fc2.bias": np.full(ACTIONS, np.nan, np.float32)}, {}, "fc2_bias holds a value that is not finite"),
        ({"rnn.weight_hh": np.ones((4 * HIDDEN, HIDDEN), np.float32)}, {}, "has shape .96, 24."),
        ({}, {"prefix": "critic"}, "starts with critic"),
        ({}, {"tensor": "q"}, "--tensor"),
        ({}, {"sparsity": 1.0}, "--sparsity 1.0"),
        ({}, {"block": "8x1"}, "give --sparsity too"),
        ({}, {"block": "3x1", "sparsity": 0.5}, "expected 1x1, 8x1, 16x1"),
        ({}, {"last_action": True, "agent_id": True, "agents": 4}, "6 of the last action and 4 of the agent's id"),
        ({}, {"agents": 0}, "--agents 0"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, changes, options, words):
    save_file(state(**changes), tmp_path / "agent.safetensors")
    with pytest.raises(ExportError, match=words) as caught:
        import_model([tmp_path / "agent.safetensors"], tmp_path / "out.mast", Options(**options))
    assert "\n" not in str(caught.value) and not (tmp_path / "out.mast").exists()


class Anything:
    pass


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.pt", lambda path: torch.save(Anything(), path), "does not load it as weights alone"),
        ("a.pt", lambda path: path.write_bytes(b"junk"), "does not load it as weights alone"),
        ("a.npz", lambda path: np.savez(path, x=np.array([Anything()])), "no .npz of plain arrays"),
        ("a.safetensors", lambda path: path.write_bytes(b"junk"), "not readable"),
        ("a.onnx", lambda path: path.write_bytes(b"junk"), "no valid ONNX model"),
        ("a.keras", lambda path: path.write_bytes(b"junk"), "expected .onnx, .safetensors"),
    ],
)
def test_files_that_hold_no_plain_weights(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(ExportError, match=words) as caught:
        import_model([tmp_path / name], tmp_path / "out.mast", Options())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("o.npy", np.ones((5, OBS + 1), np.float32), "expected .steps, 1, 10."),
        ("o.npy", np.full((5, OBS), np.inf, np.float32), "not finite"),
        ("o.csv", None, "read from .npy"),
    ],
)
def test_observations_of_another_policy(tmp_path, model, name, array, words):
    (tmp_path / name).write_bytes(b"") if array is None else np.save(tmp_path / name, array)
    with pytest.raises(ExportError, match=words):
        import_model([model], tmp_path / "out.mast", Options(observations=tmp_path / name))


def test_named_arrays_need_no_torch_and_no_onnx(tmp_path, model):
    """What a base install has is enough to import, prune and write a bundle from safetensors."""
    code = f"""
import sys
from pathlib import Path
from mast_export.importing.model import Options, import_model
import_model([Path({str(model)!r})], Path({str(tmp_path / "out.mast")!r}), Options(sparsity=0.5))
assert not {{"torch", "jax", "onnx", "onnxruntime", "mast_train"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent, timeout=120)
    assert load(tmp_path / "out.mast").sparsity == pytest.approx(0.5, abs=2e-3)
