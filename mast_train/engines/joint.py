"""Tensors of several seeds in one memory, so that what is done to all seeds is done once.

Letters: K seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from mast_train.networks.agents import GroupedNets


def lay_out(tensors: Sequence[Tensor], whole: Tensor | None = None) -> Tensor:
    """Tensors of one shape [...] one after another in [K,...]; each becomes, wherever it is held, a view of its part.

    whole: the memory to lie in, contiguous; None: new. Optimisers, masks and modules go on holding the same tensors.
    """
    whole = tensors[0].new_empty(len(tensors), *tensors[0].shape) if whole is None else whole
    for part, tensor in zip(whole, tensors, strict=True):
        part.copy_(tensor.detach())
        tensor.grad = None
        learned = isinstance(tensor, nn.Parameter)
        view = nn.Parameter(part, requires_grad=tensor.requires_grad) if learned else part
        torch.utils.swap_tensors(tensor, view)
    return whole


Nets = TypeVar("Nets", bound=GroupedNets)


def joined(nets: Sequence[Nets], wholes: Mapping[str, Tensor]) -> Nets:
    """The networks of several seeds side by side, of K times as many groups, on memory [K,groups,...] by parameter
    name."""
    joint = copy.deepcopy(nets[0])
    joint.groups, joint.seeds = sum(net.groups for net in nets), len(nets)
    for name, parameter in nets[0].named_parameters():
        setattr(joint, name, nn.Parameter(wholes[name].flatten(0, 1), requires_grad=parameter.requires_grad))
    return joint


def chosen(joint: Nets, seeds: Sequence[int]) -> Nets:
    """A copy of some seeds' networks, in order, that shares nothing with those it is made from."""
    each = joint.groups // joint.seeds
    groups = torch.tensor([seed * each + group for seed in seeds for group in range(each)])
    some = copy.copy(joint)
    some.groups, some.seeds = len(groups), len(seeds)
    some._parameters = {
        name: nn.Parameter(value.detach().index_select(0, groups.to(value.device)), requires_grad=False)
        for name, value in joint.named_parameters()
    }
    return some


def hand_out(handed: Sequence[tuple[Tensor, Sequence[Tensor]]]) -> None:
    """The gradients of joint parameters become those of the seeds' own; handed: a joint one, and its K parts."""
    for joint, own in handed:
        if joint.grad is not None:
            for parameter, gradient in zip(own, joint.grad.unflatten(0, (len(own), -1)), strict=True):
                parameter.grad = gradient
            joint.grad = None
