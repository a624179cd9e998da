"""Networks and masks to the plain numbers of mast_train.learning.flops: the connections of every layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mast_runtime.measure.flops import AgentCounts, Counts, Matrix, agent_counts
from mast_train.learning.flops import CentralCounts, QmixCounts
from mast_train.networks.agents import WEIGHTS, AgentNets
from mast_train.networks.mixers import CentralMixer, MonotonicMixer

Kept = Mapping[str, Tensor]
"""Parameter name -> bool mask; a weight without one is whole."""


def count_agents(nets: AgentNets, masks: Kept, n_agents: int) -> list[AgentCounts]:
    """The network of every agent; a shared one counts once for each."""

    def nnz(group: int) -> dict[str, int]:
        weights = {name: masks.get(name, torch.ones_like(getattr(nets, name), dtype=torch.bool)) for name in WEIGHTS}
        return {name.removesuffix("_weight"): int(mask[group].sum()) for name, mask in weights.items()}

    agents = [agent_counts(nets.inputs, nets.n_actions, nets.hidden, nnz=nnz(g)) for g in range(nets.groups)]
    return agents * (n_agents // nets.groups)


def count_mixer(mixer: nn.Module, masks: Kept) -> Counts | None:
    """QMIX's or the central mixer; VDN and IQL have nothing to count."""
    matrices = {
        name.removesuffix(".weight"): Matrix(
            weight.shape[0], weight.shape[1], int(masks[name].sum()) if name in masks else weight.numel()
        )
        for name, weight in mixer.named_parameters()
        if weight.dim() == 2
    }
    if isinstance(mixer, MonotonicMixer):
        return QmixCounts(**matrices)
    if isinstance(mixer, CentralMixer):
        return CentralCounts(**matrices)
    if matrices:
        raise TypeError(f"no count of FLOPs for the mixer {type(mixer).__name__}")
    return None
