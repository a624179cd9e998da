"""Winning tickets: the last masks of a finished run, to be worn by fresh weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mast_train import checkpoint
from mast_train.config import Config
from mast_train.errors import UserError


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
