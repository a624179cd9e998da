"""The network's step in numpy: clear, slow, and the oracle that every other backend is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mast_runtime.backends.base import stepped
from mast_runtime.network import Contract, Network


def network_input(contract: Contract, obs: NDArray, last_action: NDArray, agent_id: NDArray) -> NDArray[np.float32]:
    """obs ++ onehot(last_action) [++ onehot(agent_id)]: [n,O], [n] (-1: none yet), [n] -> [n, input_dim]."""
    n = obs.shape[0]
    x = np.zeros((n, contract.input_dim), np.float32)
    x[:, : contract.obs_dim] = obs
    start = contract.obs_dim
    if contract.last_action:
        chosen = np.flatnonzero(last_action >= 0)
        x[chosen, start + last_action[chosen]] = 1.0
        start += contract.n_actions
    if contract.agent_id:
        x[np.arange(n), start + agent_id] = 1.0
    return x


class ReferenceStep:
    """One network, matrices densified once. Immutable, so threads may share it."""

    limits: tuple[Sequence[float], Sequence[float]] | None = None

    def __init__(self, contract: Contract, network: Network) -> None:
        self.contract = contract
        self.hidden = network.hidden
        self._fc1, self._fc1_bias = network.fc1.dense().T, network.fc1_bias
        self._recurrent = network.architecture == "gru"
        if self._recurrent:
            self._ih, self._hh = network.weight_ih.dense().T, network.weight_hh.dense().T
            self._bias = network.gru_bias
        else:
            self._mid, self._mid_bias = network.mid.dense().T, network.mid_bias
        self._fc2, self._fc2_bias = network.fc2.dense().T, network.fc2_bias

    def __call__(
        self, obs: NDArray, last_action: NDArray, agent_id: NDArray, hidden: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """obs [n,O], last_action [n], agent_id [n], hidden [n,H] -> q [n,A], next hidden [n,H]."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._forward(network_input(self.contract, obs, last_action, agent_id), hidden)

    def _forward(self, x: NDArray, hidden: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        y = np.maximum(x @ self._fc1 + self._fc1_bias, 0.0)
        if not self._recurrent:
            return np.maximum(y @ self._mid + self._mid_bias, 0.0) @ self._fc2 + self._fc2_bias, hidden.copy()
        from_x, from_h = y @ self._ih, hidden @ self._hh
        h = self.hidden
        r = _sigmoid(from_x[:, :h] + from_h[:, :h] + self._bias[0])
        z = _sigmoid(from_x[:, h : 2 * h] + from_h[:, h : 2 * h] + self._bias[1])
        n = np.tanh(from_x[:, 2 * h :] + self._bias[2] + r * (from_h[:, 2 * h :] + self._bias[3]))
        hidden = (1.0 - z) * n + z * hidden
        return hidden @ self._fc2 + self._fc2_bias, hidden


def _sigmoid(x: NDArray) -> NDArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


BACKEND = stepped(ReferenceStep, lambda: "", "reference expands every matrix: sparse takes the time of dense")
