"""Networks on a GPU with the recurrence of all groups over all steps in one launch. Letters as in engines/base.py, and
G groups, P places of a group (fused/layout.py), H hidden.

Everything of the agents is channel-major, [G,channels,P] in memory: what a product `weight @ inputs` writes, and what
the sparse kernel reads. Of a batch without padding only its own steps have places.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mast_train.engines.base import Parts, Schedule
from mast_train.engines.fused import structure
from mast_train.engines.fused.layout import Places
from mast_train.engines.fused.optimise import FusedFlat
from mast_train.engines.fused.places import by_episode, by_step, from_places, packed_places, padded_places, to_places
from mast_train.engines.fused.sequence import gru_in_torch, gru_places
from mast_train.engines.fused.structure import Structure
from mast_train.engines.torch_engine import TorchEngine
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import Rows
from mast_train.experience.packed import Batch, Packed, PackedRows
from mast_train.learning import targets
from mast_train.networks.agents import GroupedNets
from mast_train.networks.build import previous
from mast_train.settings.config import Config
from mast_train.settings.errors import UserError

SPARSE_UP_TO = 0.1
"""Density up to which the recurrence runs on the connections alone (docs/gpu.md)."""
PRECISION = "tf32x3"
"""Of dense products: as exact as float32 (benchmarks/results/gpu-kernels-h100.json), and faster."""


class Given(NamedTuple):
    """What the agents see [G,I,P] (networks/build.py, agent_inputs), and whose each place is."""

    seen: Tensor
    at: Places


class FusedEngine(TorchEngine):
    """See base.Engine."""

    packs = True
    flat = FusedFlat

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

    def rows(self, batch: Batch) -> Rows:
        return batch.rows() if isinstance(batch, Packed) else super().rows(batch)

    def inputs(self, batch: Batch, rows: Rows) -> Given:
        nets, net, a = self._agents["agents"], self._config.net, self._spec.n_actions
        if isinstance(batch, Packed):
            assert isinstance(rows, PackedRows)
            obs, at = batch.obs, packed_places(nets, rows, batch.obs.shape[2])
            before = batch.actions.flatten(0, 1).index_select(0, rows.before).masked_fill(rows.starts[:, None], -1)
            before = before.view(*batch.actions.shape, 1)
        else:
            obs, at = by_step(nets, batch.obs), padded_places(nets, batch)
            before = by_step(nets, previous(self._spec, batch.actions).unsqueeze(-1))
        k, c, n, width = obs.shape
        places = c * n * k // nets.groups
        seen = obs.new_empty(nets.groups, nets.inputs, places)
        to_places(nets, obs, seen[:, :width])
        if net.last_action:
            of_action = torch.arange(a, device=obs.device).view(1, a, 1)
            torch.eq(to_places(nets, before), of_action, out=seen[:, width : width + a])
            width += a
        if net.shared:
            identity = torch.eye(self._spec.n_agents, device=obs.device)
            seen[:, width:] = identity.repeat(1, places // self._spec.n_agents)
        return Given(seen, at)

    def unroll(self, key: str, inputs: Given, batch: Batch) -> Tensor:
        nets = self._agents[key]
        y = torch.relu(_product(nets.fc1_weight, inputs.seen, nets.fc1_bias))
        gates = _product(nets.weight_ih, y, nets.bias_ih).mT
        states = self._recurrences[key](gates, inputs.at)
        q = from_places(nets, _product(nets.fc2_weight, states.mT, nets.fc2_bias), batch.obs.shape[2])
        return q if isinstance(batch, Packed) else by_episode(q, inputs.at.steps)

    def returns(self, batch: Batch, rows: Rows, following: Tensor) -> Tensor:
        if not isinstance(rows, PackedRows):
            return super().returns(batch, rows, following)
        c, gamma, reward = self._config.target, self._config.train.gamma, batch.reward.flatten()
        links = rows.terminated, rows.last, rows.after
        if c.returns != "n_step":
            lambdas = self._lambdas.repeat_interleave(rows.sizes[0])
            return targets.linked_td_lambda(reward, following, *links, gamma, lambdas, rows.steps)
        delayed = self._delayed.repeat_interleave(rows.sizes[0]) > 0
        later = targets.linked_n_step(reward, following, *links, gamma, c.n_step)
        return torch.where(delayed, targets.one_step(reward, following, rows.terminated, gamma), later)


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

    def __call__(self, gates: Tensor, at: Places) -> Tensor:
        """states [G,P,H]; see gru_places."""
        given = gates, self._nets.weight_hh, self._nets.bias_hh, at
        if self._structure is not None:
            return gru_places(*given, self._structure)
        if gates.is_cuda and triton_works():
            return gru_places(*given, precision=PRECISION)
        return gru_in_torch(*given)


def _structure(masks: Tensor, rows: int) -> Structure | None:
    """Of connections bool [G,3H,H]; None where the dense kernel is faster or they do not fit. A group is spread over a
    cluster of multiprocessors as long as there are enough of them."""
    groups, _, hidden = masks.shape
    connections = int(masks.sum()) / groups
    if connections > SPARSE_UP_TO * masks[0].numel():
        return None
    shared = structure.shared_limit(masks.device)
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


def _product(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """weight [G,O,I], x [G,I,T R], bias [G,O] -> [G,O,T R]."""
    return torch.baddbmm(bias.unsqueeze(2), weight, x)
