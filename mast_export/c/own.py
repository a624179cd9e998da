"""One agent of a team by itself: its id in a bias, of an action's components its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mast_export.c.matrices import first_columns, first_rows
from mast_export.verify import Trace
from mast_runtime import Bundle, Contract, Network


def alone(bundle: Bundle, k: int, trace: Trace) -> tuple[Contract, Network, Trace]:
    """Agent k without what is its team's, and its trace (N = 1) likewise.

    The contract has no agent id. Where actions are continuous its head has one row, and n_actions is that row's size.
    """
    info = bundle.agents[k]
    contract, network = _without_id(bundle.contract, bundle.networks[info.network], info.index)
    if contract.head is None:
        return contract, network, trace
    size, last = len(contract.head.low[info.index]), contract.last_action
    head = replace(contract.head, low=contract.head.low[info.index :][:1], high=contract.head.high[info.index :][:1])
    own = replace(network, fc1=first_columns(network.fc1, contract.obs_dim + size * last))
    avail = trace.avail_actions[..., :size]
    if head.search is None:
        own = replace(own, fc2=first_rows(own.fc2, size), fc2_bias=own.fc2_bias[:size])
        trace = replace(trace, avail_actions=avail, q=trace.q[..., :size], head=head, indices=(0,))
    else:
        shape = head.search.iterations, head.search.candidates, contract.n_actions
        noise = np.frombuffer(head.search.noise, "<f4").reshape(shape)[..., :size]
        head = replace(head, search=replace(head.search, noise=noise.tobytes()))
        own = replace(own, act=first_columns(own.act, size))
        values = trace.values and replace(trace.values, act=trace.values.act[:, :size])
        trace = replace(trace, avail_actions=avail, head=head, indices=(0,), values=values)
    return replace(contract, n_actions=size, n_agents=1, head=head), own, trace


def _without_id(contract: Contract, network: Network, index: int) -> tuple[Contract, Network]:
    """One agent's id is constant, so its column of fc1 joins the bias."""
    if not contract.agent_id:
        return contract, network
    first = contract.obs_dim + contract.n_actions * contract.last_action
    bias = network.fc1_bias + network.fc1.dense()[:, first + index].astype(np.float32)
    return replace(contract, agent_id=False), replace(network, fc1=first_columns(network.fc1, first), fc1_bias=bias)
