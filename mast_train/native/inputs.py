"""What the agents' networks read in C: a batch of sequences, brought into lanes once for every pass over it.

Letters: G groups, T steps, B episodes, N agents, I input, F features.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mast_train.nets import AgentNets

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


_SPARE = Memory()


@dataclass
class Inputs:
    """What networks of the same groups and widths read. The first pass over it brings it into lanes for the others.

    x float32 [T,B,N,...], last_action int64 [T,B,N]; order int32 [B], each seed's longest first, and their lengths
    int32. keep: whether the lanes stay for another pass, as a backward one needs; laid_out: the groups and widths that
    they suit.
    """

    x: Tensor
    last_action: Tensor | None
    order: Tensor | None
    lengths: Tensor | None
    keep: bool = True
    laid_out: tuple[int, ...] | None = field(default=None, init=False)
    _lanes: Tensor | None = field(default=None, init=False)

    @classmethod
    def of(
        cls,
        x: Tensor,
        last_action: Tensor | None = None,
        lengths: Tensor | None = None,
        seeds: int = 1,
        *,
        keep: bool = True,
    ) -> Inputs:
        """As SparseSequence.forward takes them. Raises ValueError."""
        if last_action is not None and last_action.dtype != torch.int64:
            raise ValueError(f"last_action is {last_action.dtype}, expected int64")
        if lengths is None:
            return cls(plain(x), last_action, None, None, keep)
        if lengths.shape != x.shape[1:2] or int(lengths.max()) > x.shape[0] or int(lengths.min()) < 0:
            raise ValueError(f"lengths is {lengths.tolist()}, expected {x.shape[1]} of 0 to {x.shape[0]} steps")
        falling, order = lengths.reshape(seeds, -1).sort(dim=1, descending=True, stable=True)
        if seeds > 1:
            order = order + torch.arange(0, lengths.numel(), order.shape[1]).unsqueeze(1)
        return cls(plain(x), last_action, order.int(), falling.int(), keep)

    def placed(self, nets: AgentNets) -> tuple[Any, ...]:
        """As the extension takes them."""
        last, width = self.last_action, self.x.shape[3]
        ahead = (0, (0, 0, 0)) if last is None else (last.data_ptr(), last.stride())
        identity = nets.inputs - width - (0 if last is None else nets.n_actions)
        ahead = *located(self.x), width, *ahead, int(identity > 0)
        return *ahead, *addresses([self.order, self.lengths, self._lanes_for(nets)]), int(self.laid_out is not None)

    def _lanes_for(self, nets: AgentNets) -> Tensor | None:
        """Memory for the lanes, where they are kept: [G,tiles,T,I,LANES]."""
        if self.keep and self._lanes is None:
            t, b, n = self.x.shape[:3]
            tiles = nets.groups * -(-(b * n // nets.groups) // LANES)
            self._lanes = _SPARE.take(tiles * t * nets.inputs * LANES)
            weakref.finalize(self, _SPARE.give, self._lanes)
        return self._lanes


def plain(tensor: Tensor) -> Tensor:
    """[T,B,N,F] in float32 on the CPU, the last dimension adjacent."""
    tensor = tensor.detach().to("cpu", torch.float32)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def located(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """Address and strides of a [T,B,N,F]."""
    return tensor.data_ptr(), tensor.stride()[:3]


def addresses(tensors: Sequence[Tensor | None]) -> tuple[int, ...]:
    """What the extension takes; 0 for None."""
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
