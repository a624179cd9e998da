"""Networks on a GPU with the recurrence of all groups over all steps in one launch. Letters as in engines/base.py, and
G groups, R rows of a group, H hidden.

Everything of the agents is channel-major, [G,channels,T,R] in memory: what a product `weight @ inputs` writes, and what
the sparse kernel reads.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mast_train.engines.base import Parts, Schedule
from mast_train.engines.fused import structure
from mast_train.engines.fused.sequence import gru_sequence
from mast_train.engines.fused.structure import Structure
from mast_train.engines.torch_engine import TorchEngine
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.networks.agents import GroupedNets, GRUSequence
from mast_train.settings.config import Config
from mast_train.settings.errors import UserError

SPARSE_UP_TO = 0.1
"""Density up to which the recurrence runs on the connections alone (docs/gpu.md)."""
PRECISION = "tf32x3"
"""Of dense products: as exact as float32 (benchmarks/results/gpu-kernels-h100.json), and faster."""


class FusedEngine(TorchEngine):
    """See base.Engine."""

    def __init__(self, config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> None:
        super().__init__(config, spec, parts, at_once=True)
        rows = config.replay.batch * (spec.n_agents if config.net.shared else 1)
        sources = parts[0].sources
        self._recurrences = {
            key: Recurrence(nets, self._flat_mask(sources.get(key, key)), self._flat_mask(key), rows)
            for key, nets in self._agents.items()
        }

    def _flat_mask(self, key: str) -> Tensor | None:
        """The recurrent connections of agents that learn, bool [G,3H,H]; None of target networks."""
        assert self._flat is not None
        learns = key in self._parts[0].masks
        return self._flat.mask(key, "weight_hh").view(self._agents[key].weight_hh.shape) if learns else None

    @property
    def version(self) -> int:
        return sum(recurrence.version for recurrence in self._recurrences.values())

    def schedule(self, schedule: Schedule) -> None:
        super().schedule(schedule)
        for recurrence in self._recurrences.values():
            recurrence.refresh()

    def inputs(self, batch: EpisodeBatch) -> Tensor:
        """[G,I,T+1,R]: observation, one-hot last action, one-hot agent (networks/build.py, agent_inputs)."""
        nets, net = self._agents["agents"], self._config.net
        obs = to_groups(nets, batch.obs)
        g, width, steps, rows = obs.shape
        inputs = obs.new_zeros(g, nets.inputs, steps, rows)
        inputs[:, :width] = obs
        if net.last_action:
            a = self._spec.n_actions
            actions = to_groups(nets, batch.actions.unsqueeze(-1))
            inputs[:, width : width + a, 1:] = actions == torch.arange(a, device=obs.device).view(1, a, 1, 1)
            width += a
        if net.shared:
            identity = torch.eye(self._spec.n_agents, device=obs.device)
            inputs[:, width:] = identity.repeat(1, rows // self._spec.n_agents).unsqueeze(1)
        return inputs

    def unroll(self, key: str, inputs: Tensor, batch: EpisodeBatch) -> Tensor:
        nets, (g, _, steps, rows) = self._agents[key], inputs.shape
        y = torch.relu(_product(nets.fc1_weight, inputs.flatten(2), nets.fc1_bias))
        gates = _product(nets.weight_ih, y, nets.bias_ih).view(g, -1, steps, rows).permute(0, 2, 3, 1)
        ends = to_groups(nets, (batch.lengths + 1).view(-1, 1, 1, 1).expand(-1, 1, batch.obs.shape[2], 1))
        states = self._recurrences[key](gates, ends.view(g, rows).int())
        q = _product(nets.fc2_weight, states.permute(0, 3, 1, 2).flatten(2), nets.fc2_bias)
        return from_groups(nets, q.view(g, -1, steps, rows), len(batch.filled))


class Recurrence:
    """The recurrence of some agents: on their connections alone where they are few and fit, else dense, in Triton where
    it works and in torch where it does not."""

    def __init__(self, nets: GroupedNets, masks: Tensor | None, mask: Tensor | None, rows: int) -> None:
        """masks: bool [G,3H,H], as many connections as there ever are. mask: these agents' own, which may change in
        place; None: where their weights are not 0. rows: of a group."""
        self._nets, self._mask, self._rows, self.version = nets, mask, rows, 0
        self._structure = None if masks is None else _structure(masks, rows)
        self._seen = -1
        self.refresh()

    def refresh(self) -> None:
        """Take over connections that have changed; the host waits for the device then."""
        changes = (self._nets.weight_hh if self._mask is None else self._mask)._version
        if self._structure is None or changes == self._seen:
            return
        self._seen, before = changes, self._structure.version
        present = self._nets.weight_hh.detach() != 0 if self._mask is None else self._mask
        try:
            self._structure.update(present)
            self.version += self._structure.version - before
        except UserError:  # more connections than room was made for: blocks at a gate's end may be short
            self._structure = _structure(present, self._rows)
            self.version += 1

    def __call__(self, gates: Tensor, lengths: Tensor) -> Tensor:
        """states [G,T,R,H]; see gru_sequence."""
        nets = self._nets
        if self._structure is not None:
            return gru_sequence(gates, nets.weight_hh, nets.bias_hh, lengths, self._structure)
        if triton_works():
            return gru_sequence(gates, nets.weight_hh, nets.bias_hh, lengths, precision=PRECISION)
        return GRUSequence.apply(gates, nets.weight_hh, nets.bias_hh)


def _structure(masks: Tensor, rows: int) -> Structure | None:
    """Of connections bool [G,3H,H]; None where the dense kernel is faster or they do not fit. A group is spread over a
    cluster of multiprocessors as long as there are enough of them."""
    groups, _, hidden = masks.shape
    connections, shared = int(masks.sum()) / groups, structure.shared_limit(masks.device)
    if connections > SPARSE_UP_TO * masks[0].numel():
        return None
    tiles = groups * -(-rows // structure.LANES)
    sizes = (8, 4, 2, 1) if _clusters(masks.device) else (1,)
    wide = [c for c in sizes if c == 1 or tiles * c <= _multiprocessors(masks.device)]
    fitting = [c for c in (*wide, *sizes[::-1]) if structure.fits(hidden, int(connections), shared, cluster=c)]
    try:
        return Structure(masks, cluster=fitting[0]) if fitting else None
    except UserError:  # uneven groups
        return None


@cache
def triton_works() -> bool:
    """Whether Triton can be used: it builds its launchers with a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(compiler) and Path(sysconfig.get_path("include"), "Python.h").is_file()


def _clusters(device: torch.device) -> bool:
    """Whether blocks can form clusters, from compute capability 9.0 on. The CPU's emulation can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def to_groups(nets: GroupedNets, x: Tensor) -> Tensor:
    """[B,T,N,F] -> [G,F,T,R], a group's rows being its seed's episodes, batch-major."""
    b, t, n, width = x.shape
    seeds, own = nets.seeds, nets.groups // nets.seeds
    parts = x.reshape(seeds, b // seeds, t, own, n // own, width)
    return parts.permute(0, 3, 5, 2, 1, 4).reshape(nets.groups, width, t, -1)


def from_groups(nets: GroupedNets, x: Tensor, b: int) -> Tensor:
    """[G,F,T,R] -> [T,B,N,F]."""
    seeds, own = nets.seeds, nets.groups // nets.seeds
    parts = x.reshape(seeds, own, x.shape[1], x.shape[2], b // seeds, -1)
    return parts.permute(3, 0, 4, 1, 5, 2).reshape(x.shape[2], b, -1, x.shape[1])


def _product(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """weight [G,O,I], x [G,I,T R], bias [G,O] -> [G,O,T R]."""
    return torch.baddbmm(bias.unsqueeze(2), weight, x)
