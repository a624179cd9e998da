"""Losses and their weights as pure functions over R transitions of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def td_loss(q_tot: Tensor, target: Tensor, weight: Tensor | None = None, real: Tensor | None = None) -> Tensor:
    """Mean of weight (Q_tot - y)^2; the weights are not normalised. q_tot, target, weight [R], real as in `mean_of`."""
    squared = (q_tot - target).square()
    return mean_of(squared if weight is None else weight * squared, real)


def mean_of(values: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean over the real ones of values [R,...]; real [R] bool, None: all of them -> scalar."""
    if real is None:
        return values.mean()
    shown = real.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return values.masked_fill(~shown, 0.0).sum() / shown.sum()


def optimistic_weight(q_tot: Tensor, target: Tensor, low: float) -> Tensor:
    """1 where Q_tot < y, else `low` (OW-QMIX; Rashid et al. 2020, section 4). [R] -> [R]."""
    return torch.where(q_tot < target, 1.0, low)


def central_weight(target: Tensor, q_greedy: Tensor, is_greedy: Tensor, low: float) -> Tensor:
    """1 where y > Q*(s, greedy joint action) or the joint action taken is that one, else `low` (CW-QMIX; Rashid et al.
    2020, section 4). target, q_greedy [R] float, is_greedy [R] bool -> [R]."""
    return torch.where((target > q_greedy) | is_greedy, 1.0, low)
