"""The only place that steps optimisers, targets and masks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mast_train import targets
from mast_train.config import Config
from mast_train.counting import count_agents, count_mixer
from mast_train.envs.base import EnvSpec
from mast_train.episodes import EpisodeBatch, Rows, pick, taken
from mast_train.execution import Execution, Inputs, use_native
from mast_train.flops import Model
from mast_train.losses import central_weight, optimistic_weight, td_loss
from mast_train.native import SparseSequence
from mast_train.nets import AgentNets
from mast_train.networks import Factored, factored, new_masks, unrestricted
from mast_train.sparse.schedule import drop_fraction, evolves_at


def stream_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each random stream of a run, so that no two streams of neighbouring seeds coincide."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Learner:
    """Online and target networks, their masks and the optimiser; `update` is one gradient step."""

    def __init__(
        self, config: Config, spec: EnvSpec, device: torch.device, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        """masks: what to wear from the start instead of random ones, named as in `state_dict`. Raises ValueError."""
        self.config, self.spec, self.device = config, spec, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "weights"))
            self.agents, self.mixer = factored(config, spec)
            self.central = unrestricted(config, spec)
        for module in self._modules().values():
            module.to(device)
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "topology"))
        self.masks = {
            key: new_masks(config, module, self.generator, None if masks is None else part(masks, f"masks.{key}."))
            for key, module in self._modules().items()
        }
        self.target_agents, self.target_mixer = copy.deepcopy(self._critic)
        self.parameters = [parameter for module in self._modules().values() for parameter in module.parameters()]
        for module in self._target_modules().values():
            module.requires_grad_(False)
        self.optimizer = _optimizer(config, self.parameters)
        self.updates = 0
        networks = {**self._modules(), **self._target_modules()}
        self.networks = Execution(config, spec, networks, self.masks, self.optimizer, use_native(config, device))

    @property
    def actor(self) -> AgentNets | SparseSequence:
        """What acts: `step` on the online agents, in C where that is possible."""
        return self.networks.actor

    def frozen_actor(self) -> AgentNets | SparseSequence:
        """A copy of it as it is now, which the next call brings up to date; updates leave it alone."""
        return self.networks.frozen_actor()

    @property
    def _critic(self) -> Factored:
        """What the target networks copy: the unrestricted Q* where there is one."""
        return self.central or Factored(self.agents, self.mixer)

    def update(self, batch: EpisodeBatch, env_steps: int) -> dict[str, Tensor]:
        """One step on a batch of episodes; returns scalars (still on the device) for the log."""
        self.updates += 1
        evolving, rows, networks = self._evolving(env_steps), batch.rows, self.networks
        inputs = networks.inputs(batch)
        q = networks.sequence("agents", inputs, evolving)
        q_taken = taken(q, rows, pick(batch.actions, rows.transition))
        q_tot = networks.mix("mixer", q_taken, pick(batch.state, rows.now), evolving)
        with torch.no_grad():
            q_target = networks.sequence("target_agents", inputs)
            y = pick(self._targets(batch, rows, q_target, q.detach(), env_steps), rows.transition)
            weight = self._weight(batch, rows, q_tot, y, q_target, q)
        further = self._further_losses(batch, rows, inputs, q_tot, y, evolving)
        loss = td_loss(q_tot, y, weight) + sum(further.values())
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        grad_norm, changed = self._step(env_steps / self.config.train.total_steps, evolving)
        if self.updates % self.config.train.target_interval == 0:
            self.sync_targets()
        if weight is not None:
            further["weight"] = weight.mean()
        return {
            "loss": loss.detach(),
            **{name: value.detach() for name, value in further.items()},
            "grad_norm": grad_norm,
            "q_taken": q_taken.detach().mean(),
            "q_tot": q_tot.detach().mean(),
            "target": y.mean(),
            "changed": torch.tensor(float(changed)),
        }

    def _further_losses(
        self, batch: EpisodeBatch, rows: Rows, inputs: Inputs, q_tot: Tensor, y: Tensor, evolving: bool
    ) -> dict[str, Tensor]:
        """What the algorithm adds to the TD loss: WQMIX the unweighted one of Q*, RES the distance to the returns."""
        losses = {}
        if self.central is not None:
            q = self.networks.sequence("central_agents", inputs, evolving)
            q_taken = taken(q, rows, pick(batch.actions, rows.transition))
            q_central = self.networks.mix("central_mixer", q_taken, pick(batch.state, rows.now), evolving)
            losses["central_loss"] = td_loss(q_central, y)
        if self.config.algorithm == "res":
            returns = targets.episode_return(batch.reward, batch.terminated, batch.last, self.config.train.gamma)
            losses["return_loss"] = self.config.res.return_weight * td_loss(q_tot, pick(returns, rows.transition))
        return losses

    def _targets(self, batch: EpisodeBatch, rows: Rows, q: Tensor, q_online: Tensor, env_steps: int) -> Tensor:
        """y [B,T]: target values q, q_online [T+1,B,N,A] reduced and mixed on every next state, then one-step, n-step
        or TD(lambda) returns."""
        c, gamma, after = self.config.target, self.config.train.gamma, rows.next_step_major
        values = self._joint_softmax if self.config.algorithm == "res" else self._mixed
        avail, state = pick(batch.avail_actions, rows.now + 1), pick(batch.state, rows.now + 1)
        select = pick(q_online, after) if self._online_selects else None
        following = values(pick(q, after), avail, select, state)
        value = torch.zeros_like(batch.reward).flatten().scatter(0, rows.transition, following).view_as(batch.reward)
        delayed = env_steps < c.start * self.config.train.total_steps
        if c.returns == "one_step" or delayed:
            return targets.one_step(batch.reward, value, batch.terminated, gamma)
        if c.returns == "n_step":
            return targets.n_step(batch.reward, value, batch.terminated, batch.last, gamma, c.n_step)
        return self.networks.pure.td_lambda(batch.reward, value, batch.terminated, batch.last, gamma, c.td_lambda)

    def _weight(
        self, batch: EpisodeBatch, rows: Rows, q_tot: Tensor, y: Tensor, q_target: Tensor, q: Tensor
    ) -> Tensor | None:
        """WQMIX's weight of every real transition [R], None for the other algorithms."""
        low = self.config.wqmix.weight
        if self.config.algorithm == "owqmix":
            return optimistic_weight(q_tot, y, low)
        if self.config.algorithm != "cwqmix":
            return None
        greedy = targets.greedy_actions(pick(q, rows.step_major), pick(batch.avail_actions, rows.now))
        values = targets.value_of(pick(q_target, rows.step_major), greedy)
        q_greedy = self.networks.mix("target_mixer", values, pick(batch.state, rows.now))
        return central_weight(y, q_greedy, (pick(batch.actions, rows.transition) == greedy).all(-1), low)

    @property
    def _online_selects(self) -> bool:
        """Whether the online values choose or weigh actions. Beside Q* they always do: an unrestricted mixer gives the
        order of its agents' values no meaning."""
        return self.config.target.double_q or self.central is not None or self.config.algorithm == "res"

    def _mixed(self, q: Tensor, avail: Tensor, select: Tensor | None, state: Tensor) -> Tensor:
        """The target mixer on every agent's reduced values: q, select [R,N,A], avail bool, state [R,S] -> [R]."""
        return self.networks.mix("target_mixer", self._reduce(q, avail, select), state)

    def _joint_softmax(self, q: Tensor, avail: Tensor, select: Tensor | None, state: Tensor) -> Tensor:
        """RES's operator, as _mixed: target Q_tot near the greedy joint action, weighted by the softmax of Q_tot."""
        assert select is not None
        greedy = targets.greedy_actions(select, avail)
        online = self.networks.mix("mixer", targets.neighbours(select, greedy), state)
        target = self.networks.mix("target_mixer", targets.neighbours(q, greedy), state)
        return targets.softmax_value(target.t(), avail.flatten(1), self.config.res.beta, online.t())

    def _reduce(self, q: Tensor, avail: Tensor, select: Tensor | None) -> Tensor:
        """Per-agent target values by the configured operator: q, select [R,N,A], avail bool [R,N,A] -> [R,N]."""
        c = self.config.target
        unit = float(targets.spread(q, avail)) if c.scale == "spread" else 1.0
        if c.operator == "max":
            return targets.greedy_value(q, avail, select)
        if c.operator == "softmax":
            return targets.softmax_value(q, avail, c.alpha / unit, select)
        if c.operator == "mellowmax":
            return targets.mellowmax(q, avail, c.omega / unit)
        return self.networks.pure.soft_mellowmax(q, avail, c.alpha / unit, c.omega / unit, select)

    def _evolving(self, env_steps: int) -> bool:
        sparse = self.config.sparse
        progress = env_steps / self.config.train.total_steps
        wanted = sparse.grow != "none" and any(masks.layers for masks in self.masks.values())
        return wanted and evolves_at(self.updates, sparse.update_interval, progress, sparse.stop_fraction)

    def _step(self, progress: float, evolving: bool) -> tuple[Tensor, int]:
        sparse = self.config.sparse
        gradients = {key: masks.dense_gradients() if evolving else {} for key, masks in self.masks.items()}
        grad_norm = self.networks.step(self.config.train.grad_clip)
        changed = 0
        if evolving:
            fraction = drop_fraction(progress, sparse.drop_fraction, sparse.stop_fraction)
            for key, masks in self.masks.items():
                changed += masks.evolve(sparse.grow, gradients[key], fraction, self.generator, self.optimizer)
        return grad_norm, changed

    @torch.no_grad()
    def sync_targets(self) -> None:
        """Copy the online networks, masks and all, into the target networks."""
        for target, online in zip(self._target_modules().values(), self._critic, strict=True):
            target.load_state_dict(online.state_dict())

    def sparsity(self) -> dict[str, float]:
        """Share of absent weights per masked module (biases are not counted)."""
        return {key: masks.sparsity for key, masks in self.masks.items()}

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"agents": self.agents, "mixer": self.mixer}
        if self.central is not None:
            modules |= {"central_agents": self.central.agents, "central_mixer": self.central.mixer}
        return modules

    def _target_modules(self) -> dict[str, nn.Module]:
        return {"target_agents": self.target_agents, "target_mixer": self.target_mixer}

    def counts(self) -> Model:
        """The connections of every layer, for the count of training FLOPs (mast_train.flops)."""
        kept, n = {key: masks.state_dict() for key, masks in self.masks.items()}, self.spec.n_agents
        model = Model(count_agents(self.agents, kept["agents"], n), count_mixer(self.mixer, kept["mixer"]))
        if self.central is None:
            return model
        return replace(
            model,
            central_agents=count_agents(self.central.agents, kept["central_agents"], n),
            central_mixer=count_mixer(self.central.mixer, kept["central_mixer"]),
        )

    def policy_state(self) -> dict[str, Tensor]:
        """The agents' weights and masks: what an export needs."""
        state = {f"agents.{name}": tensor.detach() for name, tensor in self.agents.state_dict().items()}
        return state | {f"masks.agents.{name}": mask for name, mask in self.masks["agents"].state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor that training depends on, flat, for a safetensors file."""
        state: dict[str, Tensor] = {}
        for key, module in {**self._modules(), **self._target_modules()}.items():
            state |= {f"{key}.{name}": tensor for name, tensor in module.state_dict().items()}
        for key, masks in self.masks.items():
            state |= {f"masks.{key}.{name}": tensor for name, tensor in masks.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
        state["generator"] = self.generator.get_state()
        state["updates"] = torch.tensor(self.updates)
        return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`. Raises ValueError naming what does not fit this configuration."""
        groups: dict[str, dict[str, Any]] = {}
        for name, tensor in state.items():
            section, _, rest = name.partition(".")
            groups.setdefault(section, {})[rest] = tensor
        for key, module in {**self._modules(), **self._target_modules()}.items():
            _load_module(key, module, groups.get(key, {}))
        for key, masks in self.masks.items():
            masks.load_state_dict(part(state, f"masks.{key}."))
        for name, tensor in groups.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            self.optimizer.state[parameter][key] = tensor.to(parameter.device).clone()
        self.generator.set_state(state["generator"])
        self.updates = int(state["updates"])


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_module(key: str, module: nn.Module, given: dict[str, Tensor]) -> None:
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in given:
            raise ValueError(f"the checkpoint has no {key}.{name}")
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)} in the checkpoint, {list(tensor.shape)} in this configuration"
            raise ValueError(f"{key}.{name} has shape {shapes}")
    module.load_state_dict(given)


def _optimizer(config: Config, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.train.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.train.lr, eps=1e-5, fused=True)
    return torch.optim.RMSprop(parameters, lr=config.train.lr, alpha=0.99, eps=1e-5)
