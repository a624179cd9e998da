"""Checkpoint to plain arrays: the one file of mast_export that touches mast_train and torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mast_export.observed import Seen
from mast_export.quantise import I8_LEVELS
from mast_export.verify import Trace
from mast_runtime import AgentInfo, Bundle, Contract, Identity, Layer, Network, __version__
from mast_runtime.format import VALUE_DTYPES
from mast_runtime.head import Head, Search
from mast_runtime.network import LAYERS, NO_BIAS, NO_LAYER, SEGMENTS
from mast_runtime.search import Searcher, Values
from mast_train.envs.base import EnvSpec
from mast_train.learning.learner import part
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.build import agent_inputs, agent_layers, load_agents
from mast_train.networks.heads import draws
from mast_train.networks.heads import head as decision
from mast_train.runs import checkpoint
from mast_train.settings.config import Config

Decide = Callable[[Tensor, Tensor], Tensor]
LAYER_OF = {
    "fc1_weight": "fc1", "weight_ih": "weight_ih", "weight_hh": "weight_hh", "mid_weight": "mid", "fc2_weight": "fc2",
    "fc3_weight": "fc3",
}  # fmt: skip


def extract(snapshot: Path) -> Bundle:
    """The agents of a snapshot as a float32 bundle. Raises UserError for an unreadable file."""
    tensors, header = checkpoint.read(snapshot)
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    parts = config.net.last_action, config.net.shared
    contract = Contract(spec.obs_dim, spec.n_actions, spec.n_agents, *parts, _head(config, spec, tensors))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    groups = 1 if config.net.shared else spec.n_agents
    networks = tuple(_network(arrays, g, config) for g in range(groups))
    agents = tuple(AgentInfo(f"agent_{i}", kind, i, min(i, groups - 1)) for i, kind in enumerate(spec.agent_types))
    identity = Identity(producer=f"mast-marl {__version__}")
    return Bundle(contract, agents, networks, _info(config, spec, header), identity)


def record_trace(snapshot: Path, trace: Path) -> Trace:
    """What the trainer's own networks make of the recorded observations in one recurrence, in float64; and how far they
    are from that in float32, with their weights rounded to each type that a format stores. Raises UserError."""
    tensors, header = checkpoint.read(snapshot)
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    nets, head = load_agents(config, spec, tensors), _head(config, spec, tensors)
    recorded, _ = checkpoint.read(trace)
    trained, decide = None, decision(config, spec, nets)
    if spec.box is not None and head is not None and head.search is not None:
        trained = Values.of(extract(snapshot).team_networks)
        decide = _searching(Searcher(head.search, trained, spec.box.has))
    play = partial(_run, config, spec, decide, recorded["obs"], recorded["avail_actions"])
    q, hidden, actions = play(copy.deepcopy(nets).double(), None)
    scale = q.abs().amax((0, 2)).clamp(min=1.0)
    noise = {}
    for dtype in VALUE_DTYPES:
        near_q, near_hidden, _ = play(_rounded(nets, dtype), actions)
        errors = torch.stack([(near_q - q).abs().amax((0, 2)) / scale, (near_hidden - hidden).abs().amax((0, 2))])
        noise[dtype] = errors.amax(0).numpy()
    obs, avail = recorded["obs"].numpy(), recorded["avail_actions"].numpy()
    starts = recorded["starts"].numpy() if "starts" in recorded else None
    return Trace(
        obs, avail, q.float().numpy(), hidden.float().numpy(), starts, noise, head, tuple(range(spec.n_agents)), trained
    )


def seen_in(trace: Path) -> Seen:
    """What training saw of the observations, by the run's last evaluation. Raises UserError.

    Of a run of an earlier version: what that evaluation saw.
    """
    recorded, _ = checkpoint.read(trace)
    found = {name: tensor.numpy() for name, tensor in part(recorded, "seen.").items()}
    return Seen(**found) if found and found["count"].any() else Seen.of(recorded["obs"].numpy())


def obs_names(snapshot: Path) -> list[list[tuple[str, str]]]:
    """Of each agent's inputs (name, unit), as the environment names them; none where it does not. Raises UserError."""
    spec = checkpoint.spec_of(checkpoint.read(snapshot)[1])
    rows = spec.obs_names * (spec.n_agents if len(spec.obs_names) == 1 else 1)
    return [[(name, "") for name in row] for row in rows]


def _searching(find: Searcher) -> Decide:
    """Of what critics' fc2 gives: the runtime's own search, since of candidates of one value torch's takes any."""
    return lambda q, avail: torch.from_numpy(find(q[0].numpy()))[None]


@torch.no_grad()
def _run(
    config: Config,
    spec: EnvSpec,
    decide: Decide,
    obs: Tensor,
    avail: Tensor,
    nets: AgentNets | CriticNets,
    actions: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """obs [T,N,O], avail [T,N,A] -> q [T,N,A], of critics what fc2 makes of their memory, and hidden [T,N,H] in the
    networks' precision, actions [T,N] or [T,N,A]: those given (None: what `decide` makes of q) are the last actions."""
    hidden, dtype = nets.initial_hidden(1, spec.n_agents), nets.fc1_weight.dtype
    last, found = None, []
    for t, (o, a) in enumerate(zip(obs, avail, strict=True)):
        q, hidden = nets.step(agent_inputs(config, spec, o[None].to(dtype), last), hidden)
        q = nets.from_memory(q) if isinstance(nets, CriticNets) else q
        last = decide(q, a[None]) if actions is None else actions[t][None]
        last = last.to(dtype) if last.is_floating_point() else last
        found.append((q[0], hidden.reshape(spec.n_agents, -1), last[0]))
    q, states, taken = (torch.stack(part) for part in zip(*found, strict=True))
    return q, states, taken


@torch.no_grad()
def _rounded(nets: AgentNets | CriticNets, dtype: str) -> AgentNets | CriticNets:
    """A copy with weights and biases that a format of this type stores, computing in float32."""
    nets = copy.deepcopy(nets)
    for name, parameter in nets.named_parameters():
        if dtype == "i8" and name in LAYER_OF:
            step = parameter.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / I8_LEVELS
            parameter.copy_((parameter / step).round() * step)
        elif dtype != "f32":
            parameter.copy_(parameter.half())
    return nets


def _head(config: Config, spec: EnvSpec, tensors: Mapping[str, Tensor]) -> Head | None:
    if spec.box is None:
        return None
    search = None
    if "agents.fc3_weight" in tensors:
        found, width = config.comix, tensors["agents.fc2_bias"].shape[-1]
        noise = draws(found, spec.n_actions, torch.device("cpu")).numpy().astype("<f4").tobytes()
        search = Search(width, found.candidates, found.elites, found.iterations, noise)
    return Head(spec.box.low, spec.box.high, search=search)


def _network(arrays: dict[str, NDArray], group: int, config: Config) -> Network:
    critic = "agents.fc3_weight" in arrays
    layers: dict[str, Layer] = dict.fromkeys(LAYERS, NO_LAYER)
    for name, rows in ((layer.name, layer.rows) for layer in agent_layers(config, critic)):
        mask, weight, layer = arrays.get(f"masks.agents.{name}"), arrays[f"agents.{name}"][group], LAYER_OF[name]
        own, block = None if mask is None else mask[group], 1 if mask is None else rows
        if critic and layer == "fc2":  # the memory's columns, then the action's
            hidden = arrays["agents.fc1_bias"].shape[-1]
            layers["act"] = Layer.from_dense(weight[:, hidden:], None if own is None else own[:, hidden:], block)
            weight, own = weight[:, :hidden], None if own is None else own[:, :hidden]
        layers[layer] = Layer.from_dense(weight, own, block, SEGMENTS[layer])
    named = ("fc1_bias", "fc2_bias", "fc3_bias")[: 3 if critic else 2]
    biases = {name: arrays[f"agents.{name}"][group] for name in named}
    if not config.net.recurrent:
        return Network(**layers, **biases, gru_bias=NO_BIAS, mid_bias=arrays["agents.mid_bias"][group])
    bias_ih, bias_hh = (arrays[f"agents.{name}"][group].reshape(3, -1) for name in ("bias_ih", "bias_hh"))
    return Network(
        **layers,
        **biases,
        gru_bias=np.stack([bias_ih[0] + bias_hh[0], bias_ih[1] + bias_hh[1], bias_ih[2], bias_hh[2]]),
    )


def _info(config: Config, spec: EnvSpec, header: dict[str, Any]) -> dict[str, Any]:
    """The free part of the manifest: where this policy comes from, and what rebuilds its environment."""
    return {
        "env": spec.env,
        "env_version": spec.version,
        "map": spec.map,
        "env_settings": {name: getattr(config.env, name) for name in ("team_reward", "episode_limit", "options")},
        "episode_limit": spec.episode_limit,
        "algorithm": config.algorithm,
        "method": config.method,
        **({"normalised": header["normalised"]} if header.get("normalised") else {}),
        "seed": config.seed,
        "steps": header["step"],
        "win_rate": _win_rate(header["evaluation"]),
    }


def _win_rate(evaluation: dict[str, Any] | None) -> float | None:
    if evaluation is None or evaluation["wins"] is None:
        return None
    return round(evaluation["wins"] / evaluation["episodes"], 4)
