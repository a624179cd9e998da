"""The `.mast` format (docs/format.md): a policy as a JSON manifest and flat tensors, and back.

Decoding trusts nothing: sizes agree with the manifest before anything is expanded, columns are strictly increasing and
in range, values are finite. One error type, naming the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.errors import BundleError
from mast_runtime.network import LAYERS, SEGMENTS, Contract, Layer, Network

FORMAT_VERSION = 1
MAX_DIMENSION = 65_535
MAX_AGENTS = 4_096
MAX_WEIGHTS = 1 << 27
"""Dense weights a bundle may describe over all its networks: 512 MiB in float32."""
MAX_MANIFEST_CHARACTERS = 1 << 22
MAX_SCALE = float(np.finfo(np.float32).max) / 128
"""So that no scaled int8 weight overflows."""
VALUE_DTYPES = {"f32": np.float32, "f16": np.float16, "i8": np.int8}


@dataclass(frozen=True)
class AgentInfo:
    """One agent: name, unit type, position `index` in the team (its one-hot id), and the network it runs."""

    name: str
    type: str
    index: int
    network: int


Decoded = tuple[Contract, tuple[AgentInfo, ...], tuple[Network, ...], dict[str, Any]]


def encode(
    contract: Contract, agents: Sequence[AgentInfo], networks: Sequence[Network], info: dict[str, Any]
) -> tuple[str, dict[str, NDArray]]:
    """The manifest's text and the tensors. Raises ValueError for networks stored in different encodings."""
    tensors: dict[str, NDArray] = {}
    for name in LAYERS:
        tensors.update(_encode_layers(name, [network.layers()[name] for network in networks]))
    for bias in ("fc1_bias", "gru_bias", "fc2_bias"):
        tensors[bias] = np.concatenate([getattr(network, bias).ravel() for network in networks])
    manifest = {
        "version": FORMAT_VERSION,
        "contract": asdict(contract),
        "agents": [asdict(agent) for agent in agents],
        "networks": [[network.fc1.outputs, network.hidden] for network in networks],
        "blocks": {name: 0 if layer.is_dense else layer.block for name, layer in networks[0].layers().items()},
        "info": info,
    }
    return json.dumps(manifest, separators=(",", ":"), allow_nan=False), tensors


def _encode_layers(name: str, layers: list[Layer]) -> dict[str, NDArray]:
    first = layers[0]
    if len({(layer.is_dense, layer.block, layer.values.dtype) for layer in layers}) > 1:
        raise ValueError(f"{name}: every network of a bundle stores this layer in one encoding")
    tensors = {f"{name}.values": np.concatenate([layer.values.ravel() for layer in layers])}
    if first.columns is not None:
        counts = np.concatenate([layer.counts for layer in layers if layer.counts is not None])
        columns = np.concatenate([layer.columns for layer in layers if layer.columns is not None])
        tensors[f"{name}.counts"] = counts.astype(_smallest(counts))
        tensors[f"{name}.columns"] = columns.astype(_smallest(columns))
    if first.scale is not None:
        tensors[f"{name}.scale"] = np.concatenate([layer.scale for layer in layers if layer.scale is not None])
    return tensors


def _smallest(values: NDArray) -> type:
    return np.uint8 if values.size == 0 or values.max() < 256 else np.uint16


def parse_manifest(text: str | None) -> dict[str, Any]:
    """The manifest's JSON object, of the version this runtime reads. Raises BundleError."""
    if text is None:
        raise BundleError("the file has no mast manifest; it is not a policy bundle", "manifest")
    if len(text) > MAX_MANIFEST_CHARACTERS:
        raise BundleError(f"{len(text)} characters, at most {MAX_MANIFEST_CHARACTERS}", "manifest")
    try:
        manifest = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"not JSON ({error})", "manifest") from error
    if not isinstance(manifest, dict):
        raise BundleError("not a JSON object", "manifest")
    version = manifest.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"format version {version!r:.80}, this runtime reads {FORMAT_VERSION}; update mast-marl", "manifest"
        )
    return manifest


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def decode(manifest: dict[str, Any], tensors: dict[str, NDArray]) -> Decoded:
    """The validated contents of a file; empties `tensors`. Raises BundleError."""
    contract, agents, sizes, blocks = _decode_header(manifest)
    layers: dict[str, Any] = {}
    for name in LAYERS:
        shapes = [_layer_shape(name, contract, fc1, hidden) for fc1, hidden in sizes]
        layers[name] = _decode_layers(name, shapes, blocks[name], tensors)
    layers |= {
        "fc1_bias": _decode_bias("fc1_bias", [(fc1,) for fc1, _ in sizes], tensors),
        "gru_bias": _decode_bias("gru_bias", [(4, hidden) for _, hidden in sizes], tensors),
        "fc2_bias": _decode_bias("fc2_bias", [(contract.n_actions,)] * len(sizes), tensors),
    }
    if tensors:
        raise BundleError(f"tensor {min(tensors)!r:.80} does not belong to this format")
    networks = tuple(Network(**{name: group[i] for name, group in layers.items()}) for i in range(len(sizes)))
    return contract, agents, networks, manifest["info"]


def _decode_header(
    manifest: dict[str, Any],
) -> tuple[Contract, tuple[AgentInfo, ...], list[tuple[int, int]], dict[str, int]]:
    try:
        raw = manifest["contract"]
        contract = Contract(
            *(_integer(raw[key], 1, limit) for key, limit in _CONTRACT_LIMITS.items()),
            last_action=_boolean(raw["last_action"]),
            agent_id=_boolean(raw["agent_id"]),
        )
        sizes = [
            (_integer(fc1, 1, MAX_DIMENSION), _integer(hidden, 1, MAX_DIMENSION // 3))
            for fc1, hidden in manifest["networks"]
        ]
        agents = tuple(
            AgentInfo(
                _text(agent["name"]),
                _text(agent["type"]),
                _integer(agent["index"], 0, contract.n_agents - 1),
                _integer(agent["network"], 0, len(sizes) - 1),
            )
            for agent in manifest["agents"]
        )
        blocks = {name: _integer(manifest["blocks"][name], 0, 64) for name in LAYERS}
        if not isinstance(manifest["info"], dict):
            raise ValueError("info is not an object")
        json.dumps(manifest["info"], ensure_ascii=False, allow_nan=False).encode()  # or it could not be shown or saved
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"malformed ({error!s:.200})", "manifest") from error
    if len({agent.index for agent in agents}) != len(agents):
        raise BundleError("two agents have the same index", "manifest")
    if not 1 <= len(agents) <= contract.n_agents or len(sizes) > len(agents):
        raise BundleError(
            f"{len(agents)} agents and {len(sizes)} networks for a team of {contract.n_agents}", "manifest"
        )
    if contract.input_dim > MAX_DIMENSION:
        raise BundleError(f"input of {contract.input_dim} values, at most {MAX_DIMENSION}", "manifest")
    shapes = (_layer_shape(name, contract, fc1, hidden) for fc1, hidden in sizes for name in LAYERS)
    total = sum(outputs * inputs for outputs, inputs in shapes)
    if total > MAX_WEIGHTS:
        raise BundleError(f"describes {total} weights, at most {MAX_WEIGHTS}", "manifest")
    return contract, agents, sizes, blocks


_CONTRACT_LIMITS = {"obs_dim": MAX_DIMENSION, "n_actions": MAX_DIMENSION, "n_agents": MAX_AGENTS}


def _integer(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r:.80} is not a whole number from {low} to {high}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.80} is not true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{value!r:.80} is not a printable string")
    return value


def _layer_shape(name: str, contract: Contract, fc1: int, hidden: int) -> tuple[int, int]:
    return {
        "fc1": (fc1, contract.input_dim),
        "weight_ih": (3 * hidden, fc1),
        "weight_hh": (3 * hidden, hidden),
        "fc2": (contract.n_actions, hidden),
    }[name]


def _take(tensors: dict[str, NDArray], name: str, dtypes: tuple[type, ...], size: int | None = None) -> NDArray:
    if name not in tensors:
        raise BundleError("missing", name)
    tensor = tensors.pop(name)
    if tensor.dtype.type not in dtypes:
        raise BundleError(f"dtype {tensor.dtype}, expected one of {', '.join(np.dtype(d).name for d in dtypes)}", name)
    if tensor.ndim != 1 or (size is not None and tensor.size != size):
        raise BundleError(f"shape {list(tensor.shape)}, expected [{'n' if size is None else size}]", name)
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BundleError("holds a value that is not finite", name)
    return tensor


def _decode_bias(name: str, shapes: list[tuple[int, ...]], tensors: dict[str, NDArray]) -> list[NDArray]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    flat = _take(tensors, name, (np.float32,), int(ends[-1]))
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def _decode_layers(name: str, shapes: list[tuple[int, int]], block: int, tensors: dict[str, NDArray]) -> list[Layer]:
    values = _take(tensors, f"{name}.values", tuple(VALUE_DTYPES.values()))
    segments = SEGMENTS[name]
    scales: list[NDArray | None] = [None] * len(shapes)
    if values.dtype == np.int8:
        ends = np.cumsum([out for out, _ in shapes])
        scale = _take(tensors, f"{name}.scale", (np.float32,), int(ends[-1]))
        if scale.min() < 0.0 or scale.max() > MAX_SCALE:
            raise BundleError(f"holds a value outside [0, {MAX_SCALE:.4g}]", f"{name}.scale")
        scales = list(np.split(scale, ends[:-1]))
    if block == 0:
        ends = np.cumsum([out * into for out, into in shapes])
        if values.size != ends[-1]:
            raise BundleError(f"{values.size} values, expected {ends[-1]}", f"{name}.values")
        parts = np.split(values, ends[:-1])
        return [
            Layer(out, into, part.reshape(out, into), scale=scale, segments=segments)
            for (out, into), part, scale in zip(shapes, parts, scales, strict=True)
        ]
    empty = [Layer(out, into, values[:0].reshape(0, block), block=block, segments=segments) for out, into in shapes]
    rows = [layer.block_rows for layer in empty]
    counts = _take(tensors, f"{name}.counts", (np.uint8, np.uint16), sum(rows)).astype(np.int32)
    columns = _take(tensors, f"{name}.columns", (np.uint8, np.uint16), int(counts.sum())).astype(np.uint16)
    if values.size != columns.size * block:
        raise BundleError(f"{values.size} values, expected {columns.size} blocks of {block}", f"{name}.values")
    values = values.reshape(-1, block)
    layers = []
    for layer, scale, count in zip(empty, scales, np.split(counts, np.cumsum(rows)[:-1]), strict=True):
        n = int(count.sum())
        layer = Layer(layer.outputs, layer.inputs, values[:n], count, columns[:n], scale, block, segments)
        layers.append(_check_layer(name, layer))
        values, columns = values[n:], columns[n:]
    return layers


def _check_layer(name: str, layer: Layer) -> Layer:
    assert layer.counts is not None and layer.columns is not None
    row = np.repeat(np.arange(layer.block_rows), layer.counts)
    columns = layer.columns.astype(np.int64)
    if columns.size and columns.max() >= layer.inputs:
        raise BundleError(f"column {columns.max()}, the layer has {layer.inputs} inputs", f"{name}.columns")
    if np.any((np.diff(columns) <= 0) & (np.diff(row) == 0)):
        raise BundleError("columns of a row are not strictly increasing", f"{name}.columns")
    surplus = np.arange(layer.block)[None] >= layer.row_lengths()[row][:, None]
    if np.any(layer.values[surplus]):
        raise BundleError("the padding of a short block is not zero", f"{name}.values")
    return layer
