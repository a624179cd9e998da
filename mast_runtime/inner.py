"""How a network whose actions are continuous is run: as one that sees more.

Its last action, scaled to [-1, 1], follows the observation. So every backend runs it, and none knows of heads;
`mast_runtime.continuous` does the rest.
"""

from __future__ import annotations

from typing import Any

from mast_runtime.arrays import buffer, plain, replace
from mast_runtime.inputs import STATISTICS, Inputs
from mast_runtime.network import Contract, Network


def inner_contract(contract: Contract) -> Contract:
    """The contract of the network as a backend runs it: with the last action in the observation."""
    if contract.head is None:
        return contract
    width = contract.obs_dim + contract.n_actions * contract.last_action
    return Contract(width, contract.n_actions, contract.n_agents, False, contract.agent_id)


def inner_network(contract: Contract, network: Network) -> Network:
    """Likewise the network; what is known of its inputs covers the last action."""
    seen = network.inputs
    if contract.head is None or seen is None or not contract.last_action:
        return network
    last = {"low": -1.0, "high": 1.0, "mean": 0.0, "deviation": 0.0}
    more: dict[str, Any] = {
        name: buffer("f", plain(seen.stored(name), "f").tolist() + [last[name]] * contract.n_actions)
        for name in STATISTICS
    }
    return replace(network, inputs=Inputs(**more))
