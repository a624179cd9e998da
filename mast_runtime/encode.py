"""Writes the `.mast` format (docs/format.md): a policy as a JSON manifest and flat tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.format import BIASES, FORMAT_VERSION, SKIP, AgentInfo
from mast_runtime.network import Contract, Layer, Network


def encode(
    contract: Contract, agents: Sequence[AgentInfo], networks: Sequence[Network], info: dict[str, Any]
) -> tuple[str, dict[str, NDArray]]:
    """The manifest's text and the tensors. Raises ValueError for networks stored in different encodings."""
    layers = [layer for network in networks for layer in network.layers().values()]
    blocks = [{name: _block(layer) for name, layer in network.layers().items()} for network in networks]
    if any(block != blocks[0] for block in blocks) or len({layer.values.dtype for layer in layers}) > 1:
        raise ValueError("every network of a bundle has the same blocks, and every layer the same type of weights")
    tensors = {
        "values": np.concatenate([layer.values.ravel() for layer in layers]),
        "index": _encode_index(layers),
        "bias": _narrowest(np.concatenate([getattr(x, bias).ravel() for x in networks for bias in BIASES])),
    }
    if layers[0].values.dtype == np.int8:
        tensors["scale"] = _narrowest(np.concatenate([layer.scale for layer in layers if layer.scale is not None]))
    manifest = {
        "version": FORMAT_VERSION,
        "contract": asdict(contract),
        "agents": [asdict(agent) for agent in agents],
        "networks": [[network.fc1.outputs, network.hidden] for network in networks],
        "blocks": blocks[0],
        "info": info,
    }
    return json.dumps(manifest, separators=(",", ":"), allow_nan=False), tensors


def _block(layer: Layer) -> int:
    return 0 if layer.is_dense else layer.block


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
