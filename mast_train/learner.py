"""The only place that steps optimisers, targets and masks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mast_runtime.flops import Matrix, agent_counts
from mast_train import targets
from mast_train.config import Config
from mast_train.envs.base import EnvSpec
from mast_train.episodes import EpisodeBatch, Rows, pick, taken
from mast_train.errors import UserError
from mast_train.flops import Model, QmixCounts
from mast_train.losses import td_loss
from mast_train.mixers import QMIX, VDN
from mast_train.native import SparseSequence, available, status
from mast_train.native import targets as native_targets
from mast_train.native.mixer import fast_mixer
from mast_train.native.optimizer import SparseStep
from mast_train.nets import WEIGHTS, AgentNets
from mast_train.sparse.masks import MaskedLayer, Masks
from mast_train.sparse.schedule import drop_fraction, evolves_at

MIXERS = {"qmix": lambda spec, config: QMIX(spec.n_agents, spec.state_dim, config.mixer), "vdn": lambda *_: VDN()}
"""algorithm -> mixing network."""


def stream_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each random stream of a run, so that no two streams of neighbouring seeds coincide."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def agent_inputs(config: Config, spec: EnvSpec, obs: Tensor, last_action: Tensor) -> Tensor:
    """obs [...,N,O], last_action [...,N] int64 (-1: none yet) -> obs ++ onehot(last action) [++ onehot(id)]."""
    parts = [obs]
    if config.net.last_action:
        parts.append((last_action.unsqueeze(-1) == torch.arange(spec.n_actions, device=obs.device)).to(obs.dtype))
    if config.net.shared:
        identity = torch.eye(spec.n_agents, device=obs.device)
        parts.append(identity.expand(*obs.shape[:-1], spec.n_agents))
    return torch.cat(parts, -1) if len(parts) > 1 else obs


def input_dim(config: Config, spec: EnvSpec) -> int:
    """Width of `agent_inputs`."""
    return spec.obs_dim + spec.n_actions * config.net.last_action + spec.n_agents * config.net.shared


def agent_nets(config: Config, spec: EnvSpec) -> AgentNets:
    """The agents' networks: one group per agent, or one shared group."""
    return AgentNets(
        1 if config.net.shared else spec.n_agents, input_dim(config, spec), config.net.hidden, spec.n_actions
    )


def load_agents(config: Config, spec: EnvSpec, tensors: Mapping[str, Tensor]) -> AgentNets:
    """The agents' networks of a snapshot: tensors named "agents.*"."""
    nets = agent_nets(config, spec)
    nets.load_state_dict({name.removeprefix("agents."): t for name, t in tensors.items() if name.startswith("agents.")})
    return nets


def agent_layers(config: Config) -> list[MaskedLayer]:
    """The agents' masked layers with their block rows."""
    block = config.sparse.block
    return [
        MaskedLayer("fc1_weight", block.fc1),
        MaskedLayer("weight_ih", block.gru, 3),
        MaskedLayer("weight_hh", block.gru, 3),
        MaskedLayer("fc2_weight", block.fc2),
    ]


def use_native(config: Config, device: torch.device) -> bool:
    """Whether the agents' sequences run in C: `kernel` is native, or auto and it can. Raises UserError."""
    possible = available() and device.type == "cpu"
    if config.kernel == "native" and not possible:
        raise UserError(f"kernel 'native' needs the C extension and the CPU; {status()}; use kernel = 'torch'")
    return possible and config.kernel != "torch"


class Learner:
    """Online and target networks, their masks and the optimiser; `update` is one gradient step."""

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device) -> None:
        self.config, self.spec, self.device = config, spec, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "weights"))
            self.agents = agent_nets(config, spec).to(device)
            self.mixer: nn.Module = MIXERS[config.algorithm](spec, config).to(device)
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "topology"))
        sparse = config.sparse
        self.masks = {
            "agents": Masks(
                self.agents,
                agent_layers(config),
                sparse.agent_sparsity,
                sparse.allocation,
                sparse.rescale_init,
                self.generator,
            ),
            "mixer": Masks(
                self.mixer,
                [MaskedLayer(name, sparse.block.mixer) for name, p in self.mixer.named_parameters() if p.dim() == 2],
                sparse.mixer_sparsity,
                sparse.allocation,
                sparse.rescale_init,
                self.generator,
            ),
        }
        self.target_agents, self.target_mixer = copy.deepcopy(self.agents), copy.deepcopy(self.mixer)
        self.parameters = [*self.agents.parameters(), *self.mixer.parameters()]
        for parameter in itertools.chain(self.target_agents.parameters(), self.target_mixer.parameters()):
            parameter.requires_grad_(False)
        self.optimizer = _optimizer(config, self.parameters)
        self.updates = 0
        native = use_native(config, device)
        self._online = SparseSequence(self.agents, self.masks["agents"].state_dict()) if native else None
        self._target = SparseSequence(self.target_agents, None) if native else None
        self._mix = fast_mixer(self.mixer, self.masks["mixer"].state_dict()) if native else self.mixer
        self._target_mix = fast_mixer(self.target_mixer, None) if native else self.target_mixer
        connections = {p: mask for masks in self.masks.values() for p, mask in masks.connections().items()}
        self._sparse_step = SparseStep(self.optimizer, connections) if native else None

    @property
    def actor(self) -> AgentNets | SparseSequence:
        """What acts: `step` on the online agents, in C where that is possible."""
        return self.agents if self._online is None else self._online

    @property
    def _pure(self) -> Any:
        """The targets' pure functions, some of them in C where that is possible."""
        return targets if self._online is None else native_targets

    def _inputs(self, batch: EpisodeBatch) -> tuple[Tensor, ...]:
        """What the agents' networks read, for all steps: x, or where they run in C the parts it is made of."""
        last_action = torch.cat([torch.full_like(batch.actions[:, :1], -1), batch.actions], 1)
        if self._online is None or not self.config.net.last_action:
            return (agent_inputs(self.config, self.spec, batch.obs, last_action).transpose(0, 1),)
        return batch.obs.transpose(0, 1), last_action.transpose(0, 1), batch.lengths + 1

    def _sequence(self, inputs: tuple[Tensor, ...], evolving: bool) -> Tensor:
        """Online action values [T+1,B,N,A]; gradients of absent weights only when `evolving`."""
        return (
            self.agents(*inputs)[0] if self._online is None else self._online.forward(*inputs, dense_gradients=evolving)
        )

    def _target_sequence(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.target_agents(*inputs)[0] if self._target is None else self._target.forward(*inputs)

    def update(self, batch: EpisodeBatch, env_steps: int) -> dict[str, Tensor]:
        """One step on a batch of episodes; returns scalars (still on the device) for the log."""
        config = self.config
        self.updates += 1
        evolving = self._evolving(env_steps)
        inputs, rows = self._inputs(batch), batch.rows
        q = self._sequence(inputs, evolving)
        q_taken = taken(q, rows, pick(batch.actions, rows.transition))
        mixer = self.mixer if evolving else self._mix
        q_tot = mixer(q_taken, pick(batch.state, rows.now))
        with torch.no_grad():
            y = pick(self._targets(batch, rows, inputs, q.detach(), env_steps), rows.transition)
        loss = td_loss(q_tot, y)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        grad_norm, changed = self._step(env_steps / config.train.total_steps, evolving)
        if self.updates % config.train.target_interval == 0:
            self.sync_targets()
        return {
            "loss": loss.detach(),
            "grad_norm": grad_norm,
            "q_taken": q_taken.detach().mean(),
            "q_tot": q_tot.detach().mean(),
            "target": y.mean(),
            "changed": torch.tensor(float(changed)),
        }

    def _targets(
        self, batch: EpisodeBatch, rows: Rows, inputs: tuple[Tensor, ...], q_online: Tensor, env_steps: int
    ) -> Tensor:
        """y [B,T]: reduced target values mixed on every next state, then one-step, n-step or TD(lambda) returns."""
        c, gamma, after = self.config.target, self.config.train.gamma, rows.next_step_major
        q, select = pick(self._target_sequence(inputs), after), pick(q_online, after) if c.double_q else None
        following = self._reduce(q, pick(batch.avail_actions, rows.now + 1), select)
        mixed = self._target_mix(following, pick(batch.state, rows.now + 1))
        value = torch.zeros_like(batch.reward).flatten().scatter(0, rows.transition, mixed).view_as(batch.reward)
        delayed = env_steps < c.start * self.config.train.total_steps
        if c.returns == "one_step" or delayed:
            return targets.one_step(batch.reward, value, batch.terminated, gamma)
        if c.returns == "n_step":
            return targets.n_step(batch.reward, value, batch.terminated, batch.last, gamma, c.n_step)
        return self._pure.td_lambda(batch.reward, value, batch.terminated, batch.last, gamma, c.td_lambda)

    def _reduce(self, q: Tensor, avail: Tensor, select: Tensor | None) -> Tensor:
        """Per-agent target values by the configured operator: q, select [R,N,A], avail bool [R,N,A] -> [R,N]."""
        c = self.config.target
        if c.operator == "max":
            return targets.greedy_value(q, avail, select)
        if c.operator == "softmax":
            return targets.softmax_value(q, avail, c.alpha, select)
        if c.operator == "mellowmax":
            return targets.mellowmax(q, avail, c.omega)
        return self._pure.soft_mellowmax(q, avail, c.alpha, c.omega, select)

    def _evolving(self, env_steps: int) -> bool:
        sparse = self.config.sparse
        progress = env_steps / self.config.train.total_steps
        wanted = sparse.grow != "none" and any(masks.layers for masks in self.masks.values())
        return wanted and evolves_at(self.updates, sparse.update_interval, progress, sparse.stop_fraction)

    def _step(self, progress: float, evolving: bool) -> tuple[Tensor, int]:
        sparse = self.config.sparse
        gradients = {key: masks.dense_gradients() if evolving else {} for key, masks in self.masks.items()}
        grad_norm = self._step_optimizer()
        changed = 0
        if evolving:
            fraction = drop_fraction(progress, sparse.drop_fraction, sparse.stop_fraction)
            for key, masks in self.masks.items():
                changed += masks.evolve(sparse.grow, gradients[key], fraction, self.generator, self.optimizer)
        return grad_norm, changed

    def _step_optimizer(self) -> Tensor:
        """Mask, clip, step; returns the gradients' norm before clipping."""
        if self._sparse_step is not None:
            return self._sparse_step.step(self.config.train.grad_clip)
        for masks in self.masks.values():
            masks.apply_to_gradients()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.config.train.grad_clip)
        self.optimizer.step()
        return grad_norm

    @torch.no_grad()
    def sync_targets(self) -> None:
        """Copy the online networks, masks and all, into the target networks."""
        self.target_agents.load_state_dict(self.agents.state_dict())
        self.target_mixer.load_state_dict(self.mixer.state_dict())

    def sparsity(self) -> dict[str, float]:
        """Share of absent weights per masked module (biases are not counted)."""
        return {key: masks.sparsity for key, masks in self.masks.items()}

    def _modules(self) -> dict[str, nn.Module]:
        return {"agents": self.agents, "mixer": self.mixer}

    def counts(self) -> Model:
        """The connections of every layer, for the count of training FLOPs (mast_train.flops)."""
        groups, masks, nets = self.agents.groups, self.masks["agents"].state_dict(), self.agents

        def nnz(group: int) -> dict[str, int]:
            weights = {
                name: masks.get(name, torch.ones_like(getattr(nets, name), dtype=torch.bool)) for name in WEIGHTS
            }
            return {name.removesuffix("_weight"): int(mask[group].sum()) for name, mask in weights.items()}

        agents = [agent_counts(nets.inputs, nets.n_actions, nets.hidden, nnz=nnz(g)) for g in range(groups)]
        agents = agents * (self.spec.n_agents // groups)
        if self.config.algorithm == "vdn":
            return Model(agents)
        kept = self.masks["mixer"].state_dict()
        matrices = {
            name.removesuffix(".weight"): Matrix(
                weight.shape[0], weight.shape[1], int(kept[name].sum()) if name in kept else weight.numel()
            )
            for name, weight in self.mixer.named_parameters()
            if weight.dim() == 2
        }
        return Model(agents, QmixCounts(**matrices))

    def policy_state(self) -> dict[str, Tensor]:
        """The agents' weights and masks: what an export needs."""
        state = {f"agents.{name}": tensor.detach() for name, tensor in self.agents.state_dict().items()}
        return state | {f"masks.agents.{name}": mask for name, mask in self.masks["agents"].state_dict().items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor that training depends on, flat, for a safetensors file."""
        state: dict[str, Tensor] = {}
        targets_ = {"target_agents": self.target_agents, "target_mixer": self.target_mixer}
        for key, module in {**self._modules(), **targets_}.items():
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
        targets_ = {"target_agents": self.target_agents, "target_mixer": self.target_mixer}
        for key, module in {**self._modules(), **targets_}.items():
            _load_module(key, module, groups.get(key, {}))
        for key, masks in self.masks.items():
            prefix = f"{key}."
            given = {n.removeprefix(prefix): t for n, t in groups.get("masks", {}).items() if n.startswith(prefix)}
            masks.load_state_dict(given)
        for name, tensor in groups.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            self.optimizer.state[parameter][key] = tensor.to(parameter.device).clone()
        self.generator.set_state(state["generator"])
        self.updates = int(state["updates"])


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
