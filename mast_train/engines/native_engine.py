"""Networks in C, on the connections of their masks, on a CPU. Letters as in engines/base.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from mast_train.engines import native
from mast_train.engines.base import Parts, Schedule, Values, Wanted, fitted
from mast_train.engines.frozen import Frozen
from mast_train.engines.joint import hand_out, joined, lay_out
from mast_train.engines.native import SparseSequence
from mast_train.engines.native import targets as native_targets
from mast_train.engines.native.inputs import arranged, plain
from mast_train.engines.native.mixer import SparseMixer
from mast_train.engines.native.optimizer import SparseStep
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch, Rows, pick
from mast_train.experience.packed import Batch
from mast_train.experience.rollout import Actor
from mast_train.learning import targets
from mast_train.learning.losses import Goal
from mast_train.networks.agents import AgentNets
from mast_train.networks.build import agent_inputs
from mast_train.networks.mixers import MonotonicMixer
from mast_train.settings.config import Config


class NativeEngine:
    """See base.Engine. Each seed becomes, to the bit, what it becomes alone."""

    one_stage = True
    packs = False

    def __init__(self, config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> None:
        """Raises ValueError for parameters or optimisers that C cannot work on."""
        self._config, self._spec, self._parts = config, spec, list(parts)
        self._agents: dict[str, SparseSequence] = {}
        self._masks: dict[str, Mapping[str, Tensor] | None] = {}
        self._mixers: dict[str, list[SparseMixer]] = {}
        self._handed: list[tuple[Tensor, Sequence[Tensor]]] = []
        self._frozen: Frozen | None = None
        for key, module in parts[0].networks.items():
            masks = [part.masks[key].state_dict() if key in part.masks else None for part in parts]
            if isinstance(module, AgentNets):
                nets, self._masks[key] = self._joint_agents(key, masks)
                self._agents[key] = SparseSequence(nets, self._masks[key])
            elif isinstance(module, MonotonicMixer):
                own = [cast(MonotonicMixer, part.networks[key]) for part in parts]
                self._mixers[key] = [SparseMixer(mixer, mask) for mixer, mask in zip(own, masks, strict=True)]
        self._steps = [SparseStep(part.optimizer, _connections(part)) for part in parts]
        self._schedule = Schedule([], [0.0] * len(parts), [True] * len(parts))

    def _joint_agents(
        self, key: str, masks: Sequence[Mapping[str, Tensor] | None]
    ) -> tuple[AgentNets, Mapping[str, Tensor] | None]:
        """All seeds' networks of a name as one, and their masks: None where they do not learn."""
        own = [cast(AgentNets, part.networks[key]) for part in self._parts]
        if len(own) == 1:
            return own[0], masks[0]
        parameters = [dict(nets.named_parameters()) for nets in own]
        tensors = {name: [named[name] for named in parameters] for name in parameters[0]}
        nets = joined(own, {name: lay_out(each) for name, each in tensors.items()})
        worn = [mask for mask in masks if mask is not None]
        if not worn:
            return nets, None
        self._handed += [(getattr(nets, name), each) for name, each in tensors.items()]
        return nets, {name: lay_out([mask[name] for mask in worn]).flatten(0, 1) for name in worn[0]}

    @property
    def version(self) -> int:
        return 0

    @property
    def seeds(self) -> int:
        return len(self._parts)

    @property
    def actor(self) -> SparseSequence:
        """The online agents of all seeds."""
        return self._agents["agents"]

    def actor_of(self, seeds: Sequence[int]) -> Actor:
        if list(seeds) == list(range(self.seeds)):
            return self.actor
        parts = [self._parts[seed] for seed in seeds]
        own = [cast(AgentNets, part.networks["agents"]) for part in parts]
        masks = [part.masks["agents"].state_dict() for part in parts]
        if len(own) == 1:
            return SparseSequence(own[0], masks[0])
        wholes = {
            name: torch.stack([getattr(nets, name).detach() for nets in own]) for name, _ in own[0].named_parameters()
        }
        return SparseSequence(
            joined(own, wholes), {name: torch.cat([mask[name] for mask in masks]) for name in masks[0]}
        )

    def frozen_actor(self) -> Actor:
        self._frozen = self._frozen or Frozen(self.actor.nets, self._masks["agents"] or {}, SparseSequence)
        return self._frozen.refreshed()

    def schedule(self, schedule: Schedule) -> None:
        self._schedule = schedule
        for part, rate in zip(self._parts, schedule.rates, strict=True):
            part.optimizer.param_groups[0]["lr"] = rate

    def rows(self, batch: Batch) -> Rows:
        assert isinstance(batch, EpisodeBatch)
        return arranged(batch.filled, self.seeds)

    def passes(self, batch: Batch, rows: Rows, wanted: Mapping[str, Wanted]) -> dict[str, Values]:
        one_hot, x = self._config.net.last_action, batch.obs
        if not one_hot:
            x = agent_inputs(self._config, self._spec, x, torch.full(x.shape[:3], -1))
        inputs = native.Inputs(
            plain(x.transpose(0, 1)), batch.actions.transpose(0, 1), rows.order, len(rows.now), one_hot
        )
        passes = [(self._agents[key], what) for key, what in wanted.items()]
        return dict(zip(wanted, native.together(inputs, *passes), strict=True))

    def mix(self, mixer: str, q: Tensor, state: Tensor, rows: Rows, at: Tensor) -> Tensor:
        return self._mix(mixer, q, state, rows, at, False)

    def _mix(self, mixer: str, q: Tensor, state: Tensor, rows: Rows, at: Tensor, evolving: bool) -> Tensor:
        """gradients of absent weights only when `evolving`."""
        states, of_seed = state.flatten(0, 1), len(rows.sizes) > 1
        parts = zip(q.split(rows.sizes, -2), at.split(rows.sizes), strict=True) if of_seed else [(q, at)]
        if mixer in self._mixers:
            pairs = zip(self._mixers[mixer], parts, strict=True)
            found = [own(values, states, where, dense_gradients=evolving) for own, (values, where) in pairs]
        else:
            modules = [part.networks[mixer] for part in self._parts]
            pairs = zip(modules, parts, strict=True)
            found = [module(values, states.index_select(0, where)) for module, (values, where) in pairs]
        return torch.cat(found, q.dim() - 2) if of_seed else found[0]

    def soft_mellowmax(
        self, q: Tensor, avail: Tensor, alpha: float | Tensor, omega: float | Tensor, q_select: Tensor | None = None
    ) -> Tensor:
        return native_targets.soft_mellowmax(q, avail, float(alpha), float(omega), q_select)

    def scalar(self, value: Tensor) -> float:
        return float(value)

    def returns(self, batch: Batch, rows: Rows, following: Tensor) -> Tensor:
        assert isinstance(batch, EpisodeBatch)
        c, gamma, given = self._config.target, self._config.train.gamma, (batch.reward, batch.terminated)
        if c.returns != "n_step":
            lambdas = torch.tensor(self._schedule.lambdas)
            one, each = len(set(self._schedule.lambdas)) == 1, len(batch.reward) // self.seeds
            lam = self._schedule.lambdas[0] if one else lambdas.repeat_interleave(each)
            return native_targets.td_lambda(batch.reward, following, batch.terminated, batch.filled, gamma, lam)
        value = torch.zeros_like(batch.reward).flatten().scatter(0, rows.transition, following).view_as(batch.reward)
        y = {
            True: lambda: targets.one_step(given[0], value, given[1], gamma),
            False: lambda: targets.n_step(given[0], value, given[1], batch.last, gamma, c.n_step),
        }
        by_stage = {stage: pick(y[stage](), rows.transition) for stage in set(self._schedule.delayed)}
        return self._each(rows, [by_stage[stage] for stage in self._schedule.delayed])

    def _each(self, rows: Rows, values: Sequence[Tensor]) -> Tensor:
        """Of values [R] for each seed, that seed's own part."""
        if all(value is values[0] for value in values):
            return values[0]
        return torch.cat([rows.split(value)[k] for k, value in enumerate(values)])

    def fit(
        self, mixer: str, values: Values, batch: Batch, rows: Rows, goals: Mapping[str, Goal], evolving: bool
    ) -> dict[str, Tensor]:
        assert isinstance(values, native.Values)
        (name, goal), *others = goals.items()
        if mixer in self._mixers and not others and goal.scale == 1.0:
            return self._fit_in_c(mixer, values, batch, rows, name, goal, evolving)
        q_taken = values.differentiable()[1]
        assert q_taken is not None
        q_tot = self._mix(mixer, q_taken, batch.state, rows, rows.now, evolving)
        return fitted(rows, goals, q_taken, q_tot)

    def _fit_in_c(
        self, mixer: str, values: native.Values, batch: Batch, rows: Rows, name: str, goal: Goal, evolving: bool
    ) -> dict[str, Tensor]:
        assert values.taken is not None
        states, gradients, means = batch.state.flatten(0, 1), [], []
        parts = rows.split(values.taken), rows.split(rows.now), rows.split(goal.y), rows.split_any(goal.weight)
        for own, q, at, y, weight in zip(self._mixers[mixer], *parts, strict=True):
            gradient, found = own.fit(q, states, at, y, weight, goal.low, dense_gradients=evolving)
            gradients.append(gradient)
            means.append(found)
        values.backward(None, torch.cat(gradients) if len(gradients) > 1 else gradients[0])
        names = (name, "q_taken", "q_tot", "target", *(["weight"] if goal.weighted else []))
        each = torch.stack(means, 1) if len(means) > 1 else means[0].unsqueeze(1)
        return dict(zip(names, each.unbind(), strict=False))

    def clear_gradients(self) -> None:
        for part in self._parts:
            for parameter in part.optimizer.param_groups[0]["params"]:
                parameter.grad = None

    def hand_out_gradients(self) -> None:
        hand_out(self._handed)

    def optimise(self, max_norm: float) -> Tensor:
        norms = [step.step(max_norm) for step in self._steps]
        return torch.stack(norms) if len(norms) > 1 else norms[0].unsqueeze(0)


def _connections(part: Parts) -> dict:
    return {p: mask for worn in part.masks.values() for p, mask in worn.connections().items()}
