"""Where learners' networks run: in C on their connections where that is possible, in torch elsewhere.

The agents of several seeds run as one network of all their groups, every seed on its own equal part of the batch;
mixers run seed by seed. Letters: T steps, B episodes of all seeds, N agents, A actions, R transitions, K joint actions,
S state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch, Rows, pick, taken
from mast_train.learning import targets
from mast_train.learning.losses import Goal, mean_of, total
from mast_train.native import Inputs as NativeInputs
from mast_train.native import SparseSequence, Wanted, available, status, together
from mast_train.native import Values as NativeValues
from mast_train.native import targets as native_targets
from mast_train.native.inputs import arranged, plain
from mast_train.native.mixer import SparseMixer
from mast_train.native.optimizer import SparseStep
from mast_train.networks.agents import AgentNets, joined, share_memory
from mast_train.networks.build import agent_inputs
from mast_train.networks.mixers import QMIX
from mast_train.settings.config import Config
from mast_train.settings.errors import UserError
from mast_train.sparse.masks import Masks

Inputs = Tensor | NativeInputs
"""What agents' networks read, for all steps: x [T+1,B,N,I], or what it is made of where they run in C."""


@dataclass(frozen=True)
class TorchValues:
    """What a pass of the agents gives at the transitions: the values of the actions taken [R,N], which carry the
    gradients, and those of all actions now and after [R,N,A]. None: not asked for."""

    taken: Tensor | None
    now: Tensor | None
    after: Tensor | None


Values = TorchValues | NativeValues


def use_native(config: Config, device: torch.device) -> bool:
    """Whether the networks run in C: `kernel` is native, or auto and it can. Raises UserError."""
    possible = available() and device.type == "cpu"
    if config.kernel == "native" and not possible:
        raise UserError(f"kernel 'native' needs the C extension and the CPU; {status()}; use kernel = 'torch'")
    return possible and config.kernel != "torch"


def use_graph(config: Config, device: torch.device) -> bool:
    """Whether updates run as CUDA graphs: `kernel` is graph, or auto on a GPU. Raises UserError."""
    if config.kernel == "graph" and device.type != "cuda":
        raise UserError("kernel 'graph' needs a CUDA GPU (--device cuda); use kernel = 'native' or 'torch'")
    return device.type == "cuda" and config.kernel in ("auto", "graph")


class Execution:
    """Forward passes of one or several seeds' networks by name. It owns no weights.

    networks: of each seed "agents", "mixer", "target_agents", ... ; masks: of each those that learn, by the same names.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        networks: Sequence[Mapping[str, nn.Module]],
        masks: Sequence[Mapping[str, Masks]],
        native: bool,
    ) -> None:
        self._config, self._spec, self._modules, self.native = config, spec, networks, native
        self._agents: dict[str, _Agents] = {}
        self._mixers: dict[str, list[SparseMixer]] = {}
        self._frozen: _Frozen | None = None
        for key, first in networks[0].items():
            modules = [named[key] for named in networks]
            worn = [named[key].state_dict() for named in masks if key in named]
            if isinstance(first, AgentNets):
                self._agents[key] = _Agents([cast(AgentNets, module) for module in modules], worn, native)
            elif native and isinstance(first, QMIX):
                pairs = zip(modules, worn or [None] * len(modules), strict=True)
                self._mixers[key] = [SparseMixer(cast(QMIX, module), mask) for module, mask in pairs]

    @property
    def soft_mellowmax(self) -> Any:
        """targets.soft_mellowmax."""
        return native_targets.soft_mellowmax if self.native else targets.soft_mellowmax

    @property
    def actor(self) -> AgentNets | SparseSequence:
        """What acts: `step` on the online agents."""
        return self._agents["agents"].actor

    def frozen_actor(self) -> AgentNets | SparseSequence:
        """What acts, on the weights and masks of now until the next call: another thread may act while these learn."""
        agents = self._agents["agents"]
        if self._frozen is None:
            self._frozen = _Frozen(agents.nets, agents.masks or {}, self.native)
        return self._frozen.refreshed()

    def rows(self, batch: EpisodeBatch) -> Rows:
        """The batch's transitions."""
        return arranged(batch.filled, len(self._modules)) if self.native else batch.rows(len(self._modules))

    def inputs(self, batch: EpisodeBatch, rows: Rows) -> Inputs:
        """What `sequences` takes."""
        one_hot = self._config.net.last_action
        if self.native and one_hot:
            obs = batch.obs.transpose(0, 1)
        else:
            last_action = torch.cat([torch.full_like(batch.actions[:, :1], -1), batch.actions], 1)
            obs = agent_inputs(self._config, self._spec, batch.obs, last_action).transpose(0, 1)
        if rows.order is None:
            return obs
        return NativeInputs(plain(obs), batch.actions.transpose(0, 1), rows.order, len(rows.now), one_hot)

    def sequences(
        self, inputs: Inputs, batch: EpisodeBatch, rows: Rows, wanted: Mapping[str, Wanted]
    ) -> dict[str, Values]:
        """What is wanted of some agents by name, for the batch whose inputs and rows are given; in C in one pass."""
        if isinstance(inputs, NativeInputs):
            passes = [(cast(SparseSequence, self._agents[key].actor), what) for key, what in wanted.items()]
            return dict(zip(wanted, together(inputs, *passes), strict=True))
        found: dict[str, Values] = {}
        for key, what in wanted.items():
            with torch.set_grad_enabled(what.learning):
                q = cast(AgentNets, self._agents[key].actor)(inputs)[0]
                found[key] = TorchValues(
                    taken(q, rows, pick(batch.actions, rows.transition)) if what.learning else None,
                    pick(q.detach(), rows.step_major) if what.now else None,
                    pick(q.detach(), rows.next_step_major) if what.after else None,
                )
        return found

    def mix(
        self, key: str, q: Tensor, state: Tensor, at: Tensor, sizes: list[int] | None = None, evolving: bool = False
    ) -> Tensor:
        """q [R,N] or [K,R,N], state [B,T+1,S], at [R] -> Q_tot [R] or [K,R] in the states pick(state, at); gradients of
        absent weights only when `evolving`.

        sizes: how many of the R rows are each seed's, in order; None for a single one.
        """
        modules: list[Any] = [partial(_mixed, named[key]) for named in self._modules]
        if key in self._mixers:
            modules = [partial(mixer, dense_gradients=evolving) for mixer in self._mixers[key]]
        states = state.flatten(0, 1)
        if sizes is None or len(sizes) == 1:
            return modules[0](q, states, at)
        parts = zip(modules, q.split(sizes, -2), at.split(sizes), strict=True)
        return torch.cat([module(q_part, states, at_part) for module, q_part, at_part in parts], -1)

    def fit(
        self, key: str, values: Values, batch: EpisodeBatch, rows: Rows, goals: Mapping[str, Goal], evolving: bool
    ) -> list[dict[str, Tensor]]:
        """The gradients of the goals' sum over the mixer `key` and the agents that gave the values; gradients of absent
        weights only when `evolving`. Of each seed the loss of every goal by name, and the means over transitions of
        "q_taken", "q_tot" and the first goal's "target" and, where it is weighted, "weight"."""
        (name, goal), *others = goals.items()
        if key in self._mixers and isinstance(values, NativeValues) and not others and goal.scale == 1.0:
            return self._fit_native(key, values, batch, rows, name, goal, evolving)
        q_taken = values.taken if isinstance(values, TorchValues) else values.differentiable()[1]
        assert q_taken is not None
        q_tot = self.mix(key, q_taken, batch.state, rows.now, rows.sizes, evolving)
        losses = {k: _of_seeds(rows, g.loss, q_tot, g.y, g.weight_at(q_tot)) for k, g in goals.items()}
        total([loss for of_goal in losses.values() for loss in of_goal]).backward()
        means = {"q_taken": q_taken, "q_tot": q_tot, "target": goal.y, "weight": goal.weight_at(q_tot)}
        logs = losses | {k: _of_seeds(rows, mean_of, v) for k, v in means.items() if v is not None}
        return [{k: of_seeds[seed].detach() for k, of_seeds in logs.items()} for seed in range(len(self._modules))]

    def _fit_native(
        self, key: str, values: NativeValues, batch: EpisodeBatch, rows: Rows, name: str, goal: Goal, evolving: bool
    ) -> list[dict[str, Tensor]]:
        assert values.taken is not None
        states, gradients, logs = batch.state.flatten(0, 1), [], []
        names = (name, "q_taken", "q_tot", "target", *(["weight"] if goal.weighted else []))
        parts = rows.split(values.taken), rows.split(rows.now), rows.split(goal.y), rows.split_any(goal.weight)
        for mixer, q, at, y, weight in zip(self._mixers[key], *parts, strict=True):
            gradient, means = mixer.fit(q, states, at, y, weight, goal.low, dense_gradients=evolving)
            gradients.append(gradient)
            logs.append(dict(zip(names, means.unbind(), strict=False)))
        values.backward(None, torch.cat(gradients) if len(gradients) > 1 else gradients[0])
        return logs

    def hand_out_gradients(self) -> None:
        """What a backward pass left in the joint networks becomes the gradients of every seed's own parameters."""
        for agents in self._agents.values():
            agents.hand_out_gradients()


def _of_seeds(rows: Rows, what: Callable[..., Tensor], *values: Tensor | None) -> list[Tensor]:
    """A scalar of each seed from its parts of values [R] and of which rows are real."""
    parts = zip(*(rows.split_any(value) for value in (*values, rows.real)), strict=True)
    return [what(*part) for part in parts]


def _mixed(mixer: nn.Module, q: Tensor, states: Tensor, rows: Tensor) -> Tensor:
    return mixer(q, states.index_select(0, rows))


class _Agents:
    """The agents of all seeds under one name as one network; several share their memory with it from here on."""

    def __init__(self, nets: Sequence[AgentNets], masks: Sequence[Mapping[str, Tensor]], native: bool) -> None:
        """masks: of each seed, none for target networks."""
        self.nets, self.masks = nets[0], masks[0] if masks else None
        self._parts: list[tuple[Tensor, list[Tensor]]] = []
        if len(nets) > 1:
            self.nets = joined(nets)
            if masks:
                self.masks = {name: share_memory([worn[name] for worn in masks]) for name in masks[0]}
            for name, whole in self.nets.named_parameters():
                self._parts.append((whole, [getattr(net, name) for net in nets]))
        self.actor = SparseSequence(self.nets, self.masks) if native else self.nets

    def hand_out_gradients(self) -> None:
        for whole, parts in self._parts:
            if whole.grad is not None:
                for part, gradient in zip(parts, whole.grad.split(len(parts[0])), strict=True):
                    part.grad = gradient
                whole.grad = None


class OptimizerStep:
    """The step of one seed's optimiser on the connections of its masks, in C or in torch."""

    def __init__(self, optimizer: torch.optim.Optimizer, masks: Mapping[str, Masks], native: bool) -> None:
        self._optimizer, self._masks = optimizer, masks
        connections = {p: mask for worn in masks.values() for p, mask in worn.connections().items()}
        self._native = SparseStep(optimizer, connections) if native else None

    def __call__(self, max_norm: float) -> Tensor:
        """Mask the gradients, clip them by their global norm, step; returns the norm before clipping."""
        if self._native is not None:
            return self._native.step(max_norm)
        for masks in self._masks.values():
            masks.apply_to_gradients()
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        grad_norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        self._optimizer.step()
        return grad_norm


class _Frozen:
    """A copy of agents and their masks that shares nothing with them."""

    def __init__(self, agents: AgentNets, masks: Mapping[str, Tensor], native: bool) -> None:
        nets, worn = copy.deepcopy(agents), {name: mask.clone() for name, mask in masks.items()}
        self._actor = SparseSequence(nets, worn) if native else nets
        self._weights = list(zip(nets.parameters(), agents.parameters(), strict=True))
        self._masks = list(zip(worn.values(), masks.values(), strict=True))
        self._versions = self._mask_versions()

    def _mask_versions(self) -> list[int]:
        return [mask._version for _, mask in self._masks]

    @torch.no_grad()
    def refreshed(self) -> AgentNets | SparseSequence:
        """With the weights of now. Masks are copied only after a change, since a copy makes C build its structure."""
        versions = self._mask_versions()
        changed = self._masks if versions != self._versions else []
        for own, source in [*self._weights, *changed]:
            own.copy_(source)
        self._versions = versions
        return self._actor
