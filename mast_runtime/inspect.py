"""What a policy keeps: sparsity by layer and agent, connections per input and output, unused inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mast_runtime.bundle import Bundle
from mast_runtime.network import LAYERS, Contract, Layer


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
    """One network and the features of its input that nothing reads: indices into obs, last_action and agent_id."""

    network: int
    label: str
    type: str
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
    networks = [
        NetworkStats(
            i, *labels[i], network.nnz, network.sparsity, _unused_features(bundle.contract, network.fc1.mask())
        )
        for i, network in enumerate(bundle.networks)
    ]
    n_weights = sum(network.n_weights for network in bundle.networks)
    return Description(
        bundle.info, bundle.contract, bundle.nnz, n_weights, bundle.sparsity, networks, layers, _type_stats(bundle)
    )


def network_label(bundle: Bundle, network: int) -> tuple[str, str]:
    """A network's name and unit type, those of the agents that run it."""
    users = [agent for agent in bundle.agents if agent.network == network]
    name = users[0].name if len(users) == 1 else f"shared by {len(users)}"
    return name, "+".join(sorted({agent.type for agent in users}))


def _layer_stats(network: int, label: str, unit: str, name: str, layer: Layer) -> LayerStats:
    mask = layer.mask()
    per_input, per_output = mask.sum(0), mask.sum(1)
    return LayerStats(
        network,
        label,
        unit,
        name,
        layer.outputs,
        layer.inputs,
        0 if layer.is_dense else layer.block,
        layer.values.dtype.name,
        layer.nnz,
        layer.sparsity,
        _spread(per_input),
        _spread(per_output),
        int((per_input == 0).sum()),
        int((per_output == 0).sum()),
    )


def _spread(values: NDArray) -> Spread:
    return Spread(float(values.min()), float(np.median(values)), float(values.max()))


def input_features(contract: Contract) -> dict[str, int]:
    """The parts of the network's input, in order, and their widths."""
    widths = {
        "obs": contract.obs_dim,
        "last_action": contract.n_actions * contract.last_action,
        "agent_id": contract.n_agents * contract.agent_id,
    }
    return {name: width for name, width in widths.items() if width}


def _unused_features(contract: Contract, mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    unused, start = {}, 0
    for name, width in input_features(contract).items():
        unused[name] = np.flatnonzero(~mask[:, start : start + width].any(0)).tolist()
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


def print_description(console: Console, description: Description) -> None:
    """Three tables: each network, each layer over all networks, each unit type."""
    console.print(_network_table(description))
    console.print(_layer_table(description))
    console.print(_type_table(description))


def _network_table(description: Description) -> Table:
    widths = input_features(description.contract)
    n, total = description.nnz, description.n_weights
    title = f"{n:,} of {total:,} connections kept, sparsity {description.sparsity:.1%}"
    table = Table(title=title, caption="sparsity by agent and layer; unused: input features that nothing reads")
    for heading in ("agent", "type"):
        table.add_column(heading)
    for heading in ("connections", "sparsity", *LAYERS, *(f"unused {name}" for name in widths)):
        table.add_column(heading, justify="right")
    for network in description.networks:
        layers = [layer for layer in description.layers if layer.network == network.network]
        unused = [f"{len(indices)} of {widths[name]}" for name, indices in network.unused_features.items()]
        sparsities = [f"{layer.sparsity:.1%}" for layer in layers]
        table.add_row(network.label, network.type, f"{network.nnz:,}", f"{network.sparsity:.1%}", *sparsities, *unused)
    return table


def _layer_table(description: Description) -> Table:
    table = Table(title="Connections by layer, over all networks", caption="per input and per output: min / median / max")
    for heading in ("layer", "inputs -> outputs", "block", "values"):
        table.add_column(heading)
    for heading in ("connections", "sparsity", "per input", "per output", "unused inputs", "empty outputs"):
        table.add_column(heading, justify="right")
    for name in LAYERS:
        rows = [layer for layer in description.layers if layer.layer == name]
        inputs, outputs = sum(row.inputs for row in rows), sum(row.outputs for row in rows)
        nnz, weights = sum(row.nnz for row in rows), sum(row.inputs * row.outputs for row in rows)
        table.add_row(
            name,
            f"{_range([row.inputs for row in rows])} -> {_range([row.outputs for row in rows])}",
            f"{rows[0].block}x1" if rows[0].block else "dense",
            rows[0].dtype,
            f"{nnz:,}",
            f"{1 - nnz / weights:.1%}",
            _pooled([row.per_input for row in rows]),
            _pooled([row.per_output for row in rows]),
            f"{sum(row.unused_inputs for row in rows)} of {inputs}",
            f"{sum(row.empty_outputs for row in rows)} of {outputs}",
        )
    return table


def _type_table(description: Description) -> Table:
    table = Table(title="Connections kept by unit type")
    table.add_column("type")
    for heading in ("agents", "mean per agent", "min", "max", "sparsity", "share of team"):
        table.add_column(heading, justify="right")
    for row in description.types:
        table.add_row(
            row.type,
            str(row.agents),
            f"{row.nnz_mean:,.0f}",
            f"{row.nnz_min:,}",
            f"{row.nnz_max:,}",
            f"{row.sparsity:.1%}",
            f"{row.share:.1%}",
        )
    return table


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}..{max(values)}"


def _pooled(spreads: list[Spread]) -> str:
    """Minimum, median of the networks' medians, maximum."""
    median = float(np.median([spread.median for spread in spreads]))
    return f"{min(s.min for s in spreads):.0f} / {median:g} / {max(s.max for s in spreads):.0f}"
