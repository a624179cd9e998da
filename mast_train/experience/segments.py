"""Pieces of long episodes: which are drawn, and where they lie in a storage.

A piece is `segment` steps that are learnt from, and up to `burn_in` steps before them, from which recurrent networks
make a memory, beginning from none (Kapturowski et al. 2019). It ends as the episode did where it reaches its end, else
as one that was cut: the value of what follows stands in. Letters: B pieces, T steps of the longest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mast_train.experience.storage import Storage


class Pieces(NamedTuple):
    """first: the step at which a piece begins; skip: how many of its steps are burn-in; count: its steps, burn-in
    included. All [B]. last: whether it ends where its episode does."""

    first: Tensor
    skip: Tensor
    count: Tensor
    last: Tensor


def draw_pieces(lengths: Tensor, count: int, segment: int, generator: torch.Generator) -> Tensor:
    """Every place of a piece in episodes of these lengths is as likely: (index of the episode, first step that is
    learnt from) [count,2]. A piece may come twice."""
    ends = (lengths - segment + 1).clamp(min=1).cumsum(0)
    place = (torch.rand(count, dtype=torch.float64, generator=generator) * ends[-1]).long()
    index = torch.searchsorted(ends, place, right=True)
    before = torch.where(index > 0, ends[index - 1], 0)
    return torch.stack([index, place - before], 1)


def pieces(lengths: Tensor, start: Tensor, segment: int, burn_in: int) -> Pieces:
    """The pieces of episodes of these lengths [B] that are learnt from `start` [B] on."""
    first = (start - burn_in).clamp(min=0)
    end = torch.minimum(lengths, start + segment)
    return Pieces(first, start - first, end - first, end == lengths)


def piece_rows(storage: Storage, slots: Tensor, given: Pieces, steps: int) -> tuple[Tensor, Tensor]:
    """Row numbers of what is observed [B,steps+1] and of what is done [B,steps]; 0, the padding, behind a piece."""
    step = torch.arange(steps + 1)
    columns = (given.first[:, None] + step).clamp(max=storage.rows.shape[1] - 1)
    rows = storage.rows[slots[:, None], columns]
    return rows * (step <= given.count[:, None]), rows[:, :-1] * (step[:-1] < given.count[:, None])
