"""What a new run takes over from another: a winning ticket's last masks for fresh weights, or networks and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.runs import checkpoint
from mast_train.settings.config import Config, flatten
from mast_train.settings.errors import UserError


def ticket(config: Config) -> tuple[Config, dict[str, Tensor]]:
    """The config with the sparsity and blocks of the run at `sparse.masks_from`, and that run's masks, named as in
    Learner.state_dict. Raises UserError when there is no such run, or it is unfinished or dense."""
    folder = Path(config.sparse.masks_from)
    tensors, header = checkpoint.read(folder / "checkpoint.safetensors")
    source, step = checkpoint.config_of(header), header["step"]
    if step < source.train.total_steps:
        raise UserError(f"{folder}: its masks are not final, step {step:,} of {source.train.total_steps:,}; finish it")
    named = {name.removeprefix("learner."): tensor for name, tensor in tensors.items()}
    masks = {name: tensor for name, tensor in named.items() if name.startswith("masks.")}
    if not masks:
        raise UserError(f"{folder}: a dense run has no masks; name a sparse one")
    given = source.sparse
    sparse = replace(
        config.sparse, agent_sparsity=given.agent_sparsity, mixer_sparsity=given.mixer_sparsity, block=given.block
    )
    return replace(config, sparse=sparse), masks


SHAPE = (
    "algorithm", "env.normalise", "net.hidden", "net.shared", "net.last_action", "net.recurrent",
    "facmac.mixer", "facmac.twin", "comix.twin", "mixer.embed", "mixer.hypernet_hidden", "wqmix.embed",
    "sparse.agent_sparsity", "sparse.mixer_sparsity",
    "sparse.block.fc1", "sparse.block.gru", "sparse.block.fc2", "sparse.block.mixer",
)  # fmt: skip
"""Settings that networks and masks are made by, and what they read."""


def warm_start(config: Config, spec: EnvSpec) -> dict[str, Tensor]:
    """Networks and masks of the last checkpoint of the run at `train.weights_from`, named as in Learner.state_dict.

    Its optimiser, replay and random streams are left behind. Raises UserError when there is no such run, or its
    networks are of another shape than `config` and `spec` ask for.
    """
    folder = Path(config.train.weights_from)
    tensors, header = checkpoint.read(folder / "checkpoint.safetensors")
    given, wanted = flatten(checkpoint.config_of(header)), flatten(config)
    for key in SHAPE:
        if given[key] != wanted[key]:
            raise UserError(f"{folder}: its networks have {key} = {given[key]!r}, not {wanted[key]!r}; keep that")
    source = checkpoint.spec_of(header)
    kinds = ["discrete" if own.box is None else "continuous" for own in (source, spec)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{folder}: its actions are {kinds[0]}, those of {spec.env} {spec.map} {kinds[1]}; they must agree"
        )
    trained, here = ((s.n_agents, s.obs_dim, s.n_actions, s.state_dim) for s in (source, spec))
    if trained != here:
        raise UserError(
            f"{folder}: its networks are for (agents, obs, actions, state) = {trained}, {spec.env} {spec.map} has "
            f"{here}; choose an environment of that shape"
        )
    return {name.removeprefix("learner."): tensor for name, tensor in tensors.items()}
