"""Targets in C where torch would need many small operations; definitions of mast_train.learning.targets."""

from __future__ import annotations

import torch
from torch import Tensor

from mast_train.engines.native.extension import check_level, extension


def soft_mellowmax(q: Tensor, avail: Tensor, alpha: float, omega: float, q_select: Tensor | None = None) -> Tensor:
    """`targets.soft_mellowmax` without gradients; every row has an available action. [...,A] float32 -> [...]."""
    q, avail = q.float().contiguous(), avail.contiguous()
    select, value = q if q_select is None else q_select.float().contiguous(), q.new_empty(q.shape[:-1])
    extension().soft_mellowmax(
        level=check_level(None),
        threads=torch.get_num_threads(),
        q=q,
        select=select,
        avail=avail,
        alpha=alpha,
        omega=omega,
        value=value,
    )
    return value


def td_lambda(
    reward: Tensor, next_value: Tensor, terminated: Tensor, filled: Tensor, gamma: float, lam: float | Tensor
) -> Tensor:
    """`targets.td_lambda` of the filled transitions alone: reward, terminated, filled [B,T]; next_value [R] -> [R].

    lam: one lambda, or a float32 tensor [B] with each episode's own; 0 is the one-step target.
    """
    next_value, target = next_value.contiguous(), torch.empty_like(next_value)
    extension().td_lambda(
        reward=reward.contiguous(),
        next_value=next_value,
        terminated=terminated.contiguous(),
        filled=filled.contiguous(),
        gamma=gamma,
        lam=lam.contiguous() if isinstance(lam, Tensor) else reward.new_full((len(reward),), lam),
        target=target,
    )
    return target
