"""The trainer's cell, the numpy reference, ONNX Runtime and exported files compute the same thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import random_bundle, random_network, with_noise

from mast_export.errors import ExportError
from mast_export.formats.onnx import export_onnx
from mast_export.quantise import quantise
from mast_export.verify import Trace, verify, verify_onnx, weights_dtype
from mast_runtime import Bundle, Contract, Layer
from mast_runtime.backends.onnx import OnnxStep
from mast_runtime.backends.reference import ReferenceStep, network_input
from mast_runtime.format import VALUE_DTYPES
from mast_runtime.onnx_graph import build_model, open_session

STEPS = 200
SHAPES = {
    "unstructured": {"sparsity": 0.9},
    "blocks": {"sparsity": 0.95, "hidden": 24, "blocks": {"weight_ih": 16, "weight_hh": 8}},
    "dense": {"sparsity": None, "hidden": 17, "fc1": 5},
    "empty": {"sparsity": 1.0, "hidden": 8},
    "shared": {"sparsity": 0.8, "shared": True},
}


def record(bundle: Bundle, n_steps: int = STEPS, seed: int = 0) -> Trace:
    """A trace made by torch.nn.GRUCell and torch linear layers from the bundle's weights."""
    rng = np.random.default_rng(seed)
    contract, n = bundle.contract, len(bundle.agents)
    obs = rng.standard_normal((n_steps, n, contract.obs_dim)).astype(np.float32)
    avail = rng.random((n_steps, n, contract.n_actions)) < 0.6
    avail[..., 0] |= ~avail.any(-1)
    q = np.empty(avail.shape, np.float32)
    hidden = np.empty((n_steps, n, bundle.networks[0].hidden), np.float32)
    for i, agent in enumerate(bundle.agents):
        q[:, i], hidden[:, i] = torch_agent(bundle, i, agent.index, obs[:, i], avail[:, i])
    return Trace(obs, avail, q, hidden)


@torch.no_grad()
def torch_agent(bundle: Bundle, i: int, index: int, obs: np.ndarray, avail: np.ndarray):
    """One agent's greedy q [T,A] and hidden [T,H]; torch keeps gates r, z, n and two biases for each."""
    network = bundle.networks[bundle.agents[i].network]
    weights = {name: torch.from_numpy(layer.dense()) for name, layer in network.layers().items()}
    r, z, nx, nh = torch.from_numpy(network.gru_bias)
    cell = torch.nn.GRUCell(network.fc1.outputs, network.hidden)
    cell.weight_ih.copy_(weights["weight_ih"])
    cell.weight_hh.copy_(weights["weight_hh"])
    cell.bias_ih.copy_(torch.cat([0.25 * r, 2.0 * z, nx]))
    cell.bias_hh.copy_(torch.cat([0.75 * r, -1.0 * z, nh]))
    memory, last = torch.zeros(1, network.hidden), -1
    all_q, all_hidden = [], []
    for o, a in zip(obs, avail, strict=True):
        parts = [torch.from_numpy(o), torch.zeros(bundle.contract.n_actions)]
        if last >= 0:
            parts[1][last] = 1.0
        if bundle.contract.agent_id:
            parts.append(torch.eye(bundle.contract.n_agents)[index])
        x = torch.relu(weights["fc1"] @ torch.cat(parts) + torch.from_numpy(network.fc1_bias))
        memory = cell(x[None], memory)
        q = weights["fc2"] @ memory[0] + torch.from_numpy(network.fc2_bias)
        last = int(torch.where(torch.from_numpy(a), q, -torch.inf).argmax())
        all_q.append(q.numpy())
        all_hidden.append(memory[0].numpy())
    return np.array(all_q), np.array(all_hidden)


@pytest.fixture(scope="module", params=SHAPES)
def case(request) -> tuple[Bundle, Trace]:
    bundle = random_bundle(1, **SHAPES[request.param])
    return bundle, record(bundle)


@pytest.mark.parametrize("backend", ["reference", "onnx"])
def test_backends_compute_what_torch_computes(case, backend):
    report = verify(*case, backend)
    assert report.passed, report
    assert report.max_hidden_error < 1e-5 and report.n_steps == STEPS


@pytest.mark.parametrize("sparse", [False, True])
def test_exported_files_compute_what_torch_computes(case, sparse, tmp_path):
    bundle, trace = case
    files = export_onnx(bundle, tmp_path / "team", sparse=sparse, trace=trace)
    assert [file.path.name for file in files] == ["agent_0.onnx", "agent_1.onnx", "agent_2.onnx"]
    for file in files:
        onnx.checker.check_model(str(file.path), full_check=True)
        report = verify_onnx(file.path, trace, file.agent)
        assert report == file.report
        assert report.passed and report.agreement == 1.0, report
    manifest = json.loads((tmp_path / "team" / "manifest.json").read_text())
    assert manifest["info"] == bundle.info
    assert [agent["file"] for agent in manifest["agents"]] == [file.path.name for file in files]


@pytest.mark.parametrize("last_action", [False, True])
@pytest.mark.parametrize("agent_id", [False, True])
def test_every_input_contract(last_action, agent_id):
    rng = np.random.default_rng(2)
    contract = Contract(6, 4, 3, last_action, agent_id)
    network = random_network(rng, contract, hidden=9)
    obs, hidden = rng.standard_normal((5, 6)).astype(np.float32), rng.standard_normal((5, 9)).astype(np.float32)
    last, ids = np.array([-1, 0, 3, 2, -1]), np.array([0, 1, 2, 2, 0])
    expected, step = ReferenceStep(contract, network), OnnxStep(contract, network)
    for n in (5, 1, 3):
        rows = slice(n)
        answers = [f(obs[rows], last[rows], ids[rows], hidden[rows]) for f in (expected, step)]
        for wanted, given in zip(*answers, strict=True):
            np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_the_answers_of_a_step_stay_when_it_is_called_again():
    bundle = random_bundle(3, n_agents=1)
    step = OnnxStep(bundle.contract, bundle.networks[0])
    arguments = np.ones((1, 20), np.float32), np.array([-1]), np.array([0]), np.zeros((1, 64), np.float32)
    q, hidden = step(*arguments)
    kept = q.copy(), hidden.copy()
    step(-arguments[0], *arguments[1:])
    np.testing.assert_array_equal(q, kept[0])
    np.testing.assert_array_equal(hidden, kept[1])


def test_the_reference_input_is_obs_then_last_action_then_id():
    x = network_input(Contract(2, 3, 2, agent_id=True), np.array([[5.0, 6.0]] * 2), np.array([-1, 2]), np.array([0, 1]))
    assert x.tolist() == [[5, 6, 0, 0, 0, 1, 0], [5, 6, 0, 0, 1, 0, 1]]


def test_actions_are_the_lowest_best_available():
    bundle = random_bundle(4, n_agents=1, n_actions=4)
    network = bundle.networks[0]
    flat = Layer.from_dense(np.zeros((4, network.hidden)), None)
    network = replace(network, fc2=flat, fc2_bias=np.array([-5.0, 7.0, 7.0, 9.0], np.float32))
    session = open_session(build_model(bundle.contract, network, bundle.agents[0]).SerializeToString())
    avail = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]], bool)
    inputs = {
        "obs": np.ones((4, 20), np.float32),
        "last_action": np.array([-1, 0, 1, 3]),
        "avail_actions": avail,
        "hidden": np.zeros((4, network.hidden), np.float32),
    }
    assert np.asarray(session.run(["action"], inputs)[0]).tolist() == [3, 1, 0, 2]


def test_sparse_files_are_smaller_and_store_only_connections():
    bundle = random_bundle(5, n_agents=1, sparsity=0.95)
    network, agent = bundle.networks[0], bundle.agents[0]
    dense, sparse = (build_model(bundle.contract, network, agent, bundle.info, s) for s in (False, True))
    stored = [node.attribute[0].sparse_tensor for node in sparse.graph.node if node.op_type == "Constant"]
    assert sum(tensor.values.dims[0] for tensor in stored) == network.nnz
    assert sparse.ByteSize() < dense.ByteSize() / 3
    full = random_bundle(5, n_agents=1, sparsity=None)
    assert not [
        n for n in build_model(full.contract, full.networks[0], sparse=True).graph.node if n.op_type == "Constant"
    ]


def test_a_file_describes_itself(tmp_path):
    bundle = random_bundle(6)
    (file,) = export_onnx(bundle, tmp_path / "one.onnx", agent=2, trace=record(bundle, 5))
    properties = open_session(str(file.path)).get_modelmeta().custom_metadata_map
    manifest = json.loads(properties["mast"])
    assert manifest["info"] == bundle.info and manifest["agent"]["name"] == "ally_2"
    assert manifest["contract"] == {
        "obs_dim": 20, "n_actions": 7, "n_agents": 3, "last_action": True, "agent_id": False,
    }  # fmt: skip
    assert json.loads(properties["verification"])["passed"] is True
    model = onnx.load(file.path)
    assert model.ir_version == 8 and model.opset_import[0].version == 17


def test_destinations(tmp_path):
    alone = random_bundle(7, n_agents=1)
    assert export_onnx(alone, tmp_path / "a.onnx")[0].path == tmp_path / "a.onnx"
    with pytest.raises(ExportError, match="one file for 3 agents"):
        export_onnx(random_bundle(7), tmp_path / "b.onnx")
    with pytest.raises(IndexError, match="agents 0 to 2"):
        export_onnx(random_bundle(7), tmp_path / "b.onnx", agent=3)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("keep me")
    with pytest.raises(ExportError, match="not an ONNX export"):
        export_onnx(random_bundle(7), tmp_path / "notes")
    export_onnx(random_bundle(7), tmp_path / "team")
    export_onnx(random_bundle(8, n_agents=2), tmp_path / "team")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "notes", "team"]
    assert sorted(p.name for p in (tmp_path / "team").iterdir()) == ["agent_0.onnx", "agent_1.onnx", "manifest.json"]


def swapped_gates(bundle: Bundle) -> Bundle:
    """Gates z, r, n: the mistake of reading one library's order as another's."""

    def swap(layer: Layer) -> Layer:
        r, z, n = np.split(layer.dense(), 3)
        return Layer.from_dense(np.concatenate([z, r, n]), None, 1, 3)

    networks = [replace(x, weight_ih=swap(x.weight_ih), weight_hh=swap(x.weight_hh)) for x in bundle.networks]
    return replace(bundle, networks=tuple(networks))


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
def test_a_wrong_network_fails_whatever_its_dtype(dtype):
    bundle = random_bundle(9, sparsity=None)
    trace = record(bundle)
    trace = with_noise(trace, quantise(bundle, dtype), dtype)
    assert verify(quantise(bundle, dtype), trace).passed
    assert not verify(quantise(swapped_gates(bundle), dtype), trace).passed


def test_a_failed_verification_leaves_nothing(tmp_path):
    bundle = random_bundle(9)
    trace = record(bundle, 20)
    with pytest.raises(ExportError, match="agent 0 differs from the trained network over 20 steps"):
        export_onnx(swapped_gates(bundle), tmp_path / "team", trace=trace)
    export_onnx(bundle, tmp_path / "team", trace=trace)
    before = {p.name: p.read_bytes() for p in (tmp_path / "team").iterdir()}
    with pytest.raises(ExportError):
        export_onnx(swapped_gates(bundle), tmp_path / "team", trace=trace)
    assert {p.name: p.read_bytes() for p in (tmp_path / "team").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["team"]


def test_values_that_are_not_finite_never_pass():
    trace = record(random_bundle(10), 3)
    q = trace.q.copy()
    q[1, 1, 1] = np.nan
    for noise in (0.0, 1e9, np.inf, np.nan):
        noisy = replace(trace, noise={"f32": np.array([noise] * 3)})
        assert not verify(random_bundle(10), replace(noisy, q=q)).passed
        hidden = np.full_like(trace.hidden, np.inf)
        assert not verify(random_bundle(10), replace(noisy, hidden=hidden)).passed


def test_a_trace_of_another_team():
    trace = record(random_bundle(11), 2)
    with pytest.raises(ValueError, match="a trace of 3 agents, the bundle has 2"):
        verify(random_bundle(11, n_agents=2), trace)
    with pytest.raises(ValueError, match="a trace of shapes"):
        replace(trace, obs=trace.obs[:1])


def test_quantised_weights_are_within_half_a_level():
    bundle = random_bundle(12, n_agents=1, sparsity=0.9, blocks={"weight_hh": 8})
    for dtype, bound in (("f16", 2.0**-11), ("i8", 0.5 / 127 * (1 + 2.0**-10))):
        narrow = quantise(bundle, dtype)
        assert weights_dtype(narrow) == dtype and narrow.nnz == bundle.nnz
        for name, layer in bundle.networks[0].layers().items():
            other = narrow.networks[0].layers()[name]
            assert other.values.shape == layer.values.shape and other.block == layer.block
            np.testing.assert_array_equal(other.mask(), layer.mask())
            largest = np.abs(layer.dense()).max(1, keepdims=True)
            assert (np.abs(other.dense() - layer.dense()) <= bound * largest * (1 + 1e-5)).all()
            if dtype == "i8":
                np.testing.assert_array_equal(other.scale.astype(np.float16), other.scale)
        biases = narrow.networks[0].gru_bias, bundle.networks[0].gru_bias
        np.testing.assert_array_equal(biases[0], biases[1].astype(np.float16))
    again = quantise(quantise(bundle, "i8"), "i8").networks[0]
    np.testing.assert_array_equal(again.fc1.values, quantise(bundle, "i8").networks[0].fc1.values)
    assert weights_dtype(quantise(quantise(bundle, "f16"), "f32")) == "f32"


def test_rows_that_are_zero_or_tiny_quantise_to_something_finite():
    weight = np.array([[0.0, 0.0], [1e-44, 0.0], [3e38, -1.0], [1e-3, -1e-3]], np.float32)
    bundle = random_bundle(13, n_agents=1, n_actions=4, hidden=2)
    network = replace(bundle.networks[0], fc2=Layer.from_dense(weight, None))
    layer = quantise(replace(bundle, networks=(network,)), "i8").networks[0].fc2
    # 1e-3 / 127 up to the next float16, which is subnormal there: 133 steps of 2^-24.
    assert layer.values.tolist() == [[0, 0], [0, 0], [127, 0], [126, -126]]
    assert layer.scale.tolist() == [1.0, 1.0, np.float32(3e38) / np.float32(127), 133 * 2.0**-24]
    np.testing.assert_allclose(layer.dense()[2:], [[3e38, 0.0], [1e-3, -1e-3]], rtol=2e-3)
    with pytest.raises(ExportError, match="fc2: a weight of 3e\\+38 does not fit float16"):
        quantise(replace(bundle, networks=(network,)), "f16")
    with pytest.raises(ValueError, match="choose from f32, f16, i8"):
        quantise(bundle, "i4")


def test_an_agent_runs_on_onnx_runtime(tmp_path: Path):
    agent = random_bundle(14).agent(1, backend="onnx")
    assert agent.backend == "onnx" and 0 <= agent.act(np.ones(20)) < 7
