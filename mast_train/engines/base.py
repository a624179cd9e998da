"""What an engine is: where the networks of one or several seeds run. An engine knows no learner and no algorithm.

The agents of several seeds run as one network of all their groups, every seed on its own equal part of the batch.
Letters: K seeds, T steps, B episodes of all seeds, N agents, A actions, R transitions, J joint actions, S state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mast_train.experience.episodes import Rows
from mast_train.experience.packed import Batch
from mast_train.experience.rollout import Actor
from mast_train.learning.losses import Goal, mean_of, total
from mast_train.sparse.masks import Masks


@dataclass(frozen=True)
class Parts:
    """What one seed brings: its networks by name, the masks of those that learn, the optimiser of their weights, and
    the stream that learning draws from. sources: target network -> what it is a copy of."""

    networks: Mapping[str, nn.Module]
    masks: Mapping[str, Masks]
    optimizer: torch.optim.Optimizer
    sources: Mapping[str, str]
    generator: torch.Generator


@dataclass(frozen=True)
class Wanted:
    """What a pass of some agents gives (Values), and whether a backward pass follows: with the gradients of connections
    alone, or with those of absent weights too (dense_gradients). whole: the values of all actions at every step.
    outputs: `now` carries the gradients, and no action is looked up."""

    whole: bool = False
    now: bool = False
    after: bool = False
    learning: bool = False
    dense_gradients: bool = False
    outputs: bool = False


@dataclass(frozen=True)
class Ascent:
    """The networks that act go where the critics' value of what they do rises: the mean, over the transitions, of the
    mixer on the critics' values of all agents' present actions at once (Peng et al. 2021, equation 7).

    actions: what the agents give [R,N,A] -> the actions that critics read [R,N,A]. penalty: on the mean of its squares.
    """

    mixer: str
    critics: str
    agents: str
    actions: Callable[[Tensor], Tensor]
    penalty: float


@dataclass(frozen=True)
class Schedule:
    """What an update takes from where each seed's run is: its learning rate, and its lambda, 0 before T_0 (paper,
    section 4.1). delayed: whether a seed's targets are still one-step ones, whatever its returns are later."""

    rates: Sequence[float]
    lambdas: Sequence[float]
    delayed: Sequence[bool]


class Values(Protocol):
    """What a pass of some agents gives at the transitions: the values of the actions taken [R,N], which carry the
    gradients, and those of all actions now and after [R,N,A]; of critics, the memory in which an action is valued
    [R,N,H]. None: not asked for."""

    @property
    def taken(self) -> Tensor | None: ...
    @property
    def now(self) -> Tensor | None: ...
    @property
    def after(self) -> Tensor | None: ...


class Engine(Protocol):
    """Forward and backward passes of networks by name, and the optimisers' steps, of all seeds at once.

    It owns no weights. From its construction on the seeds' parameters may be views of one memory that it laid out;
    whoever replaces a parameter, a mask or an optimiser's state afterwards makes a new engine.
    """

    @property
    def one_stage(self) -> bool:
        """Whether gradients of connections alone round differently from those beside absent weights' gradients: then
        seeds that evolve and seeds that do not are not updated in one pass."""
        ...

    @property
    def packs(self) -> bool:
        """Whether it takes batches without their padding, and likes them better."""
        ...

    @property
    def version(self) -> int:
        """Another number, after `schedule`, when graphs recorded before are no longer right."""
        ...

    @property
    def seeds(self) -> int: ...
    @property
    def actor(self) -> Actor:
        """The online agents of all seeds."""
        ...

    def actor_of(self, seeds: Sequence[int]) -> Actor:
        """Those of some seeds, in order, with the weights and masks of now."""
        ...

    def frozen_actor(self) -> Actor:
        """`actor` on the weights and masks of now until the next call: another thread may act while these learn."""
        ...

    def schedule(self, schedule: Schedule) -> None:
        """What holds from the next update on."""
        ...

    def rows(self, batch: Batch) -> Rows:
        """The batch's transitions."""
        ...

    def passes(self, batch: Batch, rows: Rows, wanted: Mapping[str, Wanted]) -> dict[str, Values]:
        """What is wanted of some agents by name."""
        ...

    def mix(self, mixer: str, q: Tensor, state: Tensor, rows: Rows, at: Tensor) -> Tensor:
        """q [R,N] or [J,R,N], state [B,T+1,S], at [R] (rows.now or rows.after) -> [R,...] or [J,R,...]: Q_tot, or what
        else the mixer gives, in the states pick(state, at)."""
        ...

    def soft_mellowmax(
        self, q: Tensor, avail: Tensor, alpha: float | Tensor, omega: float | Tensor, q_select: Tensor | None = None
    ) -> Tensor:
        """targets.soft_mellowmax."""
        ...

    def scalar(self, value: Tensor) -> float | Tensor:
        """A scalar as this engine's own operations take it."""
        ...

    def returns(self, batch: Batch, rows: Rows, following: Tensor) -> Tensor:
        """y [R] from the next states' values [R], by the configured returns and the schedule."""
        ...

    def fit(
        self, mixer: str, values: Values, batch: Batch, rows: Rows, goals: Mapping[str, Goal], evolving: bool
    ) -> dict[str, Tensor]:
        """The gradients of the goals' sum over the mixer and the agents that gave the values, added to what is there;
        those of absent weights only when `evolving`. Of each seed [K] the loss of every goal by name, and the means
        over transitions of "q_taken", "q_tot" and the first goal's "target" and, where it is weighted, "weight"."""
        ...

    def clear_gradients(self) -> None:
        """Begin an update's gradients at zero."""
        ...

    def hand_out_gradients(self) -> None:
        """After the last `fit`: every seed's own parameters have their gradients."""
        ...

    def optimise(self, max_norm: float) -> Tensor:
        """Mask the gradients, clip each seed's by their global norm, step; the norms before clipping [K]."""
        ...


class GivenActions(Engine, Protocol):
    """An engine that runs critics too: networks that value an action that they are given."""

    def value(self, critics: str, memory: Tensor, actions: Tensor, rows: Rows) -> Tensor:
        """memory [R,N,H] as `passes` gives it, actions [R,N,A] or [J,R,N,A] -> [R,N] or [J,R,N]."""
        ...

    def uniform(self, rows: Rows, *shape: int) -> Tensor:
        """Numbers in [0, 1) [R,*shape], each seed's from its own stream."""
        ...

    def ascend(self, ascent: Ascent, values: Mapping[str, Values], batch: Batch, rows: Rows) -> dict[str, Tensor]:
        """The gradients of an ascent over its agents alone, added to what is there; "policy_value" and
        "policy_penalty" of each seed [K]."""
        ...


def of_seeds(rows: Rows, values: Tensor) -> Tensor:
    """The mean of each seed's part of values [R,...] over the real rows -> [K]."""
    if rows.real is not None and len(rows.sizes) > 1:  # equal parts: all seeds in one pass
        shape = len(rows.sizes), -1
        real = rows.real.view(-1, *[1] * (values.dim() - 1)).expand_as(values).reshape(shape)
        return values.reshape(shape).masked_fill(~real, 0.0).sum(1) / real.sum(1)
    if len(rows.sizes) == 1:
        return mean_of(values, rows.real).unsqueeze(0)
    parts = zip(rows.split(values), rows.split_any(rows.real), strict=True)
    return torch.stack([mean_of(part, real) for part, real in parts])


def fitted(rows: Rows, goals: Mapping[str, Goal], q_taken: Tensor, q_tot: Tensor) -> dict[str, Tensor]:
    """Engine.fit by autograd: q_tot [R,...] is what the mixer makes of q_taken [R,N]."""
    losses = {name: of_seeds(rows, goal.error(q_tot)) for name, goal in goals.items()}
    total(list(losses.values())).sum().backward()
    first = next(iter(goals.values()))
    means = {"q_taken": q_taken, "q_tot": q_tot, "target": first.y, "weight": first.weight_at(q_tot)}
    log = losses | {name: of_seeds(rows, value) for name, value in means.items() if value is not None}
    return {name: value.detach() for name, value in log.items()}
