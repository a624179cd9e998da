"""What a policy keeps: sparsity by layer and agent, connections per input and output, unused inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from mast_runtime.arrays import item_code, plain
from mast_runtime.bundle import Bundle
from mast_runtime.network import Contract, Layer
from mast_runtime.tensors import NAMES


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class LayerStats:
    """One layer of one network. unused_inputs: inputs nothing reads; empty_outputs: outputs that read nothing."""

    network: int
    label: str
    type: str
    layer: str
    outputs: int
    inputs: int
    block: int
    dtype: str
    nnz: int
    sparsity: float
    per_input: Spread
    per_output: Spread
    unused_inputs: int
    empty_outputs: int


@dataclass(frozen=True)
class NetworkStats:
    """One network and the features of its input that nothing reads: indices into obs, last_action and agent_id.

    fc1, hidden: its units; trained: [fc1, hidden] before the export removed those that cannot change an action.
    """

    network: int
    label: str
    type: str
    fc1: int
    hidden: int
    trained: list[int]
    nnz: int
    sparsity: float
    unused_features: dict[str, list[int]]


@dataclass(frozen=True)
class TypeStats:
    """Connections kept by the agents of one unit type; share is of the whole team's connections."""

    type: str
    agents: int
    nnz_mean: float
    nnz_min: int
    nnz_max: int
    sparsity: float
    share: float


@dataclass(frozen=True)
class Description:
    """A policy's structure; JSON-ready through `as_dict`."""

    identity: dict[str, str]
    info: dict[str, Any]
    contract: Contract
    nnz: int
    n_weights: int
    sparsity: float
    networks: list[NetworkStats]
    layers: list[LayerStats]
    types: list[TypeStats]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe(bundle: Bundle) -> Description:
    """Everything `mast inspect` shows, from the masks alone."""
    labels = [network_label(bundle, i) for i in range(len(bundle.networks))]
    layers = [
        _layer_stats(i, *labels[i], name, layer)
        for i, network in enumerate(bundle.networks)
        for name, layer in network.layers().items()
    ]
    networks = [_network_stats(bundle, i, labels[i]) for i in range(len(bundle.networks))]
    n_weights = sum(network.n_weights for network in bundle.networks)
    return Description(
        bundle.identity._asdict(),
        bundle.info,
        bundle.contract,
        bundle.nnz,
        n_weights,
        bundle.sparsity,
        networks,
        layers,
        _type_stats(bundle),
    )


def _network_stats(bundle: Bundle, i: int, label: tuple[str, str]) -> NetworkStats:
    network = bundle.networks[i]
    fc1, hidden = network.fc1.outputs, network.hidden
    trained, unused = bundle.info.get("trained_units"), _unused_features(bundle.contract, network.fc1)
    if not (isinstance(trained, list) and len(trained) == 2 and all(type(size) is int for size in trained)):
        trained = [fc1, hidden]
    return NetworkStats(i, *label, fc1, hidden, trained, network.nnz, network.sparsity, unused)


def network_label(bundle: Bundle, network: int) -> tuple[str, str]:
    """A network's name and unit type, those of the agents that run it."""
    users = [agent for agent in bundle.agents if agent.network == network]
    name = users[0].name if len(users) == 1 else f"shared by {len(users)}"
    return name, "+".join(sorted({agent.type for agent in users}))


def _layer_stats(network: int, label: str, unit: str, name: str, layer: Layer) -> LayerStats:
    per_input, per_output = connections(layer)
    return LayerStats(
        network,
        label,
        unit,
        name,
        layer.outputs,
        layer.inputs,
        0 if layer.is_dense else layer.block,
        NAMES[item_code(layer.stored("values"))],
        layer.nnz,
        layer.sparsity,
        _spread(per_input),
        _spread(per_output),
        per_input.count(0),
        per_output.count(0),
    )


def connections(layer: Layer) -> tuple[list[int], list[int]]:
    """How many each input has, and each output."""
    counts, columns = layer.stored("counts"), layer.stored("columns")
    if counts is None or columns is None:
        return [layer.outputs] * layer.inputs, [layer.inputs] * layer.outputs
    per_input, per_output, at = [0] * layer.inputs, [0] * layer.outputs, 0
    places = plain(columns, "H")
    for count, (first, length) in zip(plain(counts, "i"), layer.block_spans(), strict=True):
        per_output[first : first + length] = [count] * length
        for column in places[at : at + count]:
            per_input[column] += length
        at += count
    return per_input, per_output


def _spread(values: list[int]) -> Spread:
    return Spread(float(min(values)), float(median(values)), float(max(values)))


def input_features(contract: Contract) -> dict[str, int]:
    """The parts of the network's input, in order, and their widths."""
    widths = {
        "obs": contract.obs_dim,
        "last_action": contract.n_actions * contract.last_action,
        "agent_id": contract.n_agents * contract.agent_id,
    }
    return {name: width for name, width in widths.items() if width}


def _unused_features(contract: Contract, fc1: Layer) -> dict[str, list[int]]:
    unused, start, (per_input, _) = {}, 0, connections(fc1)
    for name, width in input_features(contract).items():
        unused[name] = [i for i, n in enumerate(per_input[start : start + width]) if n == 0]
        start += width
    return unused


def _type_stats(bundle: Bundle) -> list[TypeStats]:
    kept: dict[str, list[int]] = {}
    weights: dict[str, int] = {}
    for agent in bundle.agents:
        network = bundle.networks[agent.network]
        kept.setdefault(agent.type, []).append(network.nnz)
        weights[agent.type] = weights.get(agent.type, 0) + network.n_weights
    total = max(1, sum(map(sum, kept.values())))
    return [
        TypeStats(
            unit,
            len(nnz),
            sum(nnz) / len(nnz),
            min(nnz),
            max(nnz),
            1.0 - sum(nnz) / weights[unit],
            sum(nnz) / total,
        )
        for unit, nnz in kept.items()
    ]
