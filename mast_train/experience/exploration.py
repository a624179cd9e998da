"""Exploration of several seeds at once, each from a random stream of its own: epsilon-greedy choices, or continuous
actions with Gaussian noise.

Letters: K seeds, E environments of a seed, N agents, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mast_train.experience.transfer import sent

BLOCK = 16
"""Steps whose numbers are drawn at once."""
LARGEST = 2**18
"""Numbers of a seed that are drawn at once, at most: on large maps a block is fewer steps."""
SMALLEST = 1e-7
"""Of the numbers that normal ones are made from: 0 would be minus infinity."""


class Exploration(NamedTuple):
    """The share of one seed's actions that are random, and the stream that they are drawn from. noise: standard
    deviation of what is added to the other actions, where they are continuous."""

    epsilon: float
    generator: torch.Generator
    noise: float = 0.0


class Explorer:
    """Random actions in the place of some greedy ones, or beside them, in one pass for all seeds.

    A seed's numbers depend on its own stream and shapes alone. Every block, and every episode, begins with new ones:
    what is left of a block is not used.
    """

    def __init__(self, seeds: Sequence[Exploration]) -> None:
        self._seeds = [own if own.epsilon > 0.0 or own.noise > 0.0 else None for own in seeds]
        self._epsilon, self._sigma = torch.tensor([(own.epsilon, own.noise) for own in seeds]).view(-1, 2).t()

    def __call__(self, t: int, avail: Tensor, greedy: Tensor, playing: Sequence[bool]) -> Tensor:
        """At step t of an episode: avail [K*E,N,A] bool, greedy [K*E,N] int64 -> actions [K*E,N]; continuous ones
        [K*E,N,A].

        playing: which seeds still play, looked at only where a block begins. The others draw no more numbers: their
        streams go on as they would alone.
        """
        if not any(self._seeds):
            return greedy
        k = len(self._seeds)
        avail = avail.unflatten(0, (k, -1))
        if t == 0:
            self._begin(avail, 1 + 2 * avail.shape[-1] if greedy.is_floating_point() else 1 + avail.shape[-1])
        if t % self._steps == 0:
            self._draw(playing)
        noise = self._noise[:, t % self._steps].to(avail.device)
        explore, greedy = noise[..., 0] < self._epsilon.view(-1, 1, 1), greedy.unflatten(0, (k, -1))
        if not greedy.is_floating_point():
            random = noise[..., 1:].masked_fill(~avail, -1.0).argmax(-1)
            return torch.where(explore, random, greedy).flatten(0, 1)
        uniform, other = noise[..., 1:].chunk(2, -1)
        normal = torch.special.ndtri(other.clamp(min=SMALLEST))
        near = (greedy + self._sigma.view(-1, 1, 1, 1) * normal).clamp(-1.0, 1.0)
        anywhere = torch.where(explore.unsqueeze(-1), 2.0 * uniform - 1.0, near)
        return anywhere.masked_fill(~avail, 0.0).flatten(0, 1)

    def _begin(self, avail: Tensor, width: int) -> None:
        k, e, n, _ = avail.shape
        self._steps = max(1, min(BLOCK, LARGEST // (e * n * width)))
        device = next(own for own in self._seeds if own).generator.device
        self._noise = torch.zeros(k, self._steps, e, n, width, device=device)
        self._epsilon, self._sigma = (sent(value, avail.device) for value in (self._epsilon, self._sigma))

    def _draw(self, playing: Sequence[bool]) -> None:
        for own, numbers, plays in zip(self._seeds, self._noise, playing, strict=True):
            if own and plays:
                numbers.uniform_(generator=own.generator)
