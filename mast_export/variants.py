"""Policies beside a given one for `mast bench --full`: its other weight types, and its architecture in other blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mast_export.quantise import quantise
from mast_export.verify import weights_dtype
from mast_runtime import Bundle, Layer, Network
from mast_runtime.format import VALUE_DTYPES
from mast_runtime.network import LAYERS

BLOCKS: dict[str, Mapping[str, int]] = {
    "1x1": {},
    "8x1": dict.fromkeys(LAYERS, 8),
    "16x1": dict.fromkeys(LAYERS, 16),
    "16x1 GRU": {"weight_ih": 16, "weight_hh": 16},
}
"""Block rows of each layer, 1 where not named."""


def variants(bundle: Bundle, seed: int = 0) -> dict[str, Bundle]:
    """`sparse DTYPE`: the policy in the weight types that it is not in; `random SHAPE`: untrained weights, in blocks.

    Random networks have the given sizes and each layer's share of connections, to the nearest block; a dense policy
    has none.
    """
    others = [dtype for dtype in VALUE_DTYPES if dtype != weights_dtype(bundle)]
    kind = "sparse" if bundle.sparsity > 0.0 else "dense"
    found = {f"{kind} {dtype}": quantise(bundle, dtype) for dtype in others}
    if bundle.sparsity > 0.0:
        rng = np.random.default_rng(seed)
        for name, blocks in BLOCKS.items():
            networks = tuple(_random_network(rng, network, blocks) for network in bundle.networks)
            found[f"random {name}"] = replace(bundle, networks=networks, path=None)
    return found


def _random_network(rng: np.random.Generator, network: Network, blocks: Mapping[str, int]) -> Network:
    layers = {name: _random_layer(rng, layer, blocks.get(name, 1)) for name, layer in network.layers().items()}
    return replace(network, **layers)


def _random_layer(rng: np.random.Generator, layer: Layer, block: int) -> Layer:
    """A layer of the same sizes and as nearly as whole blocks allow the same number of connections."""
    size = layer.outputs // layer.segments
    rows = -(-size // block)
    alive = np.zeros(layer.segments * rows * layer.inputs, np.bool_)
    alive[rng.choice(alive.size, round((1.0 - layer.sparsity) * alive.size), replace=False)] = True
    grid = alive.reshape(layer.segments, rows, layer.inputs)
    mask = np.repeat(grid, block, axis=1)[:, :size].reshape(layer.outputs, layer.inputs)
    fan_in = max(1.0, (1.0 - layer.sparsity) * layer.inputs)
    weight = rng.standard_normal(mask.shape).astype(np.float32) / np.float32(fan_in**0.5)
    return Layer.from_dense(np.where(mask, weight, np.float32(0.0)), mask, block, layer.segments)
