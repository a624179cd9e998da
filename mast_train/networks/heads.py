"""How decisions follow from what the agents' networks give.

Letters: B teams, N agents, A actions or components of one, H hidden, J candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.networks.agents import CriticNets
from mast_train.settings.config import Config
from mast_train.settings.of_algorithms import ComixConfig

Head = Callable[[Tensor, Tensor], Tensor]
"""(what the networks give [B,N,...], avail_actions [B,N,A]) -> actions as environments step them."""


def head(config: Config, spec: EnvSpec, agents: object) -> Head:
    """What decides for networks of this kind in such an environment."""
    if spec.box is None:
        return greedy
    if isinstance(agents, CriticNets):
        return Search(config.comix, agents)
    return squashed


def greedy(q: Tensor, avail: Tensor) -> Tensor:
    """The available action of the largest value or preference: q [...,N,A] -> [...,N] int64."""
    return q.masked_fill(~avail, -torch.inf).argmax(-1)


def squashed(out: Tensor, avail: Tensor) -> Tensor:
    """tanh: out [...,N,A] -> components in [-1, 1]; 0 where an agent has none."""
    return torch.tanh(out).masked_fill(~avail, 0.0)


class Found(NamedTuple):
    """The best actions [R,N,A], and the last candidates [J,R,N,A] with their values [J,R,N]."""

    best: Tensor
    candidates: Tensor
    values: Tensor


def cross_entropy(value: Callable[[Tensor], Tensor], avail: Tensor, settings: ComixConfig) -> Found:
    """The actions of the largest value in [-1, 1]^A, each agent's for itself, by the cross-entropy method (Rubinstein
    and Kroese 2004; Kalashnikov et al. 2018 for Q-functions).

    value: [J,R,N,A] -> [J,R,N]. avail [R,N,A] bool: the components that an agent has; the others stay 0. Every
    iteration draws J candidates from a normal distribution and fits it to the best `elites`: their mean, and their
    spread about the mean before, which a distribution that still moves does not lose too early. The first one covers
    the range. The mean and the best so far are candidates too. The draws are the same table everywhere and at all times
    (`draws`): a decision is a function of the networks and their input.
    """
    noise = draws(settings, avail.shape[-1], avail.device).unsqueeze(2).unsqueeze(2)  # [L,J,1,1,A]
    mean, spread = torch.zeros_like(avail, dtype=torch.float32), torch.ones_like(avail, dtype=torch.float32)
    best = mean
    for numbers in noise:
        candidates = (mean + spread * numbers).clamp(-1.0, 1.0).masked_fill(~avail, 0.0)
        candidates[1] = best
        values = value(candidates)
        top = values.topk(settings.elites, 0).indices.unsqueeze(-1).expand(-1, -1, -1, avail.shape[-1])
        elites = candidates.gather(0, top)
        best, spread = elites[0], (elites - mean).square().mean(0).sqrt()
        mean = elites.mean(0)
    return Found(best, candidates, values)


def draws(settings: ComixConfig, components: int, device: torch.device) -> Tensor:
    """Standard normal numbers of every iteration and candidate [L,J,A], the first candidate's 0: a fixed table."""
    shape = settings.iterations, settings.candidates, components
    table = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    table[:, 0] = 0.0
    return table.to(device)


class Search:
    """The actions that networks value most, by `cross_entropy`."""

    def __init__(self, settings: ComixConfig, agents: CriticNets) -> None:
        self._settings, self._agents = settings, agents

    def __call__(self, states: Tensor, avail: Tensor) -> Tensor:
        seeds = self._agents.seeds
        sizes: Sequence[int] = [len(states) // seeds] * seeds
        return cross_entropy(
            lambda u: self._agents.value(states, u.to(states.dtype), sizes), avail, self._settings
        ).best
