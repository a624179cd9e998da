"""Checkpoints: safetensors with a JSON header, written beside and renamed. Nothing is unpickled.

`checkpoint.safetensors` and `replay-STEP.safetensors` together resume a run exactly. A checkpoint replaces the last one
only once its episodes are on the disk, so a crash at any point leaves a pair. `snapshots/step-*.safetensors`
hold the agents and their masks at each evaluation.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mast_runtime.bundle import write_atomically
from mast_train.envs.base import EnvSpec
from mast_train.envs.box import box_of
from mast_train.settings.config import Config, flatten, override
from mast_train.settings.errors import UserError

FORMAT = "mast-checkpoint-1"


def write(path: Path, tensors: dict[str, torch.Tensor], config: Config, spec: EnvSpec, meta: dict[str, Any]) -> None:
    """Save tensors and their context; the old file stays when writing fails. Raises UserError."""
    put(path, encoded(tensors, config, spec, meta))


def encoded(tensors: dict[str, torch.Tensor], config: Config, spec: EnvSpec, meta: dict[str, Any]) -> bytes:
    """The file that `write` writes."""
    header = {"format": FORMAT, "config": flatten(config), "spec": asdict(spec), **meta}
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, {"mast": json.dumps(header)})


def put(path: Path, data: bytes) -> None:
    """Write beside and rename. Raises UserError."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError(
            f"{path}: not saved ({error.strerror or error}); the earlier file, if any, is untouched"
        ) from error


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, header) of a file written here. Raises UserError for anything else."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a run saves every train.save_minutes, at Ctrl-C and at its end")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("mast", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a checkpoint ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of MAST (expected format {FORMAT})")
    return tensors, header


def config_of(header: dict[str, Any]) -> Config:
    """The Config a header holds. Raises UserError for keys this version does not know."""
    return override(Config(), header["config"])


def spec_of(header: dict[str, Any]) -> EnvSpec:
    """The EnvSpec a header holds."""
    given = header["spec"]
    names = tuple(tuple(row) for row in given.get("obs_names", ()))
    own = {"agent_types": tuple(given["agent_types"]), "obs_names": names, "box": box_of(given.get("box"))}
    return EnvSpec(**{**given, **own})
