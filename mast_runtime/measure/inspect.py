"""What a policy keeps: sparsity by layer and agent, connections per input and output, unused inputs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mast_runtime.bundle import Bundle
from mast_runtime.measure.tables import new_table
from mast_runtime.network import Contract, Layer


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
    trained, unused = bundle.info.get("trained_units"), _unused_features(bundle.contract, network.fc1.mask())
    if not (isinstance(trained, list) and len(trained) == 2 and all(type(size) is int for size in trained)):
        trained = [fc1, hidden]
    return NetworkStats(i, *label, fc1, hidden, trained, network.nnz, network.sparsity, unused)


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
    """What it is, each network, each layer over all networks, each unit type, and the inputs that nothing reads."""
    for line in _card(description):
        console.print(line, highlight=False, markup=False)
    console.print(_network_table(description))
    console.print(_layer_table(description))
    console.print(_connection_table(description))
    console.print(_type_table(description))
    for network in description.networks:
        unused = [f"{name} {_indices(found)}" for name, found in network.unused_features.items() if found]
        if unused:
            console.print(f"{network.label} reads nothing of {', '.join(unused)}", highlight=False)


def _card(description: Description) -> list[str]:
    """What the policy was trained on and how well it did, what it reads and writes, and who checked it."""
    info, contract = description.info, description.contract
    forms = {
        "env": "{}", "map": "{}", "algorithm": "{}", "method": "{}", "seed": "seed {}", "steps": "{:,} steps",
        "win_rate": "win rate {:.3f}",
    }  # fmt: skip
    trained = []
    for key, form in forms.items():
        with suppress(ValueError, TypeError):  # info is any object: what is not as export writes it is left out
            trained += [form.format(info[key])] if info.get(key) is not None else []
    inputs = ", ".join(f"{name.replace('_', ' ')} {width}" for name, width in input_features(contract).items())
    checked, normalised = info.get("verification"), info.get("normalised")
    acts = "actions" if contract.head is None else f"continuous actions {contract.head.sentence()}"
    lines = [", ".join(trained), f"{contract.n_agents} agents; reads {inputs}; {contract.n_actions} {acts}"]
    with suppress(ValueError, TypeError, KeyError, IndexError):
        if normalised:
            form = (
                "observations as they are: fc1 holds the mean ({mean[0]:.4g} to {mean[1]:.4g}) and the deviation "
                "({deviation[0]:.4g} to {deviation[1]:.4g}) of {observations:,} that were seen in training"
            )
            lines.append(form.format(**normalised))
    if isinstance(checked, dict) and checked.keys() >= {"steps", "max_q_error", "action_agreement"}:
        lines.append(
            "verified against the trained networks over {steps} steps: q within {max_q_error}, equal actions "
            "{action_agreement}".format(**checked)
        )
    forms = {"version": "version {}", "digest": "digest {}", "producer": "made by {}"}
    named = [form.format(description.identity[key]) for key, form in forms.items() if description.identity[key]]
    lines.append(", ".join(named))
    return ["".join(character for character in line if character.isprintable()) for line in lines if line]


def _network_table(description: Description) -> Table:
    table = new_table(
        f"{description.nnz:,} of {description.n_weights:,} connections kept, sparsity {description.sparsity:.1%}",
        "sparsity of each network and of its layers; unused: inputs of the network that nothing reads; "
        "cut: units of fc1, of hidden that the export removed",
        ("agent", "type"),
        ("kept", "all", *(name.replace("_", " ") for name in _names(description)), "unused inputs", "cut"),
    )
    for network in description.networks:
        layers = [layer for layer in description.layers if layer.network == network.network]
        sparsities = [f"{layer.sparsity:.1%}" for layer in layers]
        unused = f"{layers[0].unused_inputs} of {layers[0].inputs}"
        kept, sparsity = f"{network.nnz:,}", f"{network.sparsity:.1%}"
        removed = f"{network.trained[0] - network.fc1}, {network.trained[1] - network.hidden}"
        table.add_row(network.label, network.type, kept, sparsity, *sparsities, unused, removed)
    return table


def _names(description: Description) -> list[str]:
    """Of the layers, in the order of the computation."""
    return list(dict.fromkeys(layer.layer for layer in description.layers))


def _rows_of(description: Description, name: str) -> list[LayerStats]:
    return [layer for layer in description.layers if layer.layer == name]


def _layer_table(description: Description) -> Table:
    table = new_table("Layers, over all networks", "", ("layer", "inputs -> outputs", "stored"), ("kept", "sparsity"))
    for name in _names(description):
        rows = _rows_of(description, name)
        nnz, weights = sum(row.nnz for row in rows), sum(row.inputs * row.outputs for row in rows)
        shape = f"{_range([row.inputs for row in rows])} -> {_range([row.outputs for row in rows])}"
        stored = f"{f'{rows[0].block}x1' if rows[0].block else 'dense'} {rows[0].dtype}"
        table.add_row(name, shape, stored, f"{nnz:,}", f"{1 - nnz / weights:.1%}")
    return table


def _connection_table(description: Description) -> Table:
    table = new_table(
        "Connections per input and per output, over all networks",
        "minimum / median of the networks' medians / maximum",
        ("layer",),
        ("per input", "per output", "unused inputs", "empty outputs"),
    )
    for name in _names(description):
        rows = _rows_of(description, name)
        table.add_row(
            name,
            _pooled([row.per_input for row in rows]),
            _pooled([row.per_output for row in rows]),
            f"{sum(row.unused_inputs for row in rows)} of {sum(row.inputs for row in rows)}",
            f"{sum(row.empty_outputs for row in rows)} of {sum(row.outputs for row in rows)}",
        )
    return table


def _type_table(description: Description) -> Table:
    numbers = ("agents", "mean per agent", "min", "max", "sparsity", "share of team")
    table = new_table("Connections kept by unit type", "", ("type",), numbers)
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


def _indices(values: list[int]) -> str:
    """Sorted indices as ranges: 3, 7-9, 12."""
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1] + 1]
    ends = [*(i - 1 for i in starts[1:]), len(values) - 1]
    pairs = [(values[a], values[b]) for a, b in zip(starts, ends, strict=True)]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def _range(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}..{max(values)}"


def _pooled(spreads: list[Spread]) -> str:
    """Minimum, median of the networks' medians, maximum."""
    median = float(np.median([spread.median for spread in spreads]))
    return f"{min(s.min for s in spreads):.0f} / {median:g} / {max(s.max for s in spreads):.0f}"
