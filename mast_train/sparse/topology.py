"""Drop and grow as one pure function over blocks of connections.

A mask is bool [G, out, in]. A block is `rows` consecutive outputs of one segment that share one input; it lives or dies
as one, by the mean of its scores. Segments keep blocks inside one GRU gate. Where `rows` does not divide a segment, its
last block is short, and the mean judges it like a whole one. rows = 1 is the paper's unstructured case.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def to_blocks(values: Tensor, rows: int, segments: int) -> Tensor:
    """Sum over blocks: [G, out, in] -> [G, segments * ceil(out / segments / rows), in]."""
    if rows == 1:
        return values
    g, outputs, inputs = values.shape
    size = outputs // segments
    count = -(-size // rows)
    padded = F.pad(values.view(g, segments, size, inputs), (0, 0, 0, count * rows - size))
    return padded.view(g, segments * count, rows, inputs).sum(2)


def from_blocks(alive: Tensor, rows: int, segments: int, outputs: int) -> Tensor:
    """Spread a block mask [G, block_rows, in] over its connections: [G, out, in]."""
    if rows == 1:
        return alive
    g, _, inputs = alive.shape
    spread = alive.repeat_interleave(rows, 1).view(g, segments, -1, inputs)
    return spread[:, :, : outputs // segments].reshape(g, outputs, inputs)


def random_mask(
    shape: tuple[int, int, int], density: float, rows: int, segments: int, generator: torch.Generator
) -> Tensor:
    """Uniformly random blocks, at least one, as many as `density` of all blocks rounded: bool [G, out, in]."""
    g, outputs, inputs = shape
    block_rows = segments * -(-(outputs // segments) // rows)
    total = g * block_rows * inputs
    keep = min(total, max(1, round(density * total)))
    alive = torch.zeros(total, dtype=torch.bool)
    alive[torch.randperm(total, generator=generator)[:keep]] = True
    return from_blocks(alive.view(g, block_rows, inputs), rows, segments, outputs)


def spread_mask(
    shape: tuple[int, int, int], density: float, rows: int, segments: int, generator: torch.Generator
) -> Tensor:
    """As random_mask, stratified by input: the blocks of any two inputs of any group differ by at most one, so every
    input is connected when there are as many blocks as inputs of all groups."""
    g, outputs, inputs = shape
    block_rows = segments * -(-(outputs // segments) // rows)
    keep = min(g * block_rows * inputs, max(1, round(density * g * block_rows * inputs)))
    each, surplus = divmod(keep, g * inputs)
    quota = torch.full((g * inputs,), each)
    quota[torch.randperm(g * inputs, generator=generator)[:surplus]] += 1
    rank = torch.rand(g, block_rows, inputs, generator=generator).argsort(1).argsort(1)
    return from_blocks(rank < quota.view(g, 1, inputs), rows, segments, outputs)


def evolve(
    mask: Tensor, drop_score: Tensor, grow_score: Tensor, fraction: float, rows: int = 1, segments: int = 1
) -> Tensor:
    """Drop the `fraction` of living blocks with the smallest drop score, grow as many dead ones with the largest grow
    score; global over the layer's groups, so the groups (agents) compete for one budget.

    mask bool, scores float, all [G, out, in] -> new mask. The number of living blocks never changes; a block dropped
    now is not grown again in the same call (Evci et al. 2020, section 3). Ties are broken by position.
    """
    alive = mask if rows == 1 else to_blocks(mask, rows, segments) > 0
    shape, alive = alive.shape, alive.flatten()
    living = alive.nonzero().squeeze(1)
    count = min(int(fraction * living.numel()), alive.numel() - living.numel())
    if count == 0:
        return mask.clone()
    drop, grow = (_block_means(score, rows, segments).flatten() for score in (drop_score, grow_score))
    new = _largest(grow.masked_fill(alive, -torch.inf), count) | alive
    new[living[_largest(-drop[living], count)]] = False
    return from_blocks(new.view(shape), rows, segments, mask.shape[1])


def evolve_all(
    masks: Tensor, drop_scores: Tensor, grow_scores: Tensor, fractions: Tensor, rows: int = 1, segments: int = 1
) -> Tensor:
    """`evolve` of K layers of one shape: masks bool, scores float, all [K, G, out, in], fractions float64 [K].

    On a GPU all layers at once, and nothing is read back.
    """
    if masks.is_cpu:
        each = zip(masks, drop_scores, grow_scores, fractions.tolist(), strict=True)
        return torch.stack([evolve(*layer, rows, segments) for layer in each])
    return _evolve_by_rank(masks, drop_scores, grow_scores, fractions, rows, segments)


def _evolve_by_rank(
    masks: Tensor, drop_scores: Tensor, grow_scores: Tensor, fractions: Tensor, rows: int, segments: int
) -> Tensor:
    k, _, outputs, inputs = masks.shape
    layers = masks.flatten(0, 1)
    alive = (layers if rows == 1 else to_blocks(layers, rows, segments) > 0).reshape(k, -1)
    scores = (
        _block_means(values.flatten(0, 1), rows, segments).reshape(k, -1) for values in (drop_scores, grow_scores)
    )
    drop, grow = scores
    living = alive.sum(1)
    counts = torch.minimum((fractions * living).long(), alive.shape[1] - living)
    grown = _first(grow.masked_fill(alive, -torch.inf), counts, descending=True)
    dropped = _first(drop.masked_fill(~alive, torch.inf), counts, descending=False)
    new = (alive | grown) & ~dropped
    return from_blocks(new.view(len(layers), -1, inputs), rows, segments, outputs).view_as(masks)


def _first(scores: Tensor, counts: Tensor, descending: bool) -> Tensor:
    """Which counts [K] of the scores [K,n] come first in their order: bool [K,n]. Of equal ones the first are."""
    order = scores.sort(dim=1, descending=descending, stable=True).indices
    chosen = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    return torch.empty_like(chosen).scatter_(1, order, chosen)


def _block_means(values: Tensor, rows: int, segments: int) -> Tensor:
    if rows == 1:
        return values
    return to_blocks(values, rows, segments) / to_blocks(torch.ones_like(values), rows, segments)


def _largest(score: Tensor, count: int) -> Tensor:
    """Which `count` of score [n] are the largest: bool [n]. Of equal ones the first are."""
    cut = float(np.partition(score.cpu().numpy(), -count)[-count])
    chosen = score >= cut
    surplus = int(chosen.count_nonzero()) - count
    if surplus:
        chosen[(score == cut).nonzero().squeeze(1)[-surplus:]] = False
    return chosen
