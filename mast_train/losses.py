"""Losses as pure functions over padded episodes."""

from __future__ import annotations

from torch import Tensor


def td_loss(q_tot: Tensor, target: Tensor, filled: Tensor) -> Tensor:
    """Mean over real transitions of (Q_tot - y)^2. q_tot, target [B,T] float, filled [B,T] bool -> scalar."""
    error = (q_tot - target).masked_fill(~filled, 0.0)
    return error.square().sum() / filled.sum()
