"""Files of named arrays: .safetensors, .npz, and torch's .pt, .pth and .th, without unpickling an object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError

TORCH = (".pt", ".pth", ".th")
SUFFIXES = (".safetensors", ".npz", *TORCH)
Arrays = dict[tuple[str, ...], NDArray]
"""By the parts of a name, whatever separates them in the file."""
ADVICE = "save the weights alone: safetensors.torch.save_file(model.state_dict(), 'policy.safetensors')"


def read_arrays(path: Path) -> Arrays:
    """Every numeric array of a file, 0 dimensions left out. Raises ExportError, FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.suffix == ".safetensors":
        named = _read_safetensors(path)
    elif path.suffix == ".npz":
        named = _read_npz(path)
    elif path.suffix in TORCH:
        named = _read_torch(path)
    else:
        raise ExportError(f"{path}: expected .onnx, {', '.join(SUFFIXES)}")
    arrays = {tuple(filter(None, re.split(r"[.,/]", name))): array for name, array in named.items()}
    found = {name: array for name, array in arrays.items() if array.ndim and array.dtype.kind == "f"}
    if not found:
        raise ExportError(f"{path}: it holds no arrays of numbers; {ADVICE}")
    return found


def _read_safetensors(path: Path) -> dict[str, NDArray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, TypeError, AttributeError) as error:  # TypeError: a type that numpy has not, bfloat16
        raise ExportError(f"{path}: not readable ({error}); save it as float32 safetensors") from error


def _read_npz(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError) as error:
        raise ExportError(f"{path}: no .npz of plain arrays ({error}); flatten the parameters first") from error


def _read_torch(path: Path) -> dict[str, NDArray]:
    if find_spec("torch") is None:
        raise ExportError(f"{path}: reading torch's own files needs torch; where it is, {ADVICE}")
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise whatever its parts do
        raise ExportError(f"{path}: torch does not load it as weights alone; {ADVICE}") from error
    if not isinstance(content, Mapping):
        raise ExportError(f"{path}: it holds a {type(content).__name__}, no state dict; {ADVICE}")
    return {name: tensor.detach().float().numpy() for name, tensor in _tensors(content, torch.Tensor)}


def _tensors(content: Mapping[Any, Any], kind: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors of nested dicts by their joined names, optimisers' left out."""
    for key, value in content.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, kind):
            yield name, value
        elif isinstance(value, Mapping) and "optim" not in str(key):
            yield from _tensors(value, kind, name)
