"""The `.mast` format (docs/format.md): a policy as a JSON manifest and flat tensors, and back.

Decoding trusts nothing: sizes agree with the manifest before anything is expanded, blocks are in range, values are
finite. One error type, naming the tensor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.errors import BundleError
from mast_runtime.network import LAYERS, SEGMENTS, Contract, Layer, Network

FORMAT_VERSION = 2
MAX_DIMENSION = 65_535
MAX_AGENTS = 4_096
MAX_WEIGHTS = 1 << 27
"""Dense weights a bundle may describe over all its networks: 512 MiB in float32."""
MAX_MANIFEST_CHARACTERS = 1 << 22
MAX_SCALE = float(np.finfo(np.float32).max) / 128
"""So that no scaled int8 weight overflows."""
VALUE_DTYPES = {"f32": np.float32, "f16": np.float16, "i8": np.int8}
SKIP = 255
"""In the index: so many places without a block."""
BIASES = ("fc1_bias", "gru_bias", "fc2_bias")


@dataclass(frozen=True)
class AgentInfo:
    """One agent: name, unit type, position `index` in the team (its one-hot id), and the network it runs."""

    name: str
    type: str
    index: int
    network: int


_NONE = np.zeros(0)

Decoded = tuple[Contract, tuple[AgentInfo, ...], tuple[Network, ...], dict[str, Any]]


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
        advice = "export the policy again" if version == 1 else "update mast-marl"
        raise BundleError(f"format version {version!r:.80}, this runtime reads {FORMAT_VERSION}; {advice}", "manifest")
    return manifest


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def decode(manifest: dict[str, Any], tensors: dict[str, NDArray]) -> Decoded:
    """The validated contents of a file; empties `tensors`. Raises BundleError."""
    contract, agents, sizes, blocks = _decode_header(manifest)
    shapes = [_shape(name, contract, fc1, hidden, blocks[name]) for fc1, hidden in sizes for name in LAYERS]
    layers = iter(_decode_layers(shapes, tensors))
    biases = iter(_decode_biases([_bias_shapes(contract, fc1, hidden) for fc1, hidden in sizes], tensors))
    if tensors:
        raise BundleError(f"tensor {min(tensors)!r:.80} does not belong to this format")
    parts: list[dict[str, Any]] = [
        {name: next(layers) for name in LAYERS} | {name: next(biases) for name in BIASES} for _ in sizes
    ]
    networks = tuple(Network(**part) for part in parts)
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
    shapes = (_shape(name, contract, fc1, hidden, blocks[name]) for fc1, hidden in sizes for name in LAYERS)
    total = sum(layer.outputs * layer.inputs for layer in shapes)
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


def _shape(name: str, contract: Contract, fc1: int, hidden: int, block: int) -> Layer:
    """A layer without its values; one with columns, if only none, is sparse."""
    outputs, inputs = {
        "fc1": (fc1, contract.input_dim),
        "weight_ih": (3 * hidden, fc1),
        "weight_hh": (3 * hidden, hidden),
        "fc2": (contract.n_actions, hidden),
    }[name]
    columns = np.zeros(0, np.uint16) if block else None
    return Layer(outputs, inputs, _NONE, columns=columns, block=max(block, 1), segments=SEGMENTS[name])


def _bias_shapes(contract: Contract, fc1: int, hidden: int) -> list[tuple[int, ...]]:
    """Of BIASES."""
    return [(fc1,), (4, hidden), (contract.n_actions,)]


def _take(tensors: dict[str, NDArray], name: str, dtypes: Sequence[type], size: int | None = None) -> NDArray:
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


def _decode_biases(shapes: list[list[tuple[int, ...]]], tensors: dict[str, NDArray]) -> list[NDArray[np.float32]]:
    flat = [shape for network in shapes for shape in network]
    ends = np.cumsum([int(np.prod(shape)) for shape in flat])
    bias = _take(tensors, "bias", (np.float32, np.float16), int(ends[-1])).astype(np.float32)
    return [part.reshape(shape) for part, shape in zip(np.split(bias, ends[:-1]), flat, strict=True)]


def _decode_layers(shapes: list[Layer], tensors: dict[str, NDArray]) -> list[Layer]:
    """The layers with their contents."""
    values = _take(tensors, "values", tuple(VALUE_DTYPES.values()))
    scales = _decode_scales(shapes, tensors) if values.dtype == np.int8 else [None] * len(shapes)
    starts = np.cumsum([0] + [0 if layer.is_dense else layer.block_rows * layer.inputs for layer in shapes])
    places = _decode_index(_take(tensors, "index", (np.uint8,)), int(starts[-1]))
    blocks = np.split(places, np.searchsorted(places, starts[1:-1]))
    sizes = [
        layer.outputs * layer.inputs if layer.is_dense else own.size * layer.block
        for layer, own in zip(shapes, blocks, strict=True)
    ]
    if values.size != sum(sizes):
        raise BundleError(f"{values.size} values, expected {sum(sizes)}", "values")
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [
        _filled(replace(layer, scale=scale), part, own - start)
        for layer, scale, part, own, start in zip(shapes, scales, parts, blocks, starts[:-1], strict=True)
    ]


def _decode_scales(layers: list[Layer], tensors: dict[str, NDArray]) -> list[NDArray[np.float32]]:
    ends = np.cumsum([layer.outputs for layer in layers])
    scale = _take(tensors, "scale", (np.float32, np.float16), int(ends[-1])).astype(np.float32)
    if scale.min() < 0.0 or scale.max() > MAX_SCALE:
        raise BundleError(f"holds a value outside [0, {MAX_SCALE:.4g}]", "scale")
    return np.split(scale, ends[:-1])


def _decode_index(index: NDArray[np.uint8], grid: int) -> NDArray[np.int64]:
    """The places of the blocks [n_blocks], strictly increasing, in a grid of so many places."""
    if index.size > grid:
        raise BundleError(f"{index.size} steps, the sparse layers have {grid} places", "index")
    block = index != SKIP
    place = np.cumsum(index + block.astype(np.int64)) - 1
    if index.size and place[-1] >= grid:
        raise BundleError(f"place {place[-1]}, the sparse layers have {grid}", "index")
    return place[block]


def _filled(layer: Layer, values: NDArray, places: NDArray[np.int64]) -> Layer:
    """The layer with its values, in blocks at these places of its grid if it is sparse."""
    if layer.is_dense:
        return replace(layer, values=values.reshape(layer.outputs, layer.inputs))
    row, column = np.divmod(places, layer.inputs)
    values = values.reshape(-1, layer.block)
    if np.any(values[np.arange(layer.block)[None] >= layer.row_lengths()[row][:, None]]):
        raise BundleError("the padding of a short block is not zero", "values")
    counts = np.bincount(row, minlength=layer.block_rows).astype(np.int32)
    return replace(layer, values=values, counts=counts, columns=column.astype(np.uint16))
