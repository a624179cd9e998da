"""How many connections each layer gets from one total budget."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, int, int]
"""(groups, outputs, inputs) of a grouped layer."""


def uniform(shapes: Sequence[Shape], sparsity: float) -> list[float]:
    """The same density, 1 - sparsity, for every layer."""
    return [1.0 - sparsity for _ in shapes]


def erdos_renyi(shapes: Sequence[Shape], sparsity: float) -> list[float]:
    """Density of layer l proportional to (inputs + outputs) / (inputs * outputs), at most 1, meeting the total budget.

    Mocanu et al. 2018; as used by RigL (Evci et al. 2020) and RLx2. Layers that would exceed density 1 are made dense
    and their surplus is shared by the others.
    """
    weights = [g * o * i for g, o, i in shapes]
    budget = (1.0 - sparsity) * sum(weights)
    raw = [(o + i) / (o * i) for _, o, i in shapes]
    dense: set[int] = set()
    while len(dense) < len(shapes):
        free = budget - sum(weights[k] for k in dense)
        scale = free / sum(raw[k] * weights[k] for k in range(len(shapes)) if k not in dense)
        over = {k for k in range(len(shapes)) if k not in dense and scale * raw[k] > 1.0}
        if not over:
            return [1.0 if k in dense else scale * raw[k] for k in range(len(shapes))]
        dense |= over
    return [1.0] * len(shapes)


ALLOCATIONS = {"uniform": uniform, "erdos_renyi": erdos_renyi}
