"""The networks that a configuration asks for, their input and their masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mast_train.envs.base import EnvSpec
from mast_train.networks.agents import AgentNets, CriticNets, GroupedNets
from mast_train.settings.config import Config, override
from mast_train.sparse.masks import MaskedLayer, Masks


def agent_inputs(config: Config, spec: EnvSpec, obs: Tensor, last_action: Tensor | None) -> Tensor:
    """obs [...,N,O], last_action [...,N] int64 (-1: none yet) -> obs ++ onehot(last action) [++ onehot(id)].

    Of a continuous last action [...,N,A] (0: none yet) the components are read as they are. None: nobody has acted.
    """
    if last_action is None:
        last_action = no_action(spec, *obs.shape[:-2], device=obs.device)
    parts = [obs]
    if config.net.last_action:
        parts.append(encoded(spec, last_action).to(obs.dtype))
    if config.net.shared:
        identity = torch.eye(spec.n_agents, device=obs.device)
        parts.append(identity.expand(*obs.shape[:-1], spec.n_agents))
    return torch.cat(parts, -1) if len(parts) > 1 else obs


def encoded(spec: EnvSpec, actions: Tensor) -> Tensor:
    """Actions as networks see them [...,N,A]: choices [...,N] int64 as one-hots (-1: zeros); components as they are."""
    if spec.box is not None:
        return actions
    return (actions.unsqueeze(-1) == torch.arange(spec.n_actions, device=actions.device)).float()


def no_action(spec: EnvSpec, *batch: int, device: torch.device) -> Tensor:
    """The last action of those who have done nothing yet: choices -1 [*batch,N], components 0 [*batch,N,A]."""
    none = -1 if spec.box is None else 0
    return torch.full((*batch, *spec.action_shape), none, dtype=spec.action_dtype, device=device)


def previous(spec: EnvSpec, actions: Tensor) -> Tensor:
    """The action before every step: [B,T,N,...] -> [B,T+1,N,...]."""
    return torch.cat([no_action(spec, len(actions), 1, device=actions.device), actions], 1)


def input_dim(config: Config, spec: EnvSpec) -> int:
    """Width of `agent_inputs`."""
    return spec.obs_dim + spec.n_actions * config.net.last_action + spec.n_agents * config.net.shared


def agent_nets(config: Config, spec: EnvSpec) -> AgentNets:
    """The agents' networks: one group per agent, or one shared group."""
    return AgentNets(*_sizes(config, spec))


def critic_nets(config: Config, spec: EnvSpec) -> CriticNets:
    """Networks that value an action that is given, grouped as the agents'."""
    return CriticNets(*_sizes(config, spec))


def _sizes(config: Config, spec: EnvSpec) -> tuple[int, int, int, int, bool]:
    groups = 1 if config.net.shared else spec.n_agents
    return groups, input_dim(config, spec), config.net.hidden, spec.n_actions, config.net.recurrent


def load_agents(config: Config, spec: EnvSpec, tensors: Mapping[str, Tensor]) -> AgentNets | CriticNets:
    """The agents' networks of a snapshot: tensors named "agents.*"."""
    nets = (critic_nets if "agents.fc3_weight" in tensors else agent_nets)(config, spec)
    nets.load_state_dict({name.removeprefix("agents."): t for name, t in tensors.items() if name.startswith("agents.")})
    return nets


def agent_layers(config: Config, critics: bool = False) -> list[MaskedLayer]:
    """The masked layers of the agents' networks, or of critics', with their block rows."""
    block = config.sparse.block
    first = MaskedLayer("fc1_weight", block.fc1, input_floor=config.sparse.input_floor)
    memory = [MaskedLayer(name, block.gru, 3) for name in ("weight_ih", "weight_hh")]
    middle = memory if config.net.recurrent else [MaskedLayer("mid_weight", block.gru)]
    if critics:
        return [first, *middle, MaskedLayer("fc2_weight", block.fc2, spread=True), MaskedLayer("fc3_weight")]
    return [first, *middle, MaskedLayer("fc2_weight", block.fc2, actions=True)]


def new_masks(
    config: Config, module: nn.Module, generator: torch.Generator, given: Mapping[str, Tensor] | None
) -> Masks:
    """Masks of agents or of a mixer, random or `given`; the module's absent weights become 0. Raises ValueError."""
    sparse = config.sparse
    if isinstance(module, GroupedNets):
        layers, sparsity = agent_layers(config, isinstance(module, CriticNets)), sparse.agent_sparsity
    else:
        matrices = [name for name, parameter in module.named_parameters() if parameter.dim() == 2]
        layers, sparsity = [MaskedLayer(name, sparse.block.mixer) for name in matrices], sparse.mixer_sparsity
    return Masks(module, layers, sparsity, sparse.allocation, sparse.rescale_init, generator, given)


def tiny_widths(config: Config, spec: EnvSpec) -> Config:
    """Dense networks with about as many weights as the sparse row keeps (paper: "Tiny").

    Widths shrink together: the largest hidden size whose agents have at most (1 - 95 %) of the dense weights, and the
    mixer's widths likewise. `sparse.tiny_of` is the sparsity that is matched; it is 0 in the result, which is complete.
    """
    inputs = spec.obs_dim + spec.n_actions * config.net.last_action + spec.n_agents * config.net.shared
    keep = 1.0 - config.sparse.tiny_of

    def agent(h: int) -> int:
        return h * inputs + (6 if config.net.recurrent else 1) * h * h + spec.n_actions * h

    def mixer(scale: float) -> int:
        e, k = max(1, round(config.mixer.embed * scale)), max(1, round(config.mixer.hypernet_hidden * scale))
        s = spec.state_dim
        return s * k + k * spec.n_agents * e + s * k + k * e + s * e + s * e + e

    def central(e: int) -> int:
        return (spec.n_agents + 2 * spec.state_dim + 2) * e + 2 * e * e

    hidden = max(
        h for h in range(1, config.net.hidden + 1) if agent(h) <= max(keep * agent(config.net.hidden), agent(1))
    )
    embed = max(
        e for e in range(1, config.wqmix.embed + 1) if central(e) <= max(keep * central(config.wqmix.embed), central(1))
    )
    scales = [k / 1000 for k in range(1, 1001)]
    scale = max(x for x in scales if mixer(x) <= max(keep * mixer(1.0), mixer(scales[0])))
    return override(
        config,
        {
            "sparse.tiny_of": 0.0,
            "net.hidden": hidden,
            "wqmix.embed": embed,
            "mixer.embed": max(1, round(config.mixer.embed * scale)),
            "mixer.hypernet_hidden": max(1, round(config.mixer.hypernet_hidden * scale)),
        },
    )
