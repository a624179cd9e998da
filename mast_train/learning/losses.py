"""Losses and their weights as pure functions over R transitions of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def td_error(q_tot: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """weight (Q_tot - y)^2 of every transition; the weights are not normalised. All [R,...]."""
    squared = (q_tot - target).square()
    return squared if weight is None else weight * squared


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


def total(scalars: Sequence[Tensor]) -> Tensor:
    """Their sum, of tensors of one shape."""
    return torch.stack(tuple(scalars)).sum(0) if len(scalars) > 1 else scalars[0]


@dataclass(frozen=True)
class Goal:
    """What Q_tot is fitted to: `scale` times the mean of weight (Q_tot - y)^2. y, weight [R]; or [R,N], agent by agent.

    weight None is 1; with a `low` other than 1 it is optimistic_weight's instead.
    """

    y: Tensor
    weight: Tensor | None = None
    low: float = 1.0
    scale: float = 1.0

    @property
    def weighted(self) -> bool:
        return self.weight is not None or self.low != 1.0

    def weight_at(self, q_tot: Tensor) -> Tensor | None:
        """The weight [R]; None: 1."""
        return self.weight if self.low == 1.0 else optimistic_weight(q_tot.detach(), self.y, self.low)

    def error(self, q_tot: Tensor) -> Tensor:
        """What each transition adds to the loss [R]."""
        error = td_error(q_tot, self.y, self.weight_at(q_tot))
        return error if self.scale == 1.0 else self.scale * error
