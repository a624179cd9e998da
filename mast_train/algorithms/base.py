"""What an algorithm is: its networks, the value of the next state, and what is fitted to what.

Letters: B episodes, T steps, R transitions, N agents, A actions, S state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from mast_train.engines.base import Ascent, Engine, GivenActions, Values, Wanted
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import Rows, pick
from mast_train.experience.packed import Batch, Packed, PackedRows
from mast_train.learning import targets
from mast_train.learning.flops import Passes
from mast_train.learning.losses import Goal
from mast_train.networks.build import agent_nets
from mast_train.settings.config import Config


@dataclass(frozen=True)
class Seen:
    """A batch as the networks see it; values: of agents by name, as the algorithm wanted them."""

    config: Config
    spec: EnvSpec
    engine: Engine
    batch: Batch
    rows: Rows
    values: Mapping[str, Values]

    def now(self, agents: str) -> Tensor:
        """Values of all actions at the transitions [R,N,A]."""
        return _given(self.values[agents].now)

    def after(self, agents: str) -> Tensor:
        """Those at the states that follow [R,N,A]."""
        return _given(self.values[agents].after)

    @cached_property
    def avail_now(self) -> Tensor:
        """Available actions at the transitions [R,N,A] bool."""
        return pick(self.batch.avail_actions, self.rows.now)

    @cached_property
    def avail_after(self) -> Tensor:
        """Those in the states that follow [R,N,A] bool."""
        return pick(self.batch.avail_actions, self.rows.after)

    @cached_property
    def episode_returns(self) -> Tensor:
        """What each transition's episode still brought, discounted [R]."""
        batch, rows, gamma = self.batch, self.rows, self.config.train.gamma
        if isinstance(batch, Packed):
            assert isinstance(rows, PackedRows)
            reward = batch.reward.flatten()
            links = rows.terminated, rows.last, rows.after
            return targets.linked_td_lambda(reward, torch.zeros_like(reward), *links, gamma, 1.0, rows.steps)
        return pick(targets.episode_return(batch.reward, batch.terminated, batch.last, gamma), rows.transition)

    def mix_now(self, mixer: str, q: Tensor) -> Tensor:
        """The mixer in the transitions' states: q [R,N] or [J,R,N] -> [R] or [J,R]."""
        return self.engine.mix(mixer, q, self.batch.state, self.rows, self.rows.now)

    def mix_after(self, mixer: str, q: Tensor) -> Tensor:
        """The mixer in the states that follow."""
        return self.engine.mix(mixer, q, self.batch.state, self.rows, self.rows.after)

    def reduced_after(self, agents: str, select: str | None) -> Tensor:
        """Each agent's value of the next state by the configured operator [R,N]; select: the agents whose values choose
        or weigh the actions, None: its own."""
        return self.reduced(self.after(agents), self.avail_after, None if select is None else self.after(select))

    def value(self, critics: str, memory: Tensor, actions: Tensor) -> Tensor:
        """Critics' values of given actions: GivenActions.value."""
        return cast(GivenActions, self.engine).value(critics, memory, actions, self.rows)

    def uniform(self, *shape: int) -> Tensor:
        """GivenActions.uniform."""
        return cast(GivenActions, self.engine).uniform(self.rows, *shape)

    def reduced(self, q: Tensor, avail: Tensor, by: Tensor | None) -> Tensor:
        """Values of the next state by the configured operator: q [R,N,A], avail bool, by (which choose or weigh; None:
        q) -> [R,N]."""
        if self.config.target.scale == "fixed":
            return self._reduced(q, avail, by, 1.0)
        # The unit is one seed's own: its spread is over that seed's transitions.
        if self.rows.real is not None:  # as many rows of each seed
            unit = targets.spreads(q, avail, self.rows.real, len(self.rows.sizes))
            of_row = unit.repeat_interleave(self.rows.sizes[0]).view(-1, *[1] * (q.dim() - 1))
            return self._reduced(q, avail, by, of_row)
        optional = self.rows.split_any(by), self.rows.split_any(self.rows.real)
        parts = zip(self.rows.split(q), self.rows.split(avail), *optional, strict=True)
        arguments = [(v, can, by, self.engine.scalar(targets.spread(v, can, real))) for v, can, by, real in parts]
        return torch.cat([self._reduced(*part) for part in arguments])

    def _reduced(self, q: Tensor, avail: Tensor, select: Tensor | None, unit: float | Tensor) -> Tensor:
        """q, select [R,N,A], avail bool [R,N,A] -> [R,N]."""
        c = self.config.target
        if c.operator == "max":
            return targets.greedy_value(q, avail, select)
        if c.operator == "softmax":
            return targets.softmax_value(q, avail, c.alpha / unit, select)
        if c.operator == "mellowmax":
            return targets.mellowmax(q, avail, c.omega / unit)
        if c.operator == "soft_mellowmax":
            return self.engine.soft_mellowmax(q, avail, c.alpha / unit, c.omega / unit, select)
        raise KeyError(c.operator)


@dataclass(frozen=True)
class Fit:
    """The mixer on the values of some agents is fitted to goals, by the names of their losses in the log."""

    mixer: str
    agents: str
    goals: dict[str, Goal]


class Algorithm:
    """The frame that the value-based algorithms share; each changes what is its own.

    Networks go by name: "agents" act.
    """

    copies: ClassVar[Mapping[str, str]] = {"target_agents": "agents", "target_mixer": "mixer"}
    """Target network -> which network it is a copy of."""
    actions: Sequence[str] = ("discrete",)
    """For which kinds of actions it is: "discrete", "continuous"."""
    in_torch = ""
    """What it has that only the kernel torch runs."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def rate_shares(self) -> Mapping[str, float]:
        """Networks with a share of the learning rate of their own; those of one share are clipped together, apart from
        all others."""
        return {}

    def mixer(self, spec: EnvSpec) -> nn.Module:
        """What makes the agents' values the team's: (q [...,N], state [...,S]) -> [...]."""
        raise NotImplementedError

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        """All that learns, by name."""
        return {"agents": agent_nets(self.config, spec), "mixer": self.mixer(spec)}

    @property
    def selects(self) -> bool:
        """Whether the online agents choose or weigh the next action that the target networks value (double Q)."""
        return self.config.target.double_q

    def wanted(self, evolving: bool) -> dict[str, Wanted]:
        """What the passes of the agents give; evolving: with the gradients of absent weights."""
        online = Wanted(learning=True, dense_gradients=evolving, after=self.selects)
        return {"agents": online, "target_agents": Wanted(after=True)}

    def next_value(self, seen: Seen) -> Tensor:
        """The value of the state after each transition by the target networks [R], or [R,N] agent by agent."""
        return seen.mix_after("target_mixer", seen.reduced_after("target_agents", "agents" if self.selects else None))

    def fits(self, seen: Seen, y: Tensor) -> list[Fit]:
        """What is fitted to the targets y, [R] or [R,N] as of next_value."""
        return [Fit("mixer", "agents", {"loss": Goal(y)})]

    def ascents(self, seen: Seen) -> list[Ascent]:
        """Which agents go where critics value their actions more."""
        return []

    def decides(
        self, spec: EnvSpec, networks: Mapping[str, nn.Module], x: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whole episodes: x [T,B,N,I], avail [T,B,N,A] -> the greedy actions, and the online networks' values of them
        [T,B,N]."""
        q = networks["agents"](x)[0]
        return targets.greedy_actions(q, avail), targets.greedy_value(q, avail)

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """Forward passes a training sample costs; a backward pass is two. Here: online 1 + backward 2 + target 1."""
        return Passes(agents=4, mixer=4)


def _given(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("values that the algorithm's `wanted` did not ask for")
    return values
