"""Writes the `.mast` format (docs/format.md): a policy as a JSON manifest and flat tensors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_save

from mast_runtime.digest import BLANK, sealed
from mast_runtime.format import FORMAT_VERSION, SKIP, AgentInfo, Identity
from mast_runtime.head import manifest_of
from mast_runtime.inputs import STATISTICS, Inputs, Recording
from mast_runtime.network import Contract, Layer, Network
from mast_runtime.version import __version__


def encode(
    contract: Contract,
    agents: Sequence[AgentInfo],
    networks: Sequence[Network],
    info: dict[str, Any],
    identity: Identity,
) -> bytes:
    """The file's bytes. Its digest is its own, whatever `identity` says; a missing producer is this program.

    Raises ValueError for networks stored in different encodings, or of which only some have inputs or a recording.
    """
    layers = [layer for network in networks for layer in network.layers().values()]
    blocks = [{name: _block(layer) for name, layer in network.layers().items()} for network in networks]
    if len({network.architecture for network in networks}) > 1:
        raise ValueError("every network of a bundle has the same architecture")
    if any(block != blocks[0] for block in blocks) or len({layer.values.dtype for layer in layers}) > 1:
        raise ValueError("every network of a bundle has the same blocks, and every layer the same type of weights")
    tensors = {
        "values": np.concatenate([layer.values.ravel() for layer in layers]),
        "index": _encode_index(layers),
        "bias": _narrowest(np.concatenate([getattr(x, bias).ravel() for x in networks for bias in x.parts.biases])),
    }
    if layers[0].values.dtype == np.int8:
        tensors["scale"] = _narrowest(np.concatenate([layer.scale for layer in layers if layer.scale is not None]))
    if contract.head is not None and contract.head.search is not None:
        tensors["noise"] = np.frombuffer(contract.head.search.noise, "<f4").astype(np.float32)
    recordings = _all_or_none([network.recording for network in networks], "a recording")
    manifest = {
        "digest": BLANK,  # the first of the file: `sealed` looks for it
        "version": FORMAT_VERSION,
        "policy_version": identity.version,
        "producer": identity.producer or f"mast-marl {__version__}",
        "architecture": networks[0].architecture,
        "head": manifest_of(contract.head),
        "contract": contract.sizes(),
        "agents": [asdict(agent) for agent in agents],
        "networks": [[network.fc1.outputs, network.hidden] for network in networks],
        "blocks": blocks[0],
        "recorded_steps": len(recordings[0]) if recordings else 0,
        "info": info,
    }
    tensors |= _encode_inputs(_all_or_none([network.inputs for network in networks], "inputs"))
    if recordings:
        tensors["recording"] = _encode_recordings(recordings, contract.n_actions)
    text = json.dumps(manifest, separators=(",", ":"), allow_nan=False)
    return sealed(safetensors_save(tensors, {"mast": text}))


def _all_or_none(parts: list, what: str) -> list:
    found = [part for part in parts if part is not None]
    if found and len(found) < len(parts):
        raise ValueError(f"every network of a bundle has {what}, or none has")
    return found


def _block(layer: Layer) -> int:
    return 0 if layer.is_dense else layer.block


def _encode_inputs(inputs: Sequence[Inputs]) -> dict[str, NDArray]:
    """Tensors `inputs` [networks x 4 x O], and `names` where there are any."""
    if not inputs:
        return {}
    values = np.concatenate([np.concatenate([getattr(own, name) for name in STATISTICS]) for own in inputs])
    tensors = {"inputs": _narrowest(values.astype(np.float32))}
    if any(own.names for own in inputs):
        lines = chain(*(map("\t".join, zip(own.names, own.units, strict=True)) for own in inputs))
        tensors["names"] = _deflated("\n".join(line.removesuffix("\t") for line in lines).encode())
    return tensors


def _encode_recordings(recordings: Sequence[Recording], n_actions: int) -> NDArray[np.uint8]:
    parts = []
    for own in recordings:
        codes = np.frombuffer(own.obs, np.uint8).reshape(-1, len(own))
        steps = np.diff(codes, axis=1, prepend=np.uint8(0))
        if not own.avail:
            parts += [steps.tobytes(), own.starts, np.array(own.actions, "<f4").tobytes()]
            continue
        low = bytes(action % 256 for action in own.actions)
        high = bytes(action // 256 for action in own.actions) if n_actions > 256 else b""
        parts += [steps.tobytes(), own.avail, own.starts, low, high]
    return _deflated(b"".join(parts))


def _deflated(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def _encode_index(layers: Sequence[Layer]) -> NDArray[np.uint8]:
    """The places of all blocks in the sparse layers' grids [block_rows, inputs], one after another."""
    places, start = [np.zeros(0, np.int64)], 0
    for layer in layers:
        if layer.counts is not None and layer.columns is not None:
            row = np.repeat(np.arange(layer.block_rows), layer.counts)
            places.append(start + row * layer.inputs + layer.columns)
            start += layer.block_rows * layer.inputs
    empty = np.diff(np.concatenate(places), prepend=-1) - 1
    index = np.full(int((empty // SKIP + 1).sum()), SKIP, np.uint8)
    index[np.cumsum(empty // SKIP + 1) - 1] = empty % SKIP
    return index


def _narrowest(values: NDArray[np.float32]) -> NDArray:
    """In float16 where that holds every value exactly."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    return narrow if np.array_equal(narrow, values) else values
