"""Networks and masks to the plain numbers of mast_train.learning.flops: the connections of every layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mast_runtime.measure.flops import Counts, Matrix, agent_counts
from mast_train.learning.critic_flops import CriticCounts, PlainCounts
from mast_train.learning.flops import CentralCounts, QmixCounts
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.mixers import CentralMixer, MonotonicMixer

Kept = Mapping[str, Tensor]
"""Parameter name -> bool mask; a weight without one is whole."""


def count_agents(nets: AgentNets | CriticNets, masks: Kept, n_agents: int) -> list[Counts]:
    """The network of every agent, or critic; a shared one counts once for each."""
    weights = {name: weight for name, weight in nets.named_parameters() if weight.dim() == 3}

    def matrix(name: str, group: int) -> Matrix:
        _, outputs, inputs = weights[name].shape
        return Matrix(outputs, inputs, int(masks[name][group].sum()) if name in masks else outputs * inputs)

    def counts(group: int) -> Counts:
        layers = {name.removesuffix("_weight"): matrix(name, group) for name in weights}
        if nets.recurrent and isinstance(nets, AgentNets):
            nnz = {name: layer.nnz for name, layer in layers.items()}
            return agent_counts(nets.inputs, nets.n_actions, nets.hidden, nnz=nnz)
        if nets.recurrent:
            ih, hh = layers.pop("weight_ih"), layers.pop("weight_hh")
            layers["gru"] = Matrix(ih.outputs, ih.inputs + hh.inputs, ih.nnz + hh.nnz)
        if isinstance(nets, CriticNets):
            return CriticCounts(layers["fc1"], layers.get("gru"), layers.get("mid"), layers["fc2"], layers["fc3"])
        return PlainCounts(layers["fc1"], layers["mid"], layers["fc2"])

    return [counts(group) for group in range(nets.groups)] * (n_agents // nets.groups)


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
