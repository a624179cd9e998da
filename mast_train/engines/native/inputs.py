"""What the agents' networks read in C: a batch of sequences.

Letters: T steps, B episodes, N agents, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mast_train.engines.native.extension import extension
from mast_train.experience.episodes import Rows


@dataclass(frozen=True)
class Inputs:
    """What networks read: x float32 [T,B,N,F], actions int64 [T-1,B,N], `transitions` of them real.

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
        if actions is None and lengths is None:
            return cls(plain(x))
        t, b = x.shape[:2]
        lengths = torch.full((b,), t) if lengths is None else lengths
        if lengths.shape != (b,) or int(lengths.max()) > t or int(lengths.min()) < 1:
            raise ValueError(f"lengths is {lengths.tolist()}, expected {b} of 1 to {t} steps")
        rows = arranged(torch.arange(t - 1) < lengths[:, None] - 1, seeds)
        return cls(plain(x), actions, rows.order, len(rows.now), actions is not None)


def arranged(filled: Tensor, seeds: int) -> Rows:
    """`EpisodeBatch.rows` of filled [B,T] bool, with the order of its episodes."""
    (episodes, steps), filled = filled.shape, filled.contiguous()
    places = torch.empty(3, episodes * steps, dtype=torch.int64)
    order = torch.empty(3, episodes, dtype=torch.int32)
    count = extension().episodes(seeds=seeds, filled=filled, places=places, order=order)
    transition, now, after = (place[:count] for place in places.unbind())
    sizes = [count] if seeds == 1 else filled.view(seeds, -1).sum(1).tolist()
    return Rows(transition, now, after, episodes, steps, sizes, order=order)


def plain(tensor: Tensor) -> Tensor:
    """[T,B,N,F] in float32 on the CPU, the last dimension adjacent."""
    tensor = tensor.detach().to("cpu", torch.float32)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
