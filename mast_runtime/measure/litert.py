"""The network as a LiteRT (TensorFlow Lite) model, written with the schema that the ai-edge-litert package ships.

obs [n,O] float32, last_action [n] int32 (A: none yet), agent_id [n] int32 (with agent ids), avail_actions [n,A] bool,
hidden [n,H] float32 -> action [n] int64, next_hidden [n,H] float32. n is fixed. The weights are dense: LiteRT's own
sparse kernels take other layouts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.network import Contract, Network

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


def build_litert(contract: Contract, network: Network, n: int) -> bytes:
    """One network for n agents at once, as a .tflite file. Needs ai-edge-litert and flatbuffers."""
    graph = _Graph()
    inputs = {
        "obs": graph.tensor("obs", (n, contract.obs_dim), np.float32),
        "last_action": graph.tensor("last_action", (n,), np.int32),
        "agent_id": graph.tensor("agent_id", (n,), np.int32),
        "avail_actions": graph.tensor("avail_actions", (n, contract.n_actions), np.bool_),
        "hidden": graph.tensor("hidden", (n, network.hidden), np.float32),
    }
    y = _first_layer(graph, contract, network, inputs, n)
    hidden = _gru(graph, network, y, inputs["hidden"], n)
    q = graph.dense(hidden, network.fc2.dense(), network.fc2_bias, n)
    lowest = graph.constant("unavailable", np.full((1, 1), -np.inf, np.float32))
    possible = graph.node("SELECT_V2", [inputs["avail_actions"], q, lowest], (n, contract.n_actions))
    axis = graph.constant("axis", np.array(-1, np.int32))
    action = graph.node("ARG_MAX", [possible, axis], (n,), np.int64, OutputType=graph.dtype(np.int64))
    used = dict(inputs)
    if not contract.agent_id:
        used.pop("agent_id")
    if not contract.last_action:
        used.pop("last_action")
    return graph.pack(list(used.values()), [action, hidden])


class _Graph:
    """Tensors and operators in the making, as the schema's objects."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [self.schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[str] = []

    def dtype(self, numpy_type: type) -> int:
        name = {np.float32: "FLOAT32", np.int32: "INT32", np.int64: "INT64", np.bool_: "BOOL"}[numpy_type]
        return getattr(self.schema.TensorType, name)

    def tensor(self, name: str, shape: tuple[int, ...], numpy_type: type, buffer: int = 0) -> int:
        """Append a tensor; buffer 0 is none. Returns its place."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), self.dtype(numpy_type), buffer
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name: str, array: NDArray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return self.tensor(name, array.shape, array.dtype.type, len(self.buffers) - 1)

    def operator(self, code: str, inputs: list[int], outputs: list[int], **options: Any) -> None:
        """Append an operator; `options` are the fields of its options table, if it has one."""
        operator = self.schema.OperatorT()
        if code not in self.codes:
            self.codes.append(code)
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(code), inputs, outputs
        table = {"LOGISTIC": None, "TANH": None, "SELECT_V2": "SelectV2"}.get(code, code.title().replace("_", ""))
        if table is not None:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, f"{table}Options")
            operator.builtinOptions = getattr(self.schema, f"{table}OptionsT")()
            for field, value in options.items():
                setattr(operator.builtinOptions, field[0].lower() + field[1:], value)
        self.operators.append(operator)

    def node(
        self, code: str, inputs: list[int], shape: tuple[int, ...], numpy_type: type = np.float32, **options: Any
    ) -> int:
        """An operator with one output; returns that."""
        output = self.tensor(f"{code.lower()}_{len(self.operators)}", shape, numpy_type)
        self.operator(code, inputs, [output], **options)
        return output

    def dense(self, x: int, weight: NDArray, bias: NDArray, n: int) -> int:
        """x weight^T + bias: [n, inputs] -> [n, outputs]."""
        k = len(self.operators)
        matrix, addend = self.constant(f"weight_{k}", weight), self.constant(f"bias_{k}", bias)
        return self.node("FULLY_CONNECTED", [x, matrix, addend], (n, len(weight)))

    def pack(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file."""
        import flatbuffers

        model, subgraph = self.schema.ModelT(), self.schema.SubGraphT()
        subgraph.name, subgraph.inputs, subgraph.outputs = "mast", inputs, outputs
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        model.version, model.subgraphs, model.buffers = SCHEMA_VERSION, [subgraph], self.buffers
        model.operatorCodes = [self._code(name) for name in self.codes]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, name: str) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = 1
        return code


def _first_layer(graph: _Graph, contract: Contract, network: Network, inputs: dict[str, int], n: int) -> int:
    """relu(fc1 x + b1): the one-hot parts of x are rows of a table."""
    first_id = contract.obs_dim + contract.n_actions * contract.last_action
    obs, action, ids = np.split(network.fc1.dense(), [contract.obs_dim, first_id], axis=1)
    total, shape = graph.dense(inputs["obs"], obs, network.fc1_bias, n), (n, network.fc1.outputs)
    tables = []
    if contract.last_action:
        tables.append(("last_action", np.concatenate([action.T, np.zeros_like(action.T[:1])])))
    if contract.agent_id:
        tables.append(("agent_id", ids.T))
    for name, rows in tables:
        row = graph.node("GATHER", [graph.constant(f"{name}_rows", rows), inputs[name]], shape)
        total = graph.node("ADD", [total, row], shape)
    graph.operators[-1].builtinOptions.fusedActivationFunction = graph.schema.ActivationFunctionType.RELU
    return total


def _gru(graph: _Graph, network: Network, y: int, hidden: int, n: int) -> int:
    """n + z (hidden - n); r, z and n as in mast_runtime.network."""
    h, bias = network.hidden, network.gru_bias
    shape, zero = (n, h), np.zeros(h, np.float32)

    def gates(of: int, weight: NDArray, biases: list[NDArray]) -> list[int]:
        total = graph.dense(of, weight, np.concatenate(biases), n)
        parts = [graph.tensor(f"gate_{len(graph.tensors)}", shape, np.float32) for _ in range(3)]
        axis = graph.constant(f"axis_{total}", np.array(1, np.int32))
        graph.operator("SPLIT", [axis, total], parts, NumSplits=3)
        return parts

    from_x = gates(y, network.weight_ih.dense(), [bias[0], bias[1], bias[2]])
    from_h = gates(hidden, network.weight_hh.dense(), [zero, zero, bias[3]])
    r, z = (
        graph.node("LOGISTIC", [graph.node("ADD", [a, b], shape)], shape)
        for a, b in zip(from_x[:2], from_h[:2], strict=True)
    )
    recurrent = graph.node("MUL", [r, from_h[2]], shape)
    new = graph.node("TANH", [graph.node("ADD", [from_x[2], recurrent], shape)], shape)
    kept = graph.node("MUL", [z, graph.node("SUB", [hidden, new], shape)], shape)
    return graph.node("ADD", [new, kept], shape)
