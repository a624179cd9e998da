"""Networks in torch, on a CPU or a GPU: the engine that every other one is tested against.

On a GPU, where launches cost more than arithmetic, the mixers and the optimisers of all seeds are one batched pass too.
Letters as in engines/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mast_train.engines.base import Ascent, Parts, Schedule, Values, Wanted, fitted, of_seeds
from mast_train.engines.frozen import Frozen
from mast_train.engines.joint import chosen, hand_out, joined, lay_out
from mast_train.engines.optimise import Flat, InTurn
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch, Rows, pick, taken
from mast_train.experience.packed import Batch
from mast_train.experience.rollout import Actor
from mast_train.learning import targets
from mast_train.learning.losses import Goal
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.build import agent_inputs, encoded, previous
from mast_train.settings.config import Config


class TorchValues:
    """See base.Values."""

    def __init__(self, taken: Tensor | None, now: Tensor | None, after: Tensor | None) -> None:
        self.taken, self.now, self.after = taken, now, after


class TorchEngine:
    """See base.Engine."""

    one_stage = False
    packs = False
    flat = Flat

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        parts: Sequence[Parts],
        at_once: bool,
    ) -> None:
        """at_once: mixers and optimisers of all seeds in one pass, over batches in which each seed has as many
        transitions, padding included."""
        self._config, self._spec, self._parts = config, spec, list(parts)
        self._flat = self.flat(parts) if at_once else None
        self._optimise = self._flat or InTurn(parts)
        self._agents: dict[str, AgentNets | CriticNets] = {}
        self._stacked: dict[str, dict[str, Tensor]] = {}  # mixers' parameters of all seeds, where they run at once
        self._handed: list[tuple[Tensor, list[Tensor]]] = []  # a joint parameter, and the seeds' that get its gradient
        self._frozen: Frozen | None = None
        for key, module in parts[0].networks.items():
            if isinstance(module, AgentNets | CriticNets):
                self._agents[key] = module if len(parts) == 1 else self._joint_agents(key)
            elif self._flat and len(parts) > 1:
                self._stacked[key] = self._joint(key, self._wholes(key))
        device = parts[0].optimizer.param_groups[0]["params"][0].device
        self._lambdas, self._delayed = torch.zeros(2, len(parts), device=device).unbind()

    def _joint_agents(self, key: str) -> AgentNets | CriticNets:
        own = [part.networks[key] for part in self._parts]
        nets = joined([net for net in own if isinstance(net, AgentNets | CriticNets)], self._wholes(key))
        self._joint(key, dict(nets.named_parameters()))
        return nets

    def _own(self, key: str) -> dict[str, list[Tensor]]:
        """The seeds' parameters by name."""
        named = [dict(part.networks[key].named_parameters()) for part in self._parts]
        return {name: [parameters[name] for parameters in named] for name in named[0]}

    def _wholes(self, key: str) -> dict[str, Tensor]:
        """Every parameter of all seeds [K,...]."""
        if self._flat and key in self._parts[0].masks:
            return {name: self._flat.whole(key, name)[0] for name in self._own(key)}
        return {name: lay_out(own) for name, own in self._own(key).items()}

    def _joint(self, key: str, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of all seeds that autograd knows: their gradients go where the optimisers look for them."""
        learns = key in self._parts[0].masks
        joint = {
            name: p if isinstance(p, nn.Parameter) else p.detach().requires_grad_(learns)
            for name, p in parameters.items()
        }
        for name, own in self._own(key).items() if learns else ():
            if self._flat:
                joint[name].grad = self._flat.whole(key, name)[1].view_as(joint[name])
            else:
                self._handed.append((joint[name], own))
        return joint

    @property
    def version(self) -> int:
        return 0

    @property
    def seeds(self) -> int:
        return len(self._parts)

    @property
    def actor(self) -> AgentNets | CriticNets:
        """The online agents of all seeds."""
        return self._agents["agents"]

    def actor_of(self, seeds: Sequence[int]) -> AgentNets | CriticNets:
        return self.actor if list(seeds) == list(range(self.seeds)) else chosen(self.actor, seeds)

    def frozen_actor(self) -> Actor:
        self._frozen = self._frozen or Frozen(self.actor, {}, lambda nets, _: nets)
        return self._frozen.refreshed()

    def schedule(self, schedule: Schedule) -> None:
        self._optimise.set_rates(schedule.rates)
        self._lambdas.copy_(torch.tensor(schedule.lambdas), non_blocking=True)
        self._delayed.copy_(torch.tensor(schedule.delayed), non_blocking=True)

    def rows(self, batch: Batch) -> Rows:
        assert isinstance(batch, EpisodeBatch)
        return batch.all_rows(self.seeds) if self._flat else batch.rows(self.seeds)

    def passes(self, batch: Batch, rows: Rows, wanted: Mapping[str, Wanted]) -> dict[str, Values]:
        inputs, found = self.inputs(batch, rows), {}
        for key, what in wanted.items():
            with torch.set_grad_enabled(what.learning):
                q = self.unroll(key, inputs, batch)
                found[key] = TorchValues(
                    self._taken(key, q, batch, rows) if what.learning and not what.outputs else None,
                    pick(q if what.outputs else q.detach(), rows.step_major) if what.now else None,
                    pick(q.detach(), rows.next_step_major) if what.after else None,
                )
        return found

    def _taken(self, key: str, q: Tensor, batch: Batch, rows: Rows) -> Tensor:
        actions = pick(batch.actions, rows.transition)
        if isinstance(self._agents[key], CriticNets):
            return self.value(key, pick(q, rows.step_major), encoded(self._spec, actions), rows)
        return taken(q, rows, actions)

    def value(self, critics: str, memory: Tensor, actions: Tensor, rows: Rows) -> Tensor:
        nets = self._agents[critics]
        assert isinstance(nets, CriticNets)
        return nets.value(memory, actions, rows.sizes)

    def uniform(self, rows: Rows, *shape: int) -> Tensor:
        own = zip(self._parts, rows.sizes, strict=True)
        return torch.cat([torch.rand(size, *shape, generator=part.generator) for part, size in own]).to(rows.now.device)

    def inputs(self, batch: Batch, rows: Rows) -> Any:
        """What `unroll` reads: here what the agents see at every step [T+1,B,N,I]."""
        assert isinstance(batch, EpisodeBatch)
        last_action = previous(self._spec, batch.actions)
        return agent_inputs(self._config, self._spec, batch.obs, last_action).transpose(0, 1)

    def unroll(self, key: str, inputs: Any, batch: Batch) -> Tensor:
        """The values of all actions at every step [T+1,B,N,A], by the agents of that name."""
        return self._agents[key](inputs)[0]

    def mix(self, mixer: str, q: Tensor, state: Tensor, rows: Rows, at: Tensor) -> Tensor:
        states = state.flatten(0, 1).index_select(0, at)
        modules = [part.networks[mixer] for part in self._parts]
        if self.seeds == 1:
            return modules[0](q, states)
        if mixer not in self._stacked:
            parts = zip(modules, q.split(rows.sizes, -2), states.split(rows.sizes), strict=True)
            return torch.cat([module(*part) for module, *part in parts], q.dim() - 2)
        if not self._stacked[mixer]:
            return modules[0](q, states)
        axis = q.dim() - 2
        split = q.unflatten(axis, (self.seeds, -1)), states.unflatten(0, (self.seeds, -1))
        call = vmap(lambda own, *given: functional_call(modules[0], own, given), (0, axis, 0), axis)
        return call(self._stacked[mixer], *split).flatten(axis, axis + 1)

    def soft_mellowmax(
        self, q: Tensor, avail: Tensor, alpha: float | Tensor, omega: float | Tensor, q_select: Tensor | None = None
    ) -> Tensor:
        return targets.soft_mellowmax(q, avail, alpha, omega, q_select)

    def scalar(self, value: Tensor) -> Tensor:
        return value

    def returns(self, batch: Batch, rows: Rows, following: Tensor) -> Tensor:
        assert isinstance(batch, EpisodeBatch)
        c, gamma, reward, terminated = self._config.target, self._config.train.gamma, batch.reward, batch.terminated
        value = torch.zeros_like(reward).flatten().scatter(0, rows.transition, following).view_as(reward)
        of_episode = (reward.shape[0] // self.seeds, 1)
        if c.returns == "n_step":
            delayed = self._delayed.repeat_interleave(of_episode[0]).unsqueeze(1) > 0
            later = targets.n_step(reward, value, terminated, batch.last, gamma, c.n_step)
            y = torch.where(delayed, targets.one_step(reward, value, terminated, gamma), later)
        else:
            lambdas = self._lambdas.repeat_interleave(of_episode[0]).unsqueeze(1)
            y = targets.td_lambda(reward, value, terminated, batch.last, gamma, lambdas)
        return pick(y, rows.transition)

    def fit(
        self, mixer: str, values: Values, batch: Batch, rows: Rows, goals: Mapping[str, Goal], evolving: bool
    ) -> dict[str, Tensor]:
        assert values.taken is not None
        q_tot = self.mix(mixer, values.taken, batch.state, rows, rows.now)
        return fitted(rows, goals, values.taken, q_tot)

    def ascend(self, ascent: Ascent, values: Mapping[str, Values], batch: Batch, rows: Rows) -> dict[str, Tensor]:
        out, memory = values[ascent.agents].now, values[ascent.critics].now
        assert out is not None and memory is not None
        q = self.value(ascent.critics, memory, ascent.actions(out), rows)
        value = of_seeds(rows, self.mix(ascent.mixer, q, batch.state, rows, rows.now))
        penalty = ascent.penalty * of_seeds(rows, out.square())
        parameters = list(self._agents[ascent.agents].parameters())
        gradients = torch.autograd.grad((penalty - value).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is None:  # laid out like the weight: torch's fused Adam reads both in one order
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad += gradient
        return {"policy_value": value.detach(), "policy_penalty": penalty.detach()}

    def clear_gradients(self) -> None:
        self._optimise.clear()

    def hand_out_gradients(self) -> None:
        hand_out(self._handed)

    def optimise(self, max_norm: float) -> Tensor:
        return self._optimise.step(max_norm)


def at_once(config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> TorchEngine:
    """All seeds' mixers and optimisers in one pass."""
    return TorchEngine(config, spec, parts, at_once=True)


def in_turn(config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> TorchEngine:
    """Seed by seed, but for the agents."""
    return TorchEngine(config, spec, parts, at_once=False)
