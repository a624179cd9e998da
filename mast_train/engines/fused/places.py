"""From batches to the places of groups, and back. Letters: K seeds, E episodes of each, C places of a seed, S steps,
N agents, F features; G groups, P = C agents of a group; R rows of a group.

A seed's places are in the order of steps, its episodes within them; a group's are each of them for each of its agents.
"""

from __future__ import annotations

from torch import Tensor

from mast_train.engines.fused.layout import Places
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.packed import PackedRows
from mast_train.networks.agents import GroupedNets


def to_places(nets: GroupedNets, x: Tensor, out: Tensor | None = None) -> Tensor:
    """[K,C,N,F] -> [G,F,P]; out: where to write it, its places adjacent."""
    (k, c, n, width), own = x.shape, nets.groups // nets.seeds
    found = x.view(k, c, own, n // own, width).permute(0, 2, 4, 1, 3)
    if out is None:
        return found.reshape(nets.groups, width, -1)
    out.view(k, own, width, c, n // own).copy_(found)
    return out


def from_places(nets: GroupedNets, x: Tensor, agents: int) -> Tensor:
    """[G,F,P] -> [K,C,N,F]."""
    k, own = nets.seeds, nets.groups // nets.seeds
    parts = x.view(k, own, x.shape[1], -1, agents // own)
    return parts.permute(0, 3, 1, 4, 2).reshape(k, -1, agents, x.shape[1])


def by_step(nets: GroupedNets, x: Tensor) -> Tensor:
    """[K E,S,...] -> [K,S E,...]."""
    return x.unflatten(0, (nets.seeds, -1)).transpose(1, 2).flatten(1, 2).contiguous()


def by_episode(x: Tensor, steps: int) -> Tensor:
    """[K,S E,...] -> [S,K E,...]."""
    return x.unflatten(1, (steps, -1)).transpose(0, 1).flatten(1, 2)


def padded_places(nets: GroupedNets, batch: EpisodeBatch) -> Places:
    """Of a batch that is padded: every step has as many."""
    (b, steps, n, _), own = batch.obs.shape, nets.groups // nets.seeds
    lengths = _of_groups(nets, (batch.lengths + 1).view(nets.seeds, -1), n)
    return Places(b // nets.seeds * (n // own), steps, lengths)


def packed_places(nets: GroupedNets, rows: PackedRows, agents: int) -> Places:
    """Of a packed batch."""
    own = nets.groups // nets.seeds
    begins = (rows.begins * (agents // own)).repeat_interleave(own, 0)
    lengths = _of_groups(nets, rows.observed, agents)
    return Places(lengths.shape[1], begins.shape[1] - 1, lengths, begins)


def _of_groups(nets: GroupedNets, observed: Tensor, agents: int) -> Tensor:
    """Of each episode [K,E] -> of each row [G,R] int32."""
    own = nets.groups // nets.seeds
    return observed.int().repeat_interleave(agents // own, 1).repeat_interleave(own, 0)
