"""What `mast inspect` prints of a policy: a card, and tables of its networks, layers, connections and unit types."""

from __future__ import annotations

from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING

from mast_runtime.measure.inspect import Description, LayerStats, Spread, input_features
from mast_runtime.measure.tables import new_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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
    middle = float(median(spread.median for spread in spreads))
    return f"{min(s.min for s in spreads):.0f} / {middle:g} / {max(s.max for s in spreads):.0f}"
