"""Targets and the loss in C where torch would need many small operations; definitions of mast_train.targets, losses."""

from __future__ import annotations

from typing import Any

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


def td_loss(q_tot: Tensor, target: Tensor, weight: Tensor | None = None, real: None = None) -> Tensor:
    """`losses.td_loss` over real rows alone, differentiable in q_tot [R]; target and weight get no gradient."""
    return _Loss.apply(q_tot, target, weight)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_tot: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        ctx.gradient = torch.empty_like(target)
        tensors = [q_tot.contiguous(), target.contiguous(), None if weight is None else weight.contiguous()]
        return q_tot.new_tensor(
            native.extension().td_loss(target.numel(), *native.addresses(tensors), ctx.gradient.data_ptr())
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * grad_outputs[0], None, None
