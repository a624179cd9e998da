"""ONNX Runtime on the network's graph (mast_runtime.onnx_graph)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mast_runtime.backends.base import stepped
from mast_runtime.imports import install_command, why
from mast_runtime.network import Contract, Network
from mast_runtime.onnx_graph import build_model, open_session

if TYPE_CHECKING:
    from onnxruntime import IOBinding


class _Bound(NamedTuple):
    """Arrays that a session reads and writes in place, for one batch size in one thread."""

    binding: IOBinding
    inputs: dict[str, NDArray]
    outputs: dict[str, NDArray]


class OnnxStep:
    """One network in ONNX Runtime. Threads may share it: each has its own bound arrays."""

    limits: tuple[Sequence[float], Sequence[float]] | None = None

    def __init__(self, contract: Contract, network: Network) -> None:
        self.hidden = network.hidden
        self._contract = contract
        self._session = open_session(build_model(contract, network).SerializeToString())
        self._local = threading.local()

    def __call__(
        self, obs: NDArray, last_action: NDArray, agent_id: NDArray, hidden: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """obs [n,O], last_action [n] (-1: none yet), agent_id [n], hidden [n,H] -> q [n,A], next hidden [n,H]."""
        bound = getattr(self._local, "bound", None)
        if bound is None or len(bound.inputs["obs"]) != len(obs):
            bound = self._local.bound = self._bind(len(obs))
        bound.inputs["obs"][...] = obs
        bound.inputs["last_action"][...] = last_action
        bound.inputs["hidden"][...] = hidden
        if self._contract.agent_id:
            bound.inputs["agent_id"][...] = agent_id
        self._session.run_with_iobinding(bound.binding)
        return bound.outputs["q"].copy(), bound.outputs["next_hidden"].copy()

    def _bind(self, n: int) -> _Bound:
        from onnxruntime import OrtValue

        inputs = {
            "obs": np.zeros((n, self._contract.obs_dim), np.float32),
            "last_action": np.zeros(n, np.int64),
            "hidden": np.zeros((n, self.hidden), np.float32),
        }
        if self._contract.agent_id:
            inputs["agent_id"] = np.zeros(n, np.int64)
        outputs = {
            "q": np.zeros((n, self._contract.n_actions), np.float32),
            "next_hidden": np.zeros((n, self.hidden), np.float32),
        }
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        return _Bound(binding, inputs, outputs)


def _missing() -> str:
    missing = [module for module in ("onnx", "onnxruntime") if not find_spec(module)]
    if missing:
        return f"{' and '.join(missing)}; {install_command('export')}"
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except Exception as error:
        return f"onnx and onnxruntime, which cannot be imported: {why(error)}"
    return ""


BACKEND = stepped(OnnxStep, _missing, "ONNX Runtime's CPU kernels are dense: sparse takes the time of dense")
