"""Learners and runs one at a time, where the product takes several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import torch
from torch import Tensor

from mast_train.experience.episodes import EpisodeBatch
from mast_train.learning.learner import Learner
from mast_train.learning.update import Update
from mast_train.runs.events import Event
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.sparse import evolution

_UPDATES: dict[int, tuple[Learner, Update]] = {}


def updates(learner: Learner) -> Update:
    """What steps this learner alone; the same every time."""
    _, update = _UPDATES.setdefault(id(learner), (learner, Update([learner])))
    return update


def update(learner: Learner, batch: EpisodeBatch, env_steps: int) -> dict[str, Tensor]:
    """One gradient step; its log."""
    return {name: value[0] for name, value in updates(learner)(batch, [env_steps]).items()}


def events(run: Run) -> Iterator[Event]:
    """Train one run alone."""
    with closing(Loop([run])) as loop:
        for _, event in loop.events():
            yield event


def change(drop, grow, dense, masks, generator, optimizer):
    """Three tenths of one seed's connections; how many changed."""
    fractions = torch.tensor([0.3], dtype=torch.float64)
    return int(evolution.evolve([masks], drop, grow, dense, fractions, [generator], [optimizer]))
