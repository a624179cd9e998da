"""Topology evolution of the masks of one or several seeds, layer by layer, the seeds at once. On a GPU nothing is read
back.

Letters: K seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mast_train.sparse.masks import Masks
from mast_train.sparse.memory import clear_each, copy_each, stacked
from mast_train.sparse.topology import evolve_all


def dense_gradients(masks: Sequence[Masks]) -> dict[str, Tensor]:
    """Copies of the gradients [K,...] before masking: the score by which connections grow."""
    found = {}
    for name in masks[0].weights:
        gradients = [own.weights[name].grad for own in masks]
        there = [gradient for gradient in gradients if gradient is not None]
        if len(there) == len(masks):
            found[name] = stacked(there).clone()
    return found


def idle(masks: Sequence[Masks], gradients: Mapping[str, Tensor]) -> Tensor:
    """[2,K]: connections whose gradient is exactly 0, which in no step of the batch carried anything to the loss; and
    of how many: those of actions' values are not judged."""
    counts = []
    for layer in masks[0].layers:
        if not layer.actions:
            worn, gradient = stacked([own[layer.name] for own in masks]), gradients[layer.name]
            still = worn & (gradient == 0.0)
            counts.append(torch.stack([_number(still), _number(worn)]))
    return torch.stack(counts).sum(0)


@torch.no_grad()
def evolve(
    masks: Sequence[Masks],
    drop: str,
    grow: str,
    gradients: Mapping[str, Tensor],
    fractions: Tensor,
    generators: Sequence[torch.Generator],
    optimizers: Sequence[torch.optim.Optimizer],
) -> Tensor:
    """Drop by magnitude, grow by |gradient| or at random; new weights start at 0. Returns connections changed [K].

    fractions: of connections to change [K] float64, where the weights are. generators: of each seed, for the host.
    drop "idle": a connection whose gradient is exactly 0 counts as a weight of 0. Its input was 0 at every step of the
    batch, or nothing that it leads to was active: its weight does not move, however large it began.
    """
    changed = torch.zeros(len(masks), dtype=torch.int64, device=fractions.device)
    for layer in masks[0].layers:
        weights = [own.weights[layer.name] for own in masks]
        worn = [own[layer.name] for own in masks]
        weight, mask = stacked(weights), stacked(worn)
        if grow == "random":
            score = torch.stack([torch.rand(weight.shape[1:], generator=own) for own in generators]).to(weight.device)
        else:
            score = gradients[layer.name].abs()
        worth = weight.abs()
        if drop == "idle" and not layer.actions:
            worth = worth.masked_fill(gradients[layer.name] == 0.0, 0.0)
        groups = (len(masks), -1, *weight.shape[-2:])
        worn_now, worth, score = (values.view(groups) for values in (mask, worth, score))
        new = evolve_all(worn_now, worth, score, fractions, layer.rows, layer.segments).view_as(mask)
        different = new ^ mask
        changed += _number(different)
        copy_each(worn, new)
        clear_each(weights, different)
        for moment in _moments(weights, optimizers):
            clear_each(moment, different)
    return changed


def _number(where: Tensor) -> Tensor:
    """How many of [K,...] are true [K]."""
    return where.flatten(1).sum(1, dtype=torch.int32)


def _moments(weights: Sequence[Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> list[list[Tensor]]:
    """Of each moment those of all seeds."""
    states = [optimizer.state.get(weight, {}) for weight, optimizer in zip(weights, optimizers, strict=True)]
    names = [name for name, value in states[0].items() if isinstance(value, Tensor) and value.shape == weights[0].shape]
    return [[state[name] for state in states] for name in names]
