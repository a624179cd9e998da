"""Other engines on the same policy, for `mast bench`: each engine's own call, without checks, on one thread.

They run dense matrices, a sparse policy's zeros included. A decision is one call per network, of all its agents: the
one-hot inputs and the choice of the action are part of the graph, and the recurrent state goes back in as it came out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.bundle import Bundle
from mast_runtime.errors import BackendError
from mast_runtime.imports import importable
from mast_runtime.network import Contract, Network

Feed = dict[str, NDArray]
"""Inputs by name: obs [n,O], last_action [n], agent_id [n] (with agent ids), avail_actions [n,A], hidden [n,H]."""
Call = Callable[[Feed], tuple[NDArray, NDArray]]
"""A feed -> action [n], next hidden [n,H]."""


@dataclass(frozen=True)
class Engine:
    """An engine: the modules it needs, the packages that bring them, its call for n agents of a network.

    none: how it spells "no action yet". integer: the type of last_action and agent_id.
    """

    modules: tuple[str, ...]
    packages: str
    open: Callable[[Contract, Network, int], Call]
    none: Callable[[Contract], int]
    integer: type = np.int64


def _onnxruntime(contract: Contract, network: Network, n: int) -> Call:
    from mast_runtime.onnx_graph import build_model, open_session

    session = open_session(build_model(contract, network, choose=True).SerializeToString())

    def call(feed: Feed) -> tuple[NDArray, NDArray]:
        action, hidden = session.run(["action", "next_hidden"], feed)
        return np.asarray(action), np.asarray(hidden)

    return call


def _litert(contract: Contract, network: Network, n: int) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    from mast_runtime.measure.litert import build_litert

    interpreter = Interpreter(model_content=build_litert(contract, network, n), num_threads=1)
    interpreter.allocate_tensors()
    inputs = [(given["name"], given["index"]) for given in interpreter.get_input_details()]
    action, hidden = (found["index"] for found in interpreter.get_output_details())

    def call(feed: Feed) -> tuple[NDArray, NDArray]:
        for name, index in inputs:
            interpreter.set_tensor(index, feed[name])
        interpreter.invoke()
        return interpreter.get_tensor(action), interpreter.get_tensor(hidden)

    return call


def _openvino(contract: Contract, network: Network, n: int) -> Call:
    """Bound arrays: passing them to `infer` takes twice as long."""
    import openvino

    from mast_runtime.onnx_graph import build_model

    core = openvino.Core()
    model = core.read_model(build_model(contract, network, choose=True).SerializeToString())
    model.reshape({port: [n, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)
    request, bound = compiled.create_infer_request(), {}
    for port in (*compiled.inputs, *compiled.outputs):
        array = bound[port.any_name] = np.zeros(tuple(port.shape), port.element_type.to_dtype())
        request.set_tensor(port, openvino.Tensor(array, shared_memory=True))
    names = [port.any_name for port in compiled.inputs]

    def call(feed: Feed) -> tuple[NDArray, NDArray]:
        for name in names:
            bound[name][...] = feed[name]
        request.infer()
        return bound["action"].copy(), bound["next_hidden"]

    return call


RIVALS = {
    "onnxruntime": Engine(("onnx", "onnxruntime"), "onnx onnxruntime", _onnxruntime, lambda contract: -1),
    "litert": Engine(
        ("ai_edge_litert", "flatbuffers"), "ai-edge-litert", _litert, lambda contract: contract.n_actions, np.int32
    ),
    "openvino": Engine(("onnx", "openvino"), "onnx openvino", _openvino, lambda contract: -1),
}


def installed_rivals() -> list[str]:
    """Names of the engines that can run here."""
    return [name for name, engine in RIVALS.items() if importable(*engine.modules)]


class Rival:
    """n agents of a bundle (1: its first) in another engine; reset and act as in mast_runtime.agent.Team.

    Raises BackendError for continuous actions, and for networks without a memory.
    """

    def __init__(self, bundle: Bundle, n: int, name: str) -> None:
        if bundle.contract.head is not None:
            raise BackendError("its graph here chooses among actions, and these are continuous")
        if any(network.architecture != "gru" for network in bundle.networks):
            raise BackendError("its graph here is that of a GRU, and these networks have no memory")
        self._engine, self._contract, self._n = RIVALS[name], bundle.contract, n
        agents = bundle.agents if n > 1 else bundle.agents[:1]
        owner, ids = ([getattr(agent, key) for agent in agents] * (n // len(agents)) for key in ("network", "index"))
        self._ids = np.array(ids, self._engine.integer)
        self._groups = [
            (bundle.networks[k], np.flatnonzero(np.array(owner) == k) if len(set(owner)) > 1 else slice(None))
            for k in sorted(set(owner))
        ]
        self._calls = [
            self._engine.open(self._contract, network, len(self._ids[rows])) for network, rows in self._groups
        ]
        self.reset()

    def reset(self) -> None:
        """Forget the episode."""
        none = self._engine.none(self._contract)
        self._feeds: list[Feed] = []
        for network, rows in self._groups:
            ids = self._ids[rows]
            last = np.full(len(ids), none, self._engine.integer)
            feed: Feed = {"hidden": np.zeros((len(ids), network.hidden), np.float32), "last_action": last}
            self._feeds.append(feed | ({"agent_id": ids} if self._contract.agent_id else {}))

    def act(self, obs: NDArray, avail_actions: Any) -> NDArray[np.int64]:
        """Greedy actions [n] for obs [n,O] float32 and avail_actions [n,A] bool."""
        actions = np.empty(self._n, np.int64)
        for (_, rows), call, feed in zip(self._groups, self._calls, self._feeds, strict=True):
            feed["obs"], feed["avail_actions"] = obs[rows], avail_actions[rows]
            action, feed["hidden"] = call(feed)
            actions[rows] = action
            feed["last_action"] = action.astype(self._engine.integer)
        return actions
