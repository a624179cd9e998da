"""Losses as pure functions."""

from __future__ import annotations

from torch import Tensor


def td_loss(q_tot: Tensor, target: Tensor) -> Tensor:
    """Mean of (Q_tot - y)^2 over the R real transitions of a batch. q_tot, target [R] -> scalar."""
    return (q_tot - target).square().mean()
