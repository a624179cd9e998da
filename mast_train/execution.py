"""Where a learner's networks run: in C on their connections where that is possible, in torch elsewhere.

Letters: T steps, B episodes, N agents, A actions, R transitions, K joint actions, S state.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mast_train import targets
from mast_train.config import Config
from mast_train.envs.base import EnvSpec
from mast_train.episodes import EpisodeBatch
from mast_train.errors import UserError
from mast_train.mixers import QMIX
from mast_train.native import Inputs as NativeInputs
from mast_train.native import SparseSequence, available, status
from mast_train.native import targets as native_targets
from mast_train.native.mixer import SparseMixer
from mast_train.native.optimizer import SparseStep
from mast_train.nets import AgentNets
from mast_train.networks import agent_inputs
from mast_train.sparse.masks import Masks

Inputs = Tensor | NativeInputs
"""What agents' networks read, for all steps: x [T+1,B,N,I], or what it is made of where they run in C."""


def use_native(config: Config, device: torch.device) -> bool:
    """Whether the networks run in C: `kernel` is native, or auto and it can. Raises UserError."""
    possible = available() and device.type == "cpu"
    if config.kernel == "native" and not possible:
        raise UserError(f"kernel 'native' needs the C extension and the CPU; {status()}; use kernel = 'torch'")
    return possible and config.kernel != "torch"


class Execution:
    """Forward passes of networks by name, and the step of their optimiser. It owns no weights.

    networks: "agents", "mixer", "target_agents", ... ; masks of those that learn, by the same names.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        networks: Mapping[str, nn.Module],
        masks: Mapping[str, Masks],
        optimizer: torch.optim.Optimizer,
        native: bool,
    ) -> None:
        self._config, self._spec, self._modules, self._masks = config, spec, networks, masks
        self._optimizer = optimizer
        self._sequences: dict[str, SparseSequence] = {}
        self._mixers: dict[str, SparseMixer] = {}
        self._step: SparseStep | None = None
        self._frozen: _Frozen | None = None
        if native:
            for key, module in networks.items():
                worn = masks[key].state_dict() if key in masks else None
                if isinstance(module, AgentNets):
                    self._sequences[key] = SparseSequence(module, worn)
                elif isinstance(module, QMIX):
                    self._mixers[key] = SparseMixer(module, worn)
            self._step = SparseStep(
                optimizer, {p: mask for worn in masks.values() for p, mask in worn.connections().items()}
            )

    @property
    def pure(self) -> Any:
        """The targets' pure functions, soft_mellowmax and td_lambda."""
        return targets if self._step is None else native_targets

    @property
    def actor(self) -> AgentNets | SparseSequence:
        """What acts: `step` on the online agents."""
        agents = self._modules["agents"]
        assert isinstance(agents, AgentNets)
        return self._sequences.get("agents", agents)

    def frozen_actor(self) -> AgentNets | SparseSequence:
        """What acts, on the weights and masks of now until the next call: another thread may act while these learn."""
        agents = self._modules["agents"]
        assert isinstance(agents, AgentNets)
        if self._frozen is None:
            self._frozen = _Frozen(agents, self._masks["agents"].state_dict(), bool(self._sequences))
        return self._frozen.refreshed()

    def inputs(self, batch: EpisodeBatch) -> Inputs:
        """What `sequence` takes."""
        last_action = torch.cat([torch.full_like(batch.actions[:, :1], -1), batch.actions], 1)
        if not self._sequences or not self._config.net.last_action:
            return agent_inputs(self._config, self._spec, batch.obs, last_action).transpose(0, 1)
        return NativeInputs.of(batch.obs.transpose(0, 1), last_action.transpose(0, 1), batch.lengths + 1)

    def sequence(self, key: str, inputs: Inputs, evolving: bool = False) -> Tensor:
        """Action values [T+1,B,N,A]; gradients of absent weights only when `evolving`."""
        native = self._sequences.get(key)
        return self._modules[key](inputs)[0] if native is None else native.forward(inputs, dense_gradients=evolving)

    def mix(self, key: str, q: Tensor, state: Tensor, evolving: bool = False) -> Tensor:
        """q [R,N] or [K,R,N], state [R,S] -> Q_tot [R] or [K,R]; gradients of absent weights only when `evolving`."""
        native = self._mixers.get(key)
        return self._modules[key](q, state) if native is None else native(q, state, dense_gradients=evolving)

    def step(self, max_norm: float) -> Tensor:
        """Mask the gradients, clip them by their global norm, step; returns the norm before clipping."""
        if self._step is not None:
            return self._step.step(max_norm)
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
