"""Epsilon-greedy exploration of several seeds at once, each from a random stream of its own.

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


class Exploration(NamedTuple):
    """The share of one seed's actions that are random, and the stream that they are drawn from."""

    epsilon: float
    generator: torch.Generator


class Explorer:
    """Random actions in the place of some greedy ones, in one pass for all seeds.

    A seed's numbers depend on its own stream and shapes alone. Every block, and every episode, begins with new ones:
    what is left of a block is not used.
    """

    def __init__(self, seeds: Sequence[Exploration]) -> None:
        self._seeds = [own if own.epsilon > 0.0 else None for own in seeds]
        self._epsilon = torch.tensor([own.epsilon for own in seeds]).view(-1, 1, 1)

    def __call__(self, t: int, avail: Tensor, greedy: Tensor, playing: Sequence[bool]) -> Tensor:
        """At step t of an episode: avail [K*E,N,A] bool, greedy [K*E,N] int64 -> actions [K*E,N].

        playing: which seeds still play, looked at only where a block begins. The others draw no more numbers: their
        streams go on as they would alone.
        """
        if not any(self._seeds):
            return greedy
        k = len(self._seeds)
        avail = avail.unflatten(0, (k, -1))
        if t == 0:
            self._begin(avail)
        if t % self._steps == 0:
            self._draw(playing)
        noise = self._noise[:, t % self._steps].to(avail.device)
        explore = noise[..., 0] < self._epsilon
        random = noise[..., 1:].masked_fill(~avail, -1.0).argmax(-1)
        return torch.where(explore, random, greedy.unflatten(0, (k, -1))).flatten(0, 1)

    def _begin(self, avail: Tensor) -> None:
        k, e, n, a = avail.shape
        self._steps = max(1, min(BLOCK, LARGEST // (e * n * (1 + a))))
        device = next(own for own in self._seeds if own).generator.device
        self._noise = torch.zeros(k, self._steps, e, n, 1 + a, device=device)
        self._epsilon = sent(self._epsilon, avail.device)

    def _draw(self, playing: Sequence[bool]) -> None:
        for own, numbers, plays in zip(self._seeds, self._noise, playing, strict=True):
            if own and plays:
                numbers.uniform_(generator=own.generator)
