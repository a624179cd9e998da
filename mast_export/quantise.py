"""Narrower weights: float16, or int8 with one scale per output.

Biases and scales then take values that float16 holds, in which a bundle stores them; arithmetic stays float32.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_runtime import Bundle, Layer, Network

I8_LEVELS = 127
"""int8 is used symmetrically: -127 to 127."""


def quantise(bundle: Bundle, dtype: str) -> Bundle:
    """The bundle with weights stored as `dtype` (f32, f16, i8); connections and blocks are unchanged.

    Biases that float16 cannot hold stay as they are. Raises ExportError for a weight that it cannot hold, ValueError
    for another dtype.
    """
    if dtype not in _CONVERT:
        raise ValueError(f"unknown weight dtype {dtype!r}; choose from {', '.join(_CONVERT)}")
    return replace(bundle, networks=tuple(_network(network, dtype) for network in bundle.networks))


def _network(network: Network, dtype: str) -> Network:
    parts = {name: _CONVERT[dtype](name, layer) for name, layer in network.layers().items()}
    if dtype != "f32":
        parts |= {name: _half(getattr(network, name)) for name in network.parts.biases}
    return replace(network, **parts, recording=None)  # of which the actions are those of other weights


def _half(values: NDArray[np.float32], up: bool = False) -> NDArray[np.float32]:
    """Rounded to what float16 holds, upwards if so asked; values beyond its range stay."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
        if up:
            narrow = np.where(narrow < values, np.nextafter(narrow, np.float16(np.inf)), narrow)
    return np.where(np.isfinite(narrow), narrow.astype(np.float32), values)


def _encode(layer: Layer, matrix: np.ndarray) -> Layer:
    """`matrix` [outputs, inputs] stored as `layer` is."""
    mask = None if layer.is_dense else layer.mask()
    return Layer.from_dense(matrix, mask, layer.block, layer.segments)


def _f32(name: str, layer: Layer) -> Layer:
    return _encode(layer, layer.dense())


def _f16(name: str, layer: Layer) -> Layer:
    encoded = _encode(layer, layer.dense())
    with np.errstate(over="ignore"):
        values = encoded.values.astype(np.float16)
    if not np.isfinite(values).all():
        largest = np.abs(encoded.values).max()
        raise ExportError(f"{name}: a weight of {largest:.4g} does not fit float16 (at most 65504); export f32 or i8")
    return replace(encoded, values=values)


def _i8(name: str, layer: Layer) -> Layer:
    """w = scale * q with scale = max |w| / 127 over the inputs of one output, rounded up so that |q| <= 127."""
    matrix = layer.dense()
    scale = _half(np.abs(matrix).max(axis=1, initial=0.0) / np.float32(I8_LEVELS), up=True)
    scale[scale == 0.0] = 1.0
    encoded = _encode(layer, np.rint(matrix / scale[:, None]))
    return replace(encoded, values=encoded.values.astype(np.int8), scale=scale)


_CONVERT = {"f32": _f32, "f16": _f16, "i8": _i8}
