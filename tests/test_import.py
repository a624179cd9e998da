"""Policies trained elsewhere, imported and compared with the execution of their own framework."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import nn

from mast_export.errors import ExportError
from mast_export.importing.model import Options, import_model
from mast_runtime import load

OBS, HIDDEN, ACTIONS = 11, 12, 5
GRU_OUTPUTS = ["Y", "Y_h"]


class RNNAgent(nn.Module):
    """PyMARL's: the values of an agent from its observation and its state."""

    def __init__(self, inputs: int = OBS, wide: int = HIDDEN) -> None:
        super().__init__()
        self.fc1, self.rnn, self.fc2 = nn.Linear(inputs, wide), nn.GRUCell(wide, HIDDEN), nn.Linear(HIDDEN, ACTIONS)

    def forward(self, inputs, hidden):
        h = self.rnn(torch.relu(self.fc1(inputs)), hidden)
        return self.fc2(h), h


class Sequence(nn.Module):
    """nn.GRU over whole sequences, as skrl and rsl_rl use it."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.body, self.rnn, self.head = (
            nn.Linear(OBS, 7),
            nn.GRU(7, HIDDEN, batch_first=batch_first),
            nn.Linear(HIDDEN, ACTIONS),
        )

    def forward(self, inputs):
        return self.head(self.rnn(torch.relu(self.body(inputs)))[0])


def observations(steps: int = 120, agents: int = 1, width: int = OBS, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((steps, agents, width)).astype(np.float32)


@torch.no_grad()
def values_of(model: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """Of one agent, over recurrent steps [T,I] -> [T,A]."""
    hidden, rows = torch.zeros(1, HIDDEN), []
    for x in torch.from_numpy(inputs):
        q, hidden = model(x[None], hidden)
        rows.append(q[0].numpy())
    return np.array(rows)


def bundle_values(path: Path, obs: np.ndarray) -> np.ndarray:
    """[T,N,O] -> [T,N,A] of the imported team, whose last actions are its own."""
    team, rows = load(path).team(), []
    for step in obs:
        team.act(step)
        rows.append(team.q)
    return np.array(rows)


def imported(folder: Path, *models: Path, output: str = "out.mast", **options):
    return import_model(models, folder / output, Options(**options))


def saved(folder: Path, model: nn.Module, name: str = "agent.safetensors", prefix: str = "") -> Path:
    arrays = {prefix + key: value.numpy() for key, value in model.state_dict().items()}
    save_file(arrays, folder / name)
    return folder / name


def exported(folder: Path, model: nn.Module, inputs, names: list[str], outputs: list[str], **options) -> Path:
    """By torch's exporter that writes a GRUCell out."""
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: that this exporter is the older one, and of its tracing
        torch.onnx.export(model, inputs, str(path), input_names=names, output_names=outputs, dynamo=False, **options)
    return path


@pytest.mark.parametrize("prefix", ["", "module.agent."])
@pytest.mark.parametrize("suffix", [".safetensors", ".th", ".npz"])
def test_pymarl_agents_by_name(tmp_path, suffix, prefix):
    model = RNNAgent()
    path = saved(tmp_path, model, prefix=prefix)
    if suffix == ".th":
        path = tmp_path / "agent.th"
        torch.save({prefix + key: value for key, value in model.state_dict().items()}, path)
    elif suffix == ".npz":
        path = tmp_path / "agent.npz"
        np.savez(path, **{prefix + key: value.numpy() for key, value in model.state_dict().items()})
    outcome = imported(tmp_path, path)
    obs = observations()
    assert outcome.kind == "a torch state dict" and outcome.same.agreement == 1.0
    assert bundle_values(tmp_path / "out.mast", obs)[:, 0] == pytest.approx(values_of(model, obs[:, 0]), abs=2e-5)


def test_last_actions_and_agents_join_the_input_in_pymarls_order(tmp_path):
    """The oracle puts the input together itself."""
    model, n = RNNAgent(OBS + ACTIONS + 2), 2
    imported(tmp_path, saved(tmp_path, model), agents=2, last_action=True, agent_id=True)
    obs = observations(60, n)
    expected, hidden, last = [], torch.zeros(n, HIDDEN), np.zeros((n, ACTIONS), np.float32)
    for step in obs:
        x = torch.from_numpy(np.concatenate([step, last, np.eye(n, dtype=np.float32)], 1))
        with torch.no_grad():
            q, hidden = model(x, hidden)
        expected.append(q.numpy())
        last = np.eye(ACTIONS, dtype=np.float32)[q.numpy().argmax(1)]
    assert bundle_values(tmp_path / "out.mast", obs) == pytest.approx(np.array(expected), abs=2e-5)


def test_agents_of_their_own_become_networks_of_one_team(tmp_path):
    models = [RNNAgent() for _ in range(12)]
    arrays = {f"agents.{i}.{k}": v.numpy() for i, model in enumerate(models) for k, v in model.state_dict().items()}
    save_file(arrays, tmp_path / "team.safetensors")
    imported(tmp_path, tmp_path / "team.safetensors")
    files = [saved(tmp_path, model, f"{i}.safetensors") for i, model in enumerate(models)]
    imported(tmp_path, *files, output="files.mast")
    obs = observations(40, 12)
    expected = np.stack([values_of(model, obs[:, i]) for i, model in enumerate(models)], 1)
    for name in ("out.mast", "files.mast"):
        assert bundle_values(tmp_path / name, obs) == pytest.approx(expected, abs=2e-5)


def test_jaxmarl_parameters_in_flax_order(tmp_path):
    linen = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    from flax.traverse_util import flatten_dict
    from safetensors.flax import save_file as save_flax

    class RNN(linen.Module):
        @linen.compact
        def __call__(self, hidden, x):
            return linen.GRUCell(HIDDEN)(hidden, x)

    class QNetwork(linen.Module):
        @linen.compact
        def __call__(self, hidden, x):
            hidden, y = RNN(name="ScannedRNN_0")(hidden, linen.relu(linen.Dense(9)(x)))
            return linen.Dense(ACTIONS)(y), hidden

    net, obs = QNetwork(), observations()
    zero = np.zeros((1, HIDDEN), np.float32)
    params = net.init(jax.random.PRNGKey(0), zero, obs[0])
    noise = np.random.default_rng(3)
    params = jax.tree.map(lambda p: np.asarray(p) + 0.1 * noise.standard_normal(p.shape).astype(np.float32), params)
    save_flax(flatten_dict(params, sep=","), tmp_path / "params.safetensors")  # what jaxmarl's save_params does
    assert imported(tmp_path, tmp_path / "params.safetensors").kind == "flax parameters"
    step, hidden, expected = jax.jit(net.apply), zero, []
    for x in obs:
        q, hidden = step(params, hidden, x)
        expected.append(np.asarray(q))
    assert bundle_values(tmp_path / "out.mast", obs) == pytest.approx(np.array(expected), abs=2e-5)


def test_a_gru_cell_that_torch_writes_out(tmp_path):
    model = RNNAgent(wide=9)
    path = exported(tmp_path, model, (torch.zeros(1, OBS), torch.zeros(1, HIDDEN)), ["x", "h"], ["q", "next"])
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "GRU" not in operators and {"Sigmoid", "Tanh"} <= operators
    assert imported(tmp_path, path).kind == "an ONNX model"
    obs = observations()
    assert bundle_values(tmp_path / "out.mast", obs)[:, 0] == pytest.approx(values_of(model, obs[:, 0]), abs=2e-5)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_sequence_through_the_gru_operator(tmp_path, batch_first):
    model = Sequence(batch_first)
    axes = {"x": {0: "a", 1: "b"}}
    path = exported(tmp_path, model, torch.zeros(2, 3, OBS), ["x"], ["q"], dynamic_axes=axes)
    assert "GRU" in {node.op_type for node in onnx.load(path).graph.node}
    imported(tmp_path, path)
    obs = observations()
    with torch.no_grad():
        expected = model(torch.from_numpy(obs.swapaxes(0, 1) if batch_first else obs)).reshape(len(obs), ACTIONS)
    assert bundle_values(tmp_path / "out.mast", obs)[:, 0] == pytest.approx(expected.numpy(), abs=2e-5)


class NoFirstLayer(nn.Module):
    """Isaac Lab's recurrent policies: normalised observations straight into the GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.actor = nn.GRUCell(OBS, HIDDEN), nn.Linear(HIDDEN, ACTIONS)
        self.mean, self.std = torch.linspace(-1, 1, OBS), torch.linspace(0.5, 2, OBS)

    def forward(self, inputs, hidden):
        h = self.rnn((inputs - self.mean) / self.std, hidden)
        return self.actor(h), h


class Leaky(nn.Module):
    """A leaky activation, a gate split off one product, and the other form of z."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(OBS, 8), nn.Linear(HIDDEN, ACTIONS)
        self.gates, self.x, self.h = nn.Linear(8 + HIDDEN, 2 * HIDDEN), nn.Linear(8, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, inputs, hidden):
        y = nn.functional.leaky_relu(self.fc1(inputs), 0.2)
        r, z = torch.sigmoid(self.gates(torch.cat([y, hidden], -1))).chunk(2, -1)
        h = z * torch.tanh(self.x(y) + r * self.h(hidden)) + (1 - z) * hidden
        return self.fc2(h), h


@pytest.mark.parametrize("model", [NoFirstLayer, Leaky])
def test_what_relu_and_the_input_weights_can_express_exactly(tmp_path, model):
    net = model()
    path = exported(tmp_path, net, (torch.zeros(1, OBS), torch.zeros(1, HIDDEN)), ["x", "h"], ["q", "next"])
    imported(tmp_path, path)
    obs = observations()
    assert bundle_values(tmp_path / "out.mast", obs)[:, 0] == pytest.approx(values_of(net, obs[:, 0]), abs=2e-5)


def operator_model(folder: Path, diagonal: bool, **attributes) -> Path:
    """ONNX's GRU operator on x, and one Gemm."""
    rng = np.random.default_rng(1)
    w, r = rng.standard_normal((1, 3 * HIDDEN, OBS)) / 3, rng.standard_normal((1, 3 * HIDDEN, HIDDEN)) / 3
    if diagonal:
        r[0, 2 * HIDDEN :] *= np.eye(HIDDEN)
    arrays = {
        "W": w, "R": r, "B": rng.standard_normal((1, 6 * HIDDEN)) / 5,
        "fc": rng.standard_normal((HIDDEN, ACTIONS)), "b": rng.standard_normal(ACTIONS),
    }  # fmt: skip
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], GRU_OUTPUTS, hidden_size=HIDDEN, **attributes),
        helper.make_node("Squeeze", ["Y_h", "first"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "b"], ["q"]),
    ]
    weights = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    weights.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    row = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "gru",
        [row("x", TensorProto.FLOAT, ["t", 1, OBS]), row("h", TensorProto.FLOAT, [1, 1, HIDDEN])],
        [row("q", TensorProto.FLOAT, [1, ACTIONS]), row("Y_h", TensorProto.FLOAT, [1, 1, HIDDEN])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "gru.onnx")
    return folder / "gru.onnx"


@pytest.mark.parametrize(("before", "diagonal"), [(1, False), (0, True)])
def test_both_formulas_of_the_gru_operator(tmp_path, before, diagonal):
    """Compared with ONNX Runtime by import_model; here by a loop over the operator's specification."""
    path = operator_model(tmp_path, diagonal, linear_before_reset=before)
    outcome = imported(tmp_path, path)
    assert outcome.same.n_steps == 200 and outcome.same.max_q_error < 1e-5 and outcome.same.max_hidden_error < 1e-5
    given = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer}
    (wz, wr, wh), (rz, rr, rh) = np.split(given["W"][0], 3), np.split(given["R"][0], 3)
    bias, h, expected = np.split(given["B"][0], 6), np.zeros(HIDDEN), []
    obs = observations(60)
    for x in obs[:, 0].astype(np.float64):
        z, r = (1 / (1 + np.exp(-(w @ x + u @ h + bias[i] + bias[3 + i]))) for i, w, u in ((0, wz, rz), (1, wr, rr)))
        recurrent = r * (rh @ h + bias[5]) if before else rh @ (r * h) + bias[5]
        h = (1 - z) * np.tanh(wh @ x + recurrent + bias[2]) + z * h
        expected.append(h @ given["fc"] + given["b"])
    assert bundle_values(tmp_path / "out.mast", obs)[:, 0] == pytest.approx(np.array(expected), abs=2e-5)


class Late(nn.Module):
    """The reset gate before the product, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.n, self.fc = (
            nn.Linear(OBS + HIDDEN, 2 * HIDDEN),
            nn.Linear(OBS + HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, ACTIONS),
        )

    def forward(self, inputs, hidden):
        r, z = torch.sigmoid(self.gates(torch.cat([inputs, hidden], -1))).chunk(2, -1)
        h = (1 - z) * torch.tanh(self.n(torch.cat([inputs, r * hidden], -1))) + z * hidden
        return self.fc(h), h


class Deep(RNNAgent):
    def forward(self, inputs, hidden):
        _, h = super().forward(inputs, hidden)
        return self.fc2(torch.relu(h)), h


class Squashed(RNNAgent):
    def forward(self, inputs, hidden):
        q, h = super().forward(inputs, hidden)
        return torch.softmax(q, -1), h


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Late, "linear_before_reset=0"),
        (Deep, "Relu .* follows the GRU"),
        (Squashed, "Softmax .* is no part of linear layers"),
    ],
)
def test_graphs_that_do_not_fit_are_refused_in_one_line(tmp_path, model, words):
    path = exported(tmp_path, model(), (torch.zeros(1, OBS), torch.zeros(1, HIDDEN)), ["x", "h"], ["q", "next"])
    with pytest.raises(ExportError, match=words) as caught:
        imported(tmp_path, path)
    assert "\n" not in str(caught.value) and not (tmp_path / "out.mast").exists()


def test_a_tensor_inside_the_graph_can_be_the_values(tmp_path):
    model = Squashed()
    path = exported(tmp_path, model, (torch.zeros(1, OBS), torch.zeros(1, HIDDEN)), ["x", "h"], ["p", "next"])
    before = next(node.input[0] for node in onnx.load(path).graph.node if node.op_type == "Softmax")
    imported(tmp_path, path, tensor=before)
    obs = observations(50)
    with torch.no_grad():
        expected = np.log(values_of(model, obs[:, 0]))
    found = bundle_values(tmp_path / "out.mast", obs)[:, 0]
    found -= np.log(np.exp(found).sum(1, keepdims=True))
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"linear_before_reset": 0}, "linear_before_reset=0"),
        ({"linear_before_reset": 1, "clip": 3.0}, "clips"),
        ({"linear_before_reset": 1, "activations": ["HardSigmoid", "Tanh"]}, "activations"),
    ],
)
def test_operators_that_a_bundle_cannot_compute_are_refused(tmp_path, attributes, words):
    with pytest.raises(ExportError, match=words) as caught:
        imported(tmp_path, operator_model(tmp_path, False, **attributes))
    assert "\n" not in str(caught.value)
