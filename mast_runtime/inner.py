"""How a network whose actions are continuous is run: as one that sees more.

Its last action, scaled to [-1, 1], follows the observation. One that values actions ends at fc2, which is what
`mast_runtime.search` goes on from. So every backend runs it, and none knows of heads; `mast_runtime.continuous` does
the rest.
"""

from __future__ import annotations

from typing import Any

from mast_runtime.arrays import buffer, plain, replace
from mast_runtime.inputs import STATISTICS, Inputs
from mast_runtime.network import NO_BIAS, NO_LAYER, Contract, Network


def inner_contract(contract: Contract) -> Contract:
    """The contract of the network as a backend runs it: with the last action in the observation, and what fc2 gives as
    the action values."""
    if contract.head is None:
        return contract
    width = contract.obs_dim + contract.n_actions * contract.last_action
    outputs = contract.n_actions if contract.head.search is None else contract.head.search.width
    return Contract(width, outputs, contract.n_agents, False, contract.agent_id)


def inner_network(contract: Contract, network: Network) -> Network:
    """Likewise the network; what is known of its inputs covers the last action."""
    if network.fc3 is not NO_LAYER:
        network = replace(network, act=NO_LAYER, fc3=NO_LAYER, fc3_bias=NO_BIAS)
    seen = network.inputs
    if contract.head is None or seen is None or not contract.last_action:
        return network
    last = {"low": -1.0, "high": 1.0, "mean": 0.0, "deviation": 0.0}
    more: dict[str, Any] = {
        name: buffer("f", plain(seen.stored(name), "f").tolist() + [last[name]] * contract.n_actions)
        for name in STATISTICS
    }
    return replace(network, inputs=Inputs(**more))
