"""The network as an ONNX graph, for the exported model and for engines that run it.

A published model (an `agent` is given) is self-contained: obs [B,O] float32, last_action [B] int64 (-1: none yet),
avail_actions [B,A] bool, hidden [B,H] float32 -> q [B,A] float32, action [B] int64 (greedy over the available, lowest
index on ties), next_hidden [B,H] float32. B is dynamic. ONNX names are unique in a graph, hence `next_hidden`; feed it
back as `hidden`. A row without an available action gets action 0. The agent's one-hot id is part of the weights.

Where actions are continuous there is no avail_actions, A is the number of the agent's components, action [B,A] float32
is in their units and so is last_action [B,A] float32: the middle of the range for none yet, else the last action, fed
back. tanh, the bounds and a rate limit are in the graph; so is the search where actions are searched for
(mast_runtime.onnx_search), and q [B,W] is then what it goes on from.

An engine's graph (`agent` is None) has no avail_actions and no action unless asked to `choose`; with agent ids, an
input agent_id [B] int64.

A one-hot vector times a matrix is a row of the matrix, so Gather replaces it. The GRU is explicit products: as fast as
the GRU operator for one agent, up to 1.5 times as fast for many.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.format import AgentInfo, Identity
from mast_runtime.head import manifest_of
from mast_runtime.inputs import STATISTICS, Bounds
from mast_runtime.network import Contract, Network
from mast_runtime.onnx_nodes import Graph
from mast_runtime.onnx_search import add_search
from mast_runtime.version import __version__

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

OPSET, IR_VERSION = 17, 8
"""Read by onnxruntime 1.12 (2022) and later."""


def build_model(
    contract: Contract,
    network: Network,
    agent: AgentInfo | None = None,
    info: dict[str, Any] | None = None,
    sparse: bool = False,
    choose: bool = False,
    identity: Identity | None = None,
) -> onnx.ModelProto:
    """One network as an ONNX model, float32. Its metadata property `mast` is a JSON manifest: contract, agent, info,
    and where they are known identity and inputs (names, units, and low, high, mean, deviation of training).

    choose: the action too, as for an agent. An input that nothing reads (last_action, where x has none) stays one.
    sparse: matrices that this makes smaller (a third full or less) are stored sparse (COO, linear indices), as the
    sparse_value of a Constant: onnx.checker's full mode refuses an operator that reads a sparse_initializer.
    """
    from onnx import helper

    graph = Graph(sparse)
    bounds = None
    if contract.head is not None and agent is not None:
        bounds = contract.head.bounds(agent.index)
        add_scaled_input(graph, bounds)
    searches = contract.head is not None and contract.head.search is not None
    size = network.fc2.outputs if bounds is None or searches else len(bounds.low)
    _first_layer(graph, contract, network, agent, bounds)
    state = (_mid if "mid" in network.parts.layers else _gru)(graph, network)
    weights = graph.matrix("fc2", network.fc2.dense().T[:, :size])
    graph.node("Gemm", state, weights, graph.constant("fc2.bias", network.fc2_bias[:size]), to="q")
    choose = choose or agent is not None
    if contract.head is not None and bounds is not None:
        search = contract.head.search
        found = "" if search is None else add_search(graph, search, network, len(bounds.low))
        add_head(graph, bounds, contract.head.rate_limit, found)
    elif choose:
        lowest = graph.constant("unavailable", np.float32(-np.inf))
        graph.node("ArgMax", graph.node("Where", "avail_actions", "q", lowest), to="action", axis=1, keepdims=0)
    inputs, outputs = _signature(contract, network, choose, contract.agent_id and agent is None, bounds)
    proto = helper.make_graph(graph.nodes, "mast", inputs, outputs, graph.initialisers)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        proto, opset_imports=opset, ir_version=IR_VERSION, producer_name="mast-marl", producer_version=__version__
    )
    manifest: dict[str, Any] = {"contract": contract.sizes(), "head": manifest_of(contract.head)}
    manifest |= {"agent": agent and asdict(agent), "info": info or {}}
    if identity is not None:
        manifest["identity"] = identity._asdict()
    if agent is not None and network.inputs is not None:
        seen = network.inputs
        manifest["inputs"] = {"names": list(seen.names), "units": list(seen.units)}
        manifest["inputs"] |= {name: getattr(seen, name).tolist() for name in STATISTICS}
    helper.set_model_props(model, {"mast": json.dumps(manifest, allow_nan=False)})
    return model


def open_session(model: bytes | str) -> InferenceSession:
    """An ONNX Runtime session on one thread for serialised bytes or a path; speaks only of errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def add_scaled_input(graph: Graph, bounds: Bounds) -> None:
    """scaled = last_action from its bounds to [-1, 1]."""
    low, high = np.array(bounds.low), np.array(bounds.high)
    scale, offset = 2.0 / (high - low), (low + high) / (low - high)
    product = graph.node("Mul", "last_action", graph.constant("head.scale", scale.astype(np.float32)))
    total = graph.node("Add", product, graph.constant("head.offset", offset.astype(np.float32)))
    ends = (graph.constant(name, np.float32(end)) for name, end in (("head.least", -1.0), ("head.most", 1.0)))
    graph.node("Clip", total, *ends, to="scaled")


def add_head(graph: Graph, bounds: Bounds, rate_limit: float | None, found: str = "") -> None:
    """action = tanh(q), or what was found; near to the last action where there is a limit; from [-1, 1] to the
    bounds."""
    low, high = np.array(bounds.low), np.array(bounds.high)
    squashed = found or graph.node("Tanh", "q")
    if rate_limit is not None:
        step = graph.constant("head.step", np.float32(2.0 * rate_limit))
        squashed = graph.node("Max", squashed, graph.node("Sub", "scaled", step))
        squashed = graph.node("Min", squashed, graph.node("Add", "scaled", step))
    product = graph.node("Mul", squashed, graph.constant("head.half", (0.5 * (high - low)).astype(np.float32)))
    graph.node("Add", product, graph.constant("head.middle", (0.5 * (low + high)).astype(np.float32)), to="action")


def _first_layer(
    graph: Graph, contract: Contract, network: Network, agent: AgentInfo | None, bounds: Bounds | None = None
) -> None:
    """fc1_out = relu(fc1 x + b1), x = obs ++ onehot(last_action) [++ onehot(agent_id)].

    Of a continuous action (bounds) the scaled components stand in the one-hot's place.
    """
    first_id = contract.obs_dim + contract.n_actions * contract.last_action
    obs, action, ids = np.split(network.fc1.dense().T, [contract.obs_dim, first_id])
    bias, tables, seen = network.fc1_bias, [], "obs"
    if bounds is not None and contract.last_action:
        seen, obs = graph.node("Concat", "obs", "scaled", axis=1), np.concatenate([obs, action[: len(bounds.low)]])
    if contract.agent_id and agent is None:
        tables.append(("fc1.agent_id", ids, "agent_id"))
    elif contract.agent_id and agent is not None:
        bias = bias + ids[agent.index]
    if contract.last_action and bounds is None:
        # ONNX counts index -1 from the end: the row of zeros is "none yet".
        tables.append(("fc1.last_action", np.concatenate([action, np.zeros_like(obs[:1])]), "last_action"))
    if tables and not graph.sparse:
        name, rows, index = tables.pop()
        addends = [graph.node("Gather", graph.constant(name, rows + bias), index)]
    else:
        addends = [graph.constant("fc1.bias", bias)]
    addends += [graph.node("Gather", graph.matrix(name, rows), index) for name, rows, index in tables]
    total = reduce(lambda a, b: graph.node("Add", a, b), addends)
    graph.node("Relu", graph.node("Gemm", seen, graph.matrix("fc1.obs", obs), total), to="fc1_out")


def _mid(graph: Graph, network: Network) -> str:
    """relu(mid fc1_out + b), and hidden as it was: its name."""
    graph.node("Identity", "hidden", to="next_hidden")
    weights = graph.matrix("mid", network.mid.dense().T)
    return graph.node("Relu", graph.node("Gemm", "fc1_out", weights, graph.constant("mid.bias", network.mid_bias)))


def _gru(graph: Graph, network: Network) -> str:
    """next_hidden = n + z (hidden - n); r, z and n as in mast_runtime.network, from fc1_out and hidden."""

    def product(of: str, name: str, rows: NDArray, addend: str) -> str:
        return graph.node("Gemm", of, graph.matrix(name, rows.T), addend)

    from_input = dict(zip("rzn", np.split(network.weight_ih.dense(), 3), strict=True))
    from_hidden = dict(zip("rzn", np.split(network.weight_hh.dense(), 3), strict=True))
    bias = dict(zip(["r", "z", "nx", "nh"], network.gru_bias, strict=True))
    gate = {}
    for k in "rz":
        recurrent = product("hidden", f"hidden_{k}", from_hidden[k], graph.constant(f"bias_{k}", bias[k]))
        gate[k] = graph.node("Sigmoid", product("fc1_out", f"input_{k}", from_input[k], recurrent), to=k)
    recurrent = product("hidden", "hidden_n", from_hidden["n"], graph.constant("bias_nh", bias["nh"]))
    reset = graph.node("Add", graph.node("Mul", gate["r"], recurrent), graph.constant("bias_nx", bias["nx"]))
    new = graph.node("Tanh", product("fc1_out", "input_n", from_input["n"], reset), to="n")
    kept = graph.node("Mul", gate["z"], graph.node("Sub", "hidden", new))
    return graph.node("Add", new, kept, to="next_hidden")


def _signature(
    contract: Contract, network: Network, choose: bool, ids: bool, bounds: Bounds | None
) -> tuple[list, list]:
    from onnx import TensorProto, helper

    hidden, width = network.hidden, network.fc2.outputs

    def value(name: str, dtype: int, *width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, ["batch", *width])

    real, whole = TensorProto.FLOAT, TensorProto.INT64
    if bounds is not None:
        size = len(bounds.low)
        inputs = [value("obs", real, contract.obs_dim), value("last_action", real, size), value("hidden", real, hidden)]
        searched = contract.head is not None and contract.head.search is not None
        outputs = [value("q", real, width if searched else size), value("action", real, size)]
        return inputs, [*outputs, value("next_hidden", real, hidden)]
    inputs = [value("obs", real, contract.obs_dim), value("last_action", whole)]
    outputs = [value("q", real, width)]
    if choose:
        inputs.append(value("avail_actions", TensorProto.BOOL, contract.n_actions))
        outputs.append(value("action", whole))
    if ids:
        inputs.append(value("agent_id", whole))
    return [*inputs, value("hidden", real, hidden)], [*outputs, value("next_hidden", real, hidden)]
