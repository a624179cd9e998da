"""EpisodeBatch: the one type that carries experience between rollout, replay and learner.

Letters, defined once: B episodes, T transitions, N agents, O observation, A actions, S state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class EpisodeBatch:
    """Whole episodes, padded to the longest. T transitions, T+1 observations; a truncated episode still bootstraps.

    obs [B,T+1,N,O] float32, state [B,T+1,S] float32, avail_actions [B,T+1,N,A] bool (all true in the padding),
    actions [B,T,N] int64, reward [B,T] float32, terminated / truncated / filled [B,T] bool: the flags are true at an
    episode's last transition only, filled on its transitions.
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
    def lengths(self) -> torch.Tensor:
        """Transitions per episode [B] int64."""
        return self.filled.sum(1)

    @property
    def last(self) -> torch.Tensor:
        """True at each episode's last transition [B,T]."""
        following = torch.zeros_like(self.filled)
        following[:, :-1] = self.filled[:, 1:]
        return self.filled & ~following
