"""Losses and their weights as pure functions over the R real transitions of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def td_loss(q_tot: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of weight (Q_tot - y)^2; the weights are not normalised. q_tot, target, weight [R] -> scalar."""
    squared = (q_tot - target).square()
    return (squared if weight is None else weight * squared).mean()


def optimistic_weight(q_tot: Tensor, target: Tensor, low: float) -> Tensor:
    """1 where Q_tot < y, else `low` (OW-QMIX; Rashid et al. 2020, section 4). [R] -> [R]."""
    return torch.where(q_tot < target, 1.0, low)


def central_weight(target: Tensor, q_greedy: Tensor, is_greedy: Tensor, low: float) -> Tensor:
    """1 where y > Q*(s, greedy joint action) or the joint action taken is that one, else `low` (CW-QMIX; Rashid et al.
    2020, section 4). target, q_greedy [R] float, is_greedy [R] bool -> [R]."""
    return torch.where((target > q_greedy) | is_greedy, 1.0, low)
