"""When learners change their topology: by which scores, and how much. Letters: K learners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mast_train.experience.transfer import sent
from mast_train.learning.learner import Learner
from mast_train.sparse import evolution
from mast_train.sparse.schedule import drop_fraction


@dataclass(frozen=True)
class Scores:
    """By which the topology changes: the gradients of all weights [K,...], by module and parameter, before any was
    masked, and the share of each learner's connections whose gradient was 0 [K]."""

    gradients: dict[str, dict[str, Tensor]]
    idle: Tensor


def scores(learners: Sequence[Learner]) -> Scores:
    """By the gradients as they are now."""
    masks = {key: [learner.masks[key] for learner in learners] for key in learners[0].masks}
    gradients = {key: evolution.dense_gradients(own) for key, own in masks.items()}
    counts = [evolution.idle(own, gradients[key]) for key, own in masks.items() if own[0].layers]
    idle, judged = torch.stack(counts).sum(0)
    return Scores(gradients, idle / judged.clamp(min=1))


def evolve(learners: Sequence[Learner], found: Scores, env_steps: Sequence[int]) -> Tensor:
    """Drop and grow connections of learners that are where env_steps says; how many of each changed [K]."""
    sparse, train = learners[0].config.sparse, learners[0].config.train
    progress = [steps / train.total_steps for steps in env_steps]
    each = [drop_fraction(share, sparse.drop_fraction, sparse.stop_fraction) for share in progress]
    fractions = sent(torch.tensor(each, dtype=torch.float64), learners[0].device)
    rest = [learner.generator for learner in learners], [learner.optimizer for learner in learners]
    changed = torch.zeros(len(learners), dtype=torch.int64, device=fractions.device)
    for key, gradients in found.gradients.items():
        masks = [learner.masks[key] for learner in learners]
        changed += evolution.evolve(masks, sparse.drop, sparse.grow, gradients, fractions, *rest)
    return changed
