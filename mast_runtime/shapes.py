"""The shapes of a network's layers and biases, by its contract and its widths."""

from __future__ import annotations

from mast_runtime.arrays import buffer
from mast_runtime.network import SEGMENTS, Contract, Layer, Parts


def shape(name: str, contract: Contract, fc1: int, hidden: int, block: int) -> Layer:
    """A layer without its values; one with columns, if only none, is sparse."""
    outputs, inputs = {
        "fc1": (fc1, contract.input_dim),
        "weight_ih": (3 * hidden, fc1),
        "weight_hh": (3 * hidden, hidden),
        "mid": (hidden, fc1),
        "fc2": (outputs_of(contract), hidden),
        "act": (outputs_of(contract), contract.n_actions),
        "fc3": (1, outputs_of(contract)),
    }[name]
    columns = buffer("H", ()) if block else None
    return Layer(outputs, inputs, buffer("f", ()), columns=columns, block=max(block, 1), segments=SEGMENTS[name])


def outputs_of(contract: Contract) -> int:
    """Of fc2: action values, components of an action, or what a critic reads beside one."""
    search = None if contract.head is None else contract.head.search
    return contract.n_actions if search is None else search.width


def bias_shapes(of: Parts, contract: Contract, fc1: int, hidden: int) -> list[tuple[int, ...]]:
    """Of a network's biases, in their order."""
    shapes: dict[str, tuple[int, ...]] = {"fc1_bias": (fc1,), "gru_bias": (4, hidden), "mid_bias": (hidden,)}
    shapes |= {"fc2_bias": (outputs_of(contract),), "fc3_bias": (1,)}
    return [shapes[name] for name in of.biases]
