"""EpisodeBatch: the one type that carries experience between rollout, replay and learner.

Letters, defined once: B episodes, T transitions, N agents, O observation, A actions, S state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Rows:
    """Where the R transitions of a batch are, in the order of episodes and steps: indices [R] int64.

    Each is for a tensor flattened over its first two dimensions: `transition` for [B,T,...], `now` for [B,T+1,...] and
    `after` for what follows, `step_major` for [T+1,B,...] and `next_step_major` for what follows. sizes: how many are
    each seed's, the seeds being equal parts of the episodes, in order. real: which of them are not padding [R] bool,
    None: all. order: as native.Inputs takes it, where networks run in C.
    """

    transition: torch.Tensor
    now: torch.Tensor
    after: torch.Tensor
    episodes: int
    steps: int
    sizes: list[int]
    real: torch.Tensor | None = None
    order: torch.Tensor | None = None

    @cached_property
    def step_major(self) -> torch.Tensor:
        # t B + b of b T + t, b being now - transition
        episode, t = self.now - self.transition, self.steps
        return torch.add(self.transition * self.episodes, episode, alpha=1 - t * self.episodes)

    @cached_property
    def next_step_major(self) -> torch.Tensor:
        return self.step_major + self.episodes

    def split(self, values: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each seed's part of values [R,...]."""
        return values.split(self.sizes) if len(self.sizes) > 1 else [values]

    def split_any(self, values: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
        """`split`, None for every seed where there are no values."""
        return [None] * len(self.sizes) if values is None else self.split(values)


def pick(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor flattened over its first two dimensions."""
    return tensor.flatten(0, 1).index_select(0, index)


def taken(q: torch.Tensor, rows: Rows, actions: torch.Tensor) -> torch.Tensor:
    """Values of the actions taken: q [T+1,B,N,A], actions [R,N] -> [R,N]. One gather: its gradient is cheap."""
    n, a = q.shape[2:]
    index = (rows.step_major.unsqueeze(1) * n + torch.arange(n, device=q.device)) * a + actions
    return q.flatten().gather(0, index.flatten()).view_as(actions)


OBSERVED = ("obs", "state", "avail_actions")
"""Fields of an EpisodeBatch with an entry for the last observation too."""


@dataclass
class EpisodeBatch:
    """Whole episodes, padded to the longest. T transitions, T+1 observations; a truncated episode still bootstraps.

    obs [B,T+1,N,O] float32, state [B,T+1,S] float32, avail_actions [B,T+1,N,A] bool (all true in the padding),
    actions [B,T,N] int64, continuous ones [B,T,N,A] float32, reward [B,T] float32, terminated / truncated / filled
    [B,T] bool: the flags are true at an episode's last transition only, filled on its transitions. Of a piece of an
    episode filled is where it is learnt from: what comes before is its burn-in.
    """

    obs: torch.Tensor
    state: torch.Tensor
    avail_actions: torch.Tensor
    actions: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    filled: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """What the shapes of everything that is computed follow from: B, T."""
        return tuple(self.filled.shape)

    @property
    def size(self) -> str:
        """In words."""
        return f"{len(self.filled):,} episodes of up to {self.filled.shape[1]} steps"

    @property
    def lengths(self) -> torch.Tensor:
        """Transitions per episode [B] int64."""
        return self.filled.sum(1)

    def split(self, parts: int) -> list[EpisodeBatch]:
        """Equal numbers of episodes each, in order."""
        pieces = {name: tensor.tensor_split(parts) for name, tensor in vars(self).items()}
        return [EpisodeBatch(**{name: piece[k] for name, piece in pieces.items()}) for k in range(parts)]

    def padded(self, steps: int) -> EpisodeBatch:
        """The same episodes as a batch of `steps` transitions: itself where it has as many."""
        if steps == self.filled.shape[1]:
            return self
        fields = vars(self).items()
        return EpisodeBatch(**{name: _pad(value, steps + (name in OBSERVED), name) for name, value in fields})

    def copy_(self, other: EpisodeBatch) -> None:
        """Take over the values of a batch of the same shape, in place. What lies in the same memory is there."""
        for name, value in vars(other).items():
            if getattr(self, name).data_ptr() != value.data_ptr():
                getattr(self, name).copy_(value)

    def rows(self, seeds: int = 1) -> Rows:
        """Where the real transitions are; on a GPU, whose host would wait to read their number, `all_rows`."""
        if not self.filled.is_cpu:
            return self.all_rows(seeds)
        transition = self.filled.flatten().nonzero().squeeze(1)
        sizes = [transition.numel()] if seeds == 1 else self.filled.reshape(seeds, -1).sum(1).tolist()
        return self._rows(transition, sizes)

    def all_rows(self, seeds: int = 1) -> Rows:
        """Every transition, padding included: shapes and indices that depend on the batch's shape alone."""
        episodes, steps = self.filled.shape
        transition = torch.arange(episodes * steps, device=self.filled.device)
        return self._rows(transition, [transition.numel() // seeds] * seeds, self.filled.flatten())

    def _rows(self, transition: torch.Tensor, sizes: list[int], real: torch.Tensor | None = None) -> Rows:
        now = transition + transition // self.filled.shape[1]
        episodes, steps = self.filled.shape
        return Rows(transition, now, now + 1, episodes, steps, sizes, real)

    @property
    def last(self) -> torch.Tensor:
        """True at each episode's last transition [B,T]."""
        following = torch.zeros_like(self.filled)
        following[:, :-1] = self.filled[:, 1:]
        return self.filled & ~following


def _pad(value: torch.Tensor, steps: int, name: str) -> torch.Tensor:
    whole = value.new_full((value.shape[0], steps, *value.shape[2:]), name == "avail_actions")
    whole[:, : value.shape[1]] = value
    return whole
