"""Targets in C where torch would need many small operations; definitions of mast_train.learning.targets."""

from __future__ import annotations

import torch
from torch import Tensor

from mast_train import native


def soft_mellowmax(q: Tensor, avail: Tensor, alpha: float, omega: float, q_select: Tensor | None = None) -> Tensor:
    """`targets.soft_mellowmax` without gradients; every row has an available action. [...,A] float32 -> [...]."""
    q, avail = q.float().contiguous(), avail.contiguous()
    select = q if q_select is None else q_select.float().contiguous()
    value = q.new_empty(q.shape[:-1])
    addresses = native.addresses([q, select, avail])
    size, threads = (value.numel(), q.shape[-1]), torch.get_num_threads()
    native.extension().soft_mellowmax(
        native.check_level(None), threads, size, *addresses, alpha, omega, value.data_ptr()
    )
    return value


def td_lambda(
    reward: Tensor, next_value: Tensor, terminated: Tensor, filled: Tensor, gamma: float, lam: float
) -> Tensor:
    """`targets.td_lambda` of the filled transitions alone: reward, terminated, filled [B,T]; next_value [R] -> [R]."""
    tensors = [tensor.contiguous() for tensor in (reward, next_value, terminated, filled)]
    target = torch.empty_like(tensors[1])
    native.extension().td_lambda(tuple(reward.shape), *native.addresses(tensors), gamma, lam, target.data_ptr())
    return target
