"""A learner's state: networks, targets, masks and optimiser."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from mast_train.algorithms import ALGORITHMS, algorithm
from mast_train.algorithms.base import Algorithm
from mast_train.engines.base import Parts
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.scaling import Scaling, Statistics
from mast_train.learning.counting import count_agents, count_mixer
from mast_train.learning.flops import Model
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.build import new_masks
from mast_train.settings.config import Config
from mast_train.settings.errors import UserError
from mast_train.sparse.memory import copy_each, stacked
from mast_train.sparse.schedule import evolves_at


def stream_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each random stream of a run, so that no two streams of neighbouring seeds coincide.

    Raises UserError for a negative seed.
    """
    if seed < 0:
        raise UserError(f"seed = {seed}: expected a whole number, 0 or above")
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


class Stage(NamedTuple):
    """The learning rate, linear from `lr` to its share `lr_end_factor` at the end of the run; the targets' lambda, 0
    before T_0 (paper, section 4.1); and whether that is still to come."""

    rate: float
    lam: float
    delayed: bool


class Learner:
    """What learns: online and target networks, their masks, the optimiser's state, how many updates there were, and
    with env.normalise the statistics of what was seen.

    learning/update.py takes the steps.
    """

    def __init__(
        self, config: Config, spec: EnvSpec, device: torch.device, start: Mapping[str, Tensor] | None = None
    ) -> None:
        """start: masks to wear instead of random ones, and weights where it has them, as in `state_dict`.

        Raises ValueError where they do not fit, UserError for an algorithm that is not for the spec's kind of actions.
        """
        self.config, self.spec, self.device = config, spec, device
        self.algorithm = algorithm(config.algorithm)(config)
        self._check_kind()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, "weights"))
            self.online = self.algorithm.networks(spec)
        for module in self.online.values():
            module.to(device)
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "topology"))
        running = config.env.normalise == "running"
        self.statistics = Statistics(spec, config.net.shared, device) if running else None
        self.masks = {
            key: new_masks(config, module, self.generator, None if start is None else part(start, f"masks.{key}."))
            for key, module in self.online.items()
        }
        if start is not None and part(start, "agents."):
            for key, module in self.online.items():
                _load_module(key, module, part(start, f"{key}."))
            if self.statistics:
                self.statistics.load_state_dict(part(start, "statistics."))
        self.targets = {name: copy.deepcopy(self.online[source]) for name, source in self.algorithm.copies.items()}
        self.parameters = [parameter for module in self.online.values() for parameter in module.parameters()]
        for module in self.targets.values():
            module.requires_grad_(False)
        self.optimizer = _optimizer(config, _parties(self.algorithm, self.online))
        self.updates = 0

    def _check_kind(self) -> None:
        kind, spec = "discrete" if self.spec.box is None else "continuous", self.spec
        if kind not in self.algorithm.actions:
            others = [name for name in ALGORITHMS if kind in algorithm(name).actions]
            raise UserError(
                f"algorithm {self.config.algorithm!r} is for {' and '.join(self.algorithm.actions)} actions, those of "
                f"{spec.env} {spec.map} are {kind}; use --algorithm {' or '.join(others)}"
            )

    @property
    def agents(self) -> AgentNets | CriticNets:
        """The networks that act."""
        return cast(AgentNets | CriticNets, self.online["agents"])

    @property
    def mixer(self) -> nn.Module:
        """What makes their values the team's."""
        return self.online["mixer"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All of them by name: what learns, and the target networks."""
        return {**self.online, **self.targets}

    @property
    def parts(self) -> Parts:
        """What an engine works on."""
        return Parts(self.networks, self.masks, self.optimizer, self.algorithm.copies, self.generator)

    def frozen(self) -> Learner:
        """The online networks, their masks and the statistics as they are now, to look at while this one learns on: a
        copy that shares none of them. It cannot learn: target networks, optimiser and random stream stay behind."""
        kept = copy.copy(self)
        del kept.optimizer, kept.generator, kept.parameters
        kept.online, kept.targets = copy.deepcopy(self.online), {}
        kept.masks = {key: masks.frozen(kept.online[key]) for key, masks in self.masks.items()}
        kept.statistics = copy.deepcopy(self.statistics)
        return kept

    def see(self, episodes: EpisodeBatch) -> None:
        """Take a round of episodes that were played into the statistics."""
        if self.statistics:
            self.statistics.add(episodes)

    def evolves(self, env_steps: int) -> bool:
        """Whether the next update changes the topology."""
        sparse = self.config.sparse
        wanted = sparse.grow != "none" and any(masks.layers for masks in self.masks.values())
        progress = env_steps / self.config.train.total_steps
        return wanted and evolves_at(self.updates + 1, sparse.update_interval, progress, sparse.stop_fraction)

    def stage(self, env_steps: int) -> Stage:
        """What holds at this point of the run."""
        train, target = self.config.train, self.config.target
        progress = min(1.0, env_steps / train.total_steps)
        delayed = env_steps < target.start * train.total_steps
        lam = 0.0 if delayed or target.returns == "one_step" else target.td_lambda
        return Stage(train.lr * (1.0 + progress * (train.lr_end_factor - 1.0)), lam, delayed)

    def advance(self) -> bool:
        """Count an update; whether it is the target networks' turn to follow."""
        self.updates += 1
        return self.updates % self.config.train.target_interval == 0

    def sparsity(self) -> dict[str, float]:
        """Share of absent weights per masked module (biases are not counted)."""
        return {key: masks.sparsity for key, masks in self.masks.items()}

    def counts(self) -> Model:
        """The connections of every layer, for the count of training FLOPs (mast_train.learning.flops)."""
        found: dict[str, Any] = {}
        for key, module in self.online.items():
            kept = self.masks[key].state_dict()
            agents = isinstance(module, AgentNets | CriticNets)
            found[key] = count_agents(module, kept, self.spec.n_agents) if agents else count_mixer(module, kept)
        return Model(**found)

    def policy_state(self) -> dict[str, Tensor]:
        """The agents' weights and masks: what an export needs. They take observations as the environment gives them:
        what scales them is folded into the first layer."""
        state = {f"agents.{name}": tensor.detach() for name, tensor in self.agents.state_dict().items()}
        if self.statistics:
            first = state["agents.fc1_weight"], state["agents.fc1_bias"]
            state["agents.fc1_weight"], state["agents.fc1_bias"] = self.statistics.scaling().fold(*first)
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
        if self.statistics:
            state |= {f"statistics.{name}": tensor for name, tensor in self.statistics.state_dict().items()}
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
        if self.statistics:
            self.statistics.load_state_dict(part(state, "statistics."))
        self.generator.set_state(state["generator"])
        self.updates = int(state["updates"])


def scaling(learners: Sequence[Learner]) -> Scaling | None:
    """What their observations and states are scaled by now, learners that differ in their seed alone; None: nothing."""
    found = [learner.statistics.scaling() for learner in learners if learner.statistics]
    return Scaling.joined(found) if found else None


@torch.no_grad()
def sync_targets(learners: Sequence[Learner]) -> None:
    """Copy the online networks, masks and all, into the target networks: one copy a parameter where those of all
    learners lie in one memory. With `train.target_rate` below 1 they go that share of the way, and wear the masks."""
    if not learners:
        return
    rate = learners[0].config.train.target_rate
    for target, name in learners[0].algorithm.copies.items():
        online = [list(learner.online[name].parameters()) for learner in learners]
        copies = [list(learner.targets[target].parameters()) for learner in learners]
        worn = [learner.masks[name].connections() for learner in learners]
        for to, values in zip(zip(*copies, strict=True), zip(*online, strict=True), strict=True):
            if rate == 1.0:
                copy_each(to, stacked(values))
                continue
            for own, value, masks in zip(to, values, worn, strict=True):
                own.lerp_(value, rate)
                if value in masks:
                    own.mul_(masks[value])


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


def _parties(algorithm: Algorithm, online: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """The optimiser's groups: networks that are clipped together, and their share of the learning rate."""
    shares = algorithm.rate_shares
    groups: dict[float | None, list[nn.Parameter]] = {}
    for name, module in online.items():
        groups.setdefault(shares.get(name), []).extend(module.parameters())
    return [{"params": own} | ({} if share is None else {"share": share}) for share, own in groups.items()]


def _optimizer(config: Config, parties: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.train.optimizer == "adam":
        return torch.optim.Adam(parties, lr=config.train.lr, eps=1e-5, fused=True)
    if config.train.optimizer == "rmsprop":
        return torch.optim.RMSprop(parties, lr=config.train.lr, alpha=0.99, eps=1e-5)
    raise KeyError(config.train.optimizer)
