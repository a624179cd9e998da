"""Packed: a batch of whole episodes of several seeds without their padding.

Letters: K seeds, E episodes of each, C places of a seed, S steps of the longest at which something is observed,
N agents, O observation, A actions; R = K C.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mast_train.experience.episodes import EpisodeBatch, Rows

STEPS = 16
"""A batch is for at most so many steps, twice as many, four times: as many shapes as an episode's limit has doublings.
"""
SHARES = 8
"""Numbers of places are rounded up to a multiple of this share of the power of two below: an eighth is lost at most."""


@dataclass
class Packed:
    """A seed's places hold what its episodes observe, the longest episode first: step 0 of all, step 1 of those that
    get there, and so on. An episode of l transitions has l + 1 places. What is behind them all is nobody's: zeros, and
    every action available.

    obs [K,C,N,O] float32, state [K,C,state] float32, avail_actions [K,C,N,A] bool, actions [K,C,N] int64, continuous
    ones [K,C,N,A] float32, reward [K,C] float32; what was done at the last observation is 0. episodes [2,K,E] int32:
    the number of each episode's transitions, and whether it terminated.
    """

    obs: Tensor
    state: Tensor
    avail_actions: Tensor
    actions: Tensor
    reward: Tensor
    episodes: Tensor
    steps: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What the shapes of everything that is computed follow from: C, S."""
        return self.reward.shape[1], self.steps

    @property
    def size(self) -> str:
        """In words."""
        return f"{self.episodes[0].numel():,} episodes, {self.reward.numel():,} steps in all"

    def copy_(self, other: Packed) -> None:
        """Take over the values of a batch of the same shape, in place. What lies in the same memory is there."""
        for field in fields(self):
            mine, value = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Tensor) and mine.data_ptr() != value.data_ptr():
                mine.copy_(value)

    def rows(self) -> PackedRows:
        """Which place is what; computed where the batch is, with no word to the host."""
        (lengths, ends), (k, c) = self.episodes, self.reward.shape
        used, step, rank, place, begins = locate(lengths, c, self.steps)
        length = lengths.gather(1, rank)
        filled = used & (step < length)
        following = torch.where(filled, begins.gather(1, step + 1) + rank, place)
        before = torch.where(used & (step > 0), begins.gather(1, (step - 1).clamp(min=0)) + rank, place)
        first = torch.arange(0, k * c, c, device=lengths.device).unsqueeze(1)
        here, last = torch.arange(k * c, device=lengths.device), used & (step == length - 1)
        return PackedRows(
            transition=here,
            now=here,
            after=(first + following).flatten(),
            episodes=k * lengths.shape[1],
            steps=self.steps - 1,
            sizes=[c] * k,
            real=filled.flatten(),
            before=(first + before).flatten(),
            starts=(step == 0).flatten(),
            last=(last | ~filled).flatten(),
            terminated=(last & (ends.gather(1, rank) > 0)).flatten(),
            observed=lengths + 1,
            begins=begins,
        )


@dataclass(frozen=True, kw_only=True)
class PackedRows(Rows):
    """The places of a packed batch as rows: `transition`, `now` and `step_major` are all of them in order, `real` those
    of transitions, and `after` of any other is itself.

    before [R]: the place of the step before, or of the first step itself; starts [R] bool: first steps; last [R] bool:
    where no transition follows; terminated [R] bool: those at which an episode terminates. observed [K,E] int32: places
    of each episode. begins [K,S+1] int32: a step's first place, and the number of places that are somebody's.
    """

    before: Tensor
    starts: Tensor
    last: Tensor
    terminated: Tensor
    observed: Tensor
    begins: Tensor

    @property
    def step_major(self) -> Tensor:  # type: ignore[override]
        return self.now

    @property
    def next_step_major(self) -> Tensor:  # type: ignore[override]
        return self.after


Batch = EpisodeBatch | Packed
"""What an update learns from."""


def rounded(places: int, transitions: int, limit: int) -> tuple[int, int]:
    """C and S of a batch that needs so many places, and of whose episodes the longest has so many transitions; limit:
    of an episode's transitions. Few different ones, since each is recorded as a graph of its own."""
    share = max(STEPS, (1 << (places.bit_length() - 1)) // SHARES)
    steps = STEPS
    while steps < transitions:
        steps *= 2
    return -(-places // share) * share, min(steps, limit) + 1


class Located(NamedTuple):
    """Whose each place is, all [K,C]: used bool, whether anybody's; step and rank int64, the step and which of a seed's
    episodes; place int32, its number. begins [K,S+1] int32: see PackedRows."""

    used: Tensor
    step: Tensor
    rank: Tensor
    place: Tensor
    begins: Tensor


def locate(lengths: Tensor, size: int, steps: int) -> Located:
    """lengths [K,E] int32, falling, of the transitions of each seed's episodes; computed where they are."""
    time = torch.arange(steps, device=lengths.device, dtype=torch.int32)
    present = (lengths.unsqueeze(1) >= time.unsqueeze(1)).sum(-1, dtype=torch.int32)
    begins = pad(present.cumsum(1, dtype=torch.int32), (1, 0))
    place = torch.arange(size, device=lengths.device, dtype=torch.int32).repeat(len(lengths), 1)
    step = torch.searchsorted(begins[:, 1:].contiguous(), place, right=True)  # `steps` behind the last
    used, step = step < steps, step.clamp(max=steps - 1)
    rank = (place - begins.gather(1, step)).clamp(max=lengths.shape[1] - 1)
    return Located(used, step, rank.long(), place, begins)
