"""The only place that steps optimisers, targets and masks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mast_train.engines.engine import Execution, OptimizerStep, use_graph, use_native
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.learning.counting import count_agents, count_mixer
from mast_train.learning.flops import Model
from mast_train.learning.update import Cohort
from mast_train.native import SparseSequence
from mast_train.networks.agents import AgentNets
from mast_train.networks.build import Factored, factored, new_masks, unrestricted
from mast_train.settings.config import Config
from mast_train.sparse.schedule import drop_fraction, evolves_at


def stream_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each random stream of a run, so that no two streams of neighbouring seeds coincide."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Learner:
    """Online and target networks, their masks and the optimiser; `update` is one gradient step."""

    def __init__(
        self, config: Config, spec: EnvSpec, device: torch.device, start: Mapping[str, Tensor] | None = None
    ) -> None:
        """start: masks to wear instead of random ones, and weights where it has them, as in `state_dict`.

        Raises ValueError where they do not fit.
        """
        self.config, self.spec, self.device = config, spec, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "weights"))
            self.agents, self.mixer = factored(config, spec)
            self.central = unrestricted(config, spec)
        for module in self._modules().values():
            module.to(device)
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "topology"))
        self.masks = {
            key: new_masks(config, module, self.generator, None if start is None else part(start, f"masks.{key}."))
            for key, module in self._modules().items()
        }
        if start is not None and part(start, "agents."):
            for key, module in self._modules().items():
                _load_module(key, module, part(start, f"{key}."))
        self.target_agents, self.target_mixer = copy.deepcopy(self._critic)
        self.parameters = [parameter for module in self._modules().values() for parameter in module.parameters()]
        for module in self._target_modules().values():
            module.requires_grad_(False)
        self.native, self.graph = use_native(config, device), use_graph(config, device)
        self.optimizer = _optimizer(config, self.parameters, capturable=self.graph)
        self.updates = 0
        self.warm = False  # whether the optimiser has stepped in this process: only then can its step be recorded
        self.settle()

    def settle(self) -> None:
        """Begin anew what remembers where the parameters and masks lie: now, and whenever they were moved."""
        self.optimizer_step = OptimizerStep(self.optimizer, self.masks, self.native)
        self.alone = Cohort([self])

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All of them by name: what learns, and the target networks."""
        return {**self._modules(), **self._target_modules()}

    @property
    def execution(self) -> Execution:
        """Where they run when they run alone."""
        return self.alone.execution

    @property
    def actor(self) -> AgentNets | SparseSequence:
        """What acts: `step` on the online agents, in C where that is possible."""
        return self.execution.actor

    @property
    def _critic(self) -> Factored:
        """What the target networks copy: the unrestricted Q* where there is one."""
        return self.central or Factored(self.agents, self.mixer)

    def update(self, batch: EpisodeBatch, env_steps: int) -> dict[str, Tensor]:
        """One step on a batch of episodes; returns scalars (still on the device) for the log."""
        return self.alone.update(batch, [env_steps])[0]

    def stage(self, env_steps: int) -> tuple[bool, bool]:
        """Whether the next update evolves the topology, and whether the targets are still one-step ones."""
        sparse, total = self.config.sparse, self.config.train.total_steps
        wanted = sparse.grow != "none" and any(masks.layers for masks in self.masks.values())
        at = evolves_at(self.updates + 1, sparse.update_interval, env_steps / total, sparse.stop_fraction)
        return wanted and at, env_steps < self.config.target.start * total

    def anneal(self, env_steps: int) -> None:
        """The learning rate of this point of the run: linear from `lr` to its share `lr_end_factor` at the end."""
        c = self.config.train
        rate = c.lr * (1.0 + min(1.0, env_steps / c.total_steps) * (c.lr_end_factor - 1.0))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a recorded step reads the rate from where it lies
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def optimise(self) -> dict[str, Tensor]:
        """The optimiser's step, once the gradients are there; scalars for the log."""
        self.warm = True
        norm = self.optimizer_step(self.config.train.grad_clip)
        return {"grad_norm": norm, "changed": torch.zeros((), device=self.device)}

    def evolve(self, env_steps: int) -> dict[str, Tensor]:
        """`optimise`, and then a change of the topology by the gradients before it. The log's "idle" is the share of
        connections that carried nothing."""
        sparse, progress = self.config.sparse, env_steps / self.config.train.total_steps
        gradients = {key: masks.dense_gradients() for key, masks in self.masks.items()}
        idle, judged = map(sum, zip(*(masks.idle(gradients[key]) for key, masks in self.masks.items()), strict=True))
        log = self.optimise() | {"idle": torch.tensor(idle / max(1, judged))}
        fraction, changed = drop_fraction(progress, sparse.drop_fraction, sparse.stop_fraction), 0
        for key, masks in self.masks.items():
            changed += masks.evolve(sparse.drop, sparse.grow, gradients[key], fraction, self.generator, self.optimizer)
        return log | {"changed": torch.tensor(float(changed), device=self.device)}

    def advance(self) -> None:
        """Count an update; the target networks follow where it is their turn."""
        self.updates += 1
        if self.updates % self.config.train.target_interval == 0:
            self.sync_targets()

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
        """The connections of every layer, for the count of training FLOPs (mast_train.learning.flops)."""
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
        for key, module in self.networks.items():
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
        for key, module in self.networks.items():
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


def _optimizer(config: Config, parameters: list[nn.Parameter], capturable: bool) -> torch.optim.Optimizer:
    rate = torch.tensor(config.train.lr, device=parameters[0].device) if capturable else config.train.lr
    if config.train.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, eps=1e-5, fused=True, capturable=capturable)
    return torch.optim.RMSprop(parameters, lr=rate, alpha=0.99, eps=1e-5, capturable=capturable)
