"""What the agents' networks read in C: a batch of sequences.

Letters: G groups, T steps, B episodes, N agents, I input, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mast_train import native
from mast_train.experience.episodes import Rows
from mast_train.networks.agents import AgentNets

LANES = 32
"""Rows of a tile: TRAIN_LANES of train.h."""


class Memory:
    """Memory that is used again: the system's work on new pages takes longer than many a pass over them."""

    def __init__(self) -> None:
        self._spare: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """At least `size` floats, given back or new."""
        while self._spare:
            memory = self._spare.pop()
            if memory.numel() >= size:
                return memory
        return torch.empty(size)

    def give(self, memory: Tensor) -> None:
        """For the next."""
        self._spare.append(memory)


@dataclass(frozen=True)
class Inputs:
    """What networks read: x float32 [T,B,N,...], actions int64 [T-1,B,N], `transitions` of them real.

    order int32 [3,B]: the episodes, each seed's longest first, their lengths, and their first transitions' numbers.
    one_hot: whether the networks also read the action before.
    """

    x: Tensor
    actions: Tensor | None = None
    order: Tensor | None = None
    transitions: int = 0
    one_hot: bool = False

    @classmethod
    def of(
        cls,
        x: Tensor,
        actions: Tensor | None = None,
        lengths: Tensor | None = None,
        seeds: int = 1,
    ) -> Inputs:
        """As SparseSequence.forward takes them. Raises ValueError."""
        if actions is not None and actions.dtype != torch.int64:
            raise ValueError(f"actions is {actions.dtype}, expected int64")
        if actions is None and lengths is None:
            return cls(plain(x))
        t, b = x.shape[:2]
        lengths = torch.full((b,), t) if lengths is None else lengths
        if lengths.shape != (b,) or int(lengths.max()) > t or int(lengths.min()) < 1:
            raise ValueError(f"lengths is {lengths.tolist()}, expected {b} of 1 to {t} steps")
        rows = arranged(torch.arange(t - 1) < lengths[:, None] - 1, seeds)
        return cls(plain(x), actions, rows.order, len(rows.now), actions is not None)

    def placed(self, nets: AgentNets) -> tuple[Any, ...]:
        """As the extension takes them."""
        width = self.x.shape[3]
        identity = nets.inputs - width - (nets.n_actions if self.one_hot else 0)
        order = (0, 0, 0) if self.order is None else addresses(self.order.unbind())
        return *located(self.x), width, *located(self.actions), int(self.one_hot), int(identity > 0), *order


def arranged(filled: Tensor, seeds: int) -> Rows:
    """`EpisodeBatch.rows` of filled [B,T] bool, with the order of its episodes."""
    (episodes, steps), filled = filled.shape, filled.contiguous()
    rows, order = torch.empty(3, filled.numel(), dtype=torch.int64), torch.empty(3, episodes, dtype=torch.int32)
    places = rows.unbind()
    count = native.extension().episodes((episodes, steps), seeds, *addresses([filled, *places, order]))
    transition, now, after = (place[:count] for place in places)
    sizes = [count] if seeds == 1 else filled.view(seeds, -1).sum(1).tolist()
    return Rows(transition, now, after, episodes, steps, sizes, order=order)


def plain(tensor: Tensor) -> Tensor:
    """[T,B,N,F] in float32 on the CPU, the last dimension adjacent."""
    tensor = tensor.detach().to("cpu", torch.float32)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def located(tensor: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """Address and strides of a [T,B,N,F] or [T,B,N]; 0 for None."""
    return (0, (0, 0, 0)) if tensor is None else (tensor.data_ptr(), tensor.stride()[:3])


def addresses(tensors: Sequence[Tensor | None]) -> tuple[int, ...]:
    """What the extension takes; 0 for None."""
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
