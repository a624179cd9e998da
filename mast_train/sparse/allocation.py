"""How many connections each layer gets from one total budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


Allocation = Callable[[Sequence[Shape], float], list[float]]


def with_floors(
    allocation: Allocation, shapes: Sequence[Shape], sparsity: float, floors: Sequence[float]
) -> list[float]:
    """`allocation`, but no layer's density below its floor, under the same total budget.

    A layer that would fall below is given its floor; the others share what is left by the same rule, so under
    erdos_renyi and uniform they shrink in proportion. Raises ValueError when the floors leave the others nothing.
    """
    weights = [g * o * i for g, o, i in shapes]
    densities = allocation(shapes, sparsity)
    fixed: set[int] = set()
    while below := {k for k, density in enumerate(densities) if k not in fixed and density < floors[k]}:
        fixed |= below
        free = [k for k in range(len(shapes)) if k not in fixed]
        budget = (1.0 - sparsity) * sum(weights)
        left, size = budget - sum(floors[k] * weights[k] for k in fixed), sum(weights[k] for k in free)
        if left <= 0.0 or not free:
            raise ValueError(
                f"an input floor of {budget - left:,.0f} connections leaves nothing of the {budget:,.0f} there are to "
                "the other layers; lower sparse.input_floor or the sparsity"
            )
        rest = iter(allocation([shapes[k] for k in free], 1.0 - left / size))
        densities = [floors[k] if k in fixed else next(rest) for k in range(len(shapes))]
    return densities


ALLOCATIONS: dict[str, Allocation] = {"uniform": uniform, "erdos_renyi": erdos_renyi}
