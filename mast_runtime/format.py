"""The `.mast` format (docs/format.md): from a JSON manifest and flat tensors to a policy, without numpy.

Decoding trusts nothing: sizes agree with the manifest before anything is expanded, blocks are in range, values are
finite. One error type, naming the tensor.
"""

from __future__ import annotations

import json
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, compress, islice, pairwise
from math import isfinite, prod
from typing import Any, NamedTuple

from mast_runtime.arrays import Buffer, buffer, part, plain
from mast_runtime.errors import BundleError
from mast_runtime.head import decode_head
from mast_runtime.inputs import MAX_STEPS, Inputs, decode_continuous, decode_names, decode_recordings, decode_statistics
from mast_runtime.network import ARCHITECTURES, CRITIC, LAYERS, NO_BIAS, NO_LAYER, Contract, Layer, Network
from mast_runtime.shapes import bias_shapes, outputs_of, shape
from mast_runtime.tensors import NAMES

FORMAT_VERSION = 3
MAX_DIMENSION = 65_535
MAX_AGENTS = 4_096
MAX_WEIGHTS = 1 << 27
"""Dense weights a bundle may describe over all its networks: 512 MiB in float32."""
MAX_MANIFEST_CHARACTERS = 1 << 22
MAX_SCALE = (2 - 2.0**-23) * 2.0**127 / 128
"""So that no scaled int8 weight overflows."""
VALUE_DTYPES = {"f32": "float32", "f16": "float16", "i8": "int8"}
SKIP = 255
"""In the index: so many places without a block."""
STEPS = bytes([*range(1, SKIP + 1), SKIP])
"""Places that each byte of the index moves on."""
IS_BLOCK = bytes([1] * SKIP + [0])
FINITE_HIGH = {code: bytes(x for x in range(256) if x & ones != ones) for code, ones in (("e", 0x7C), ("f", 0x7F))}
"""High bytes that only finite values have; all finite float16 values have them."""


@dataclass(frozen=True)
class AgentInfo:
    """One agent: name, unit type, position `index` in the team (its one-hot id), and the network it runs."""

    name: str
    type: str
    index: int
    network: int


class Identity(NamedTuple):
    """Which policy this is: the digest of its file (SHA-256, 64 hexadecimal digits; "" where it has none yet), the
    version that its maker gave it ("": none), and the program that wrote it."""

    digest: str = ""
    version: str = ""
    producer: str = ""


Decoded = tuple[Contract, tuple[AgentInfo, ...], tuple[Network, ...], dict[str, Any], Identity]


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
    no_policy = BundleError("it describes no policy; mast export makes a .mast file from a run", "manifest")
    if not {"contract", "version"} & manifest.keys():
        raise no_policy
    version = manifest.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        older = type(version) is int and version < FORMAT_VERSION
        advice = "export the policy again: mast export RUN" if older else "update MAST"
        raise BundleError(f"format version {version!r:.80}, this runtime reads {FORMAT_VERSION}; {advice}", "manifest")
    if "contract" not in manifest:
        raise no_policy
    given = manifest.get("architecture")
    if not isinstance(given, str) or given not in ARCHITECTURES:
        known = f"this runtime runs {', '.join(map(repr, ARCHITECTURES))}"
        raise BundleError(f"architecture {given!r:.80}, {known}; update MAST", "manifest")
    return manifest


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def decode(manifest: dict[str, Any], tensors: dict[str, Buffer]) -> Decoded:
    """The validated contents of a file; empties `tensors`. Raises BundleError."""
    contract, agents, sizes, blocks, identity = _decode_header(manifest)
    of = ARCHITECTURES[manifest["architecture"]]
    shapes = [shape(name, contract, fc1, hidden, blocks[name]) for fc1, hidden in sizes for name in of.layers]
    layers = _decode_layers(shapes, tensors)
    biases = _decode_biases([bias_shapes(of, contract, fc1, hidden) for fc1, hidden in sizes], tensors)
    contract = _with_noise(contract, tensors)
    seen = _decode_seen(manifest, contract, agents, len(sizes), tensors)
    if tensors:
        raise BundleError(f"tensor {min(tensors)!r:.80} does not belong to this format")
    parts: list[dict[str, Any]] = [
        dict.fromkeys(LAYERS, NO_LAYER)
        | {"gru_bias": NO_BIAS}
        | {name: next(layers) for name in of.layers}
        | {name: next(biases) for name in of.biases}
        for _ in sizes
    ]
    networks = tuple(Network(**part, **own) for part, own in zip(parts, seen, strict=True))
    return contract, agents, networks, manifest["info"], identity


def _with_noise(contract: Contract, tensors: dict[str, Buffer]) -> Contract:
    """The contract with the table of its search, where it has one."""
    head = contract.head
    if head is None or head.search is None:
        return contract
    size = head.search.candidates * contract.n_actions
    noise = plain(_take(tensors, "noise", "f", head.search.iterations * size), "f")
    if sys.byteorder == "big":
        noise.byteswap()
    return replace(contract, head=replace(head, search=replace(head.search, noise=noise.tobytes())))


def _decode_seen(
    manifest: dict[str, Any],
    contract: Contract,
    agents: Sequence[AgentInfo],
    networks: int,
    tensors: dict[str, Buffer],
) -> list[dict[str, Any]]:
    """Network.inputs and Network.recording of each network, of a file that has them."""
    steps = manifest.get("recorded_steps", 0)
    if type(steps) is not int or not 0 <= steps <= MAX_STEPS:
        raise BundleError(f"recorded_steps {steps!r:.80}, expected 0 to {MAX_STEPS}", "manifest")
    if "inputs" not in tensors:
        if steps or "names" in tensors:
            raise BundleError("missing, though the file has names of inputs or a recording", "inputs")
        return [{}] * networks
    size = contract.obs_dim
    statistics = decode_statistics(_take(tensors, "inputs", "fe", networks * 4 * size), networks, size)
    named: list[dict[str, Any]] = [{}] * networks
    if "names" in tensors:
        found = decode_names(_take(tensors, "names", "B"), networks, size)
        named = [{"names": names, "units": units} for names, units in found]
    inputs = [{"inputs": Inputs(**own, **words)} for own, words in zip(statistics, named, strict=True)]
    if not steps:
        return inputs
    packed, head = _take(tensors, "recording", "B"), contract.head
    if head is None:
        recordings = decode_recordings(packed, steps, networks, size, contract.n_actions)
    else:
        first = [next((a.index for a in agents if a.network == i), 0) for i in range(networks)]
        recordings = decode_continuous(packed, steps, size, [head.bounds(index) for index in first])
    return [own | {"recording": recording} for own, recording in zip(inputs, recordings, strict=True)]


def _decode_header(
    manifest: dict[str, Any],
) -> tuple[Contract, tuple[AgentInfo, ...], list[tuple[int, int]], dict[str, int], Identity]:
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
        of = ARCHITECTURES[manifest["architecture"]].layers
        blocks = {name: _integer(manifest["blocks"][name], 0, 64) for name in of}
        identity = Identity(*(_text(manifest[key]) for key in ("digest", "policy_version", "producer")))
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
    contract = replace(contract, head=decode_head(manifest.get("head"), contract.n_agents, contract.n_actions))
    searches = contract.head is not None and contract.head.search is not None
    if searches != manifest["architecture"].endswith(CRITIC) or outputs_of(contract) > MAX_DIMENSION:
        raise BundleError(f"a head that does not fit the architecture {manifest['architecture']!r}", "manifest")
    shapes = (shape(name, contract, fc1, hidden, blocks[name]) for fc1, hidden in sizes for name in of)
    total = sum(layer.outputs * layer.inputs for layer in shapes)
    if total > MAX_WEIGHTS:
        raise BundleError(f"describes {total} weights, at most {MAX_WEIGHTS}", "manifest")
    return contract, agents, sizes, blocks, identity


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


def _take(tensors: dict[str, Buffer], name: str, codes: str, size: int | None = None) -> Buffer:
    """The named tensor, of one of these types, finite, of one dimension."""
    if name not in tensors:
        raise BundleError("missing", name)
    tensor = tensors.pop(name)
    if tensor.code not in codes:
        expected = ", ".join(NAMES[code] for code in codes)
        raise BundleError(f"dtype {NAMES[tensor.code]}, expected one of {expected}", name)
    if len(tensor.shape) != 1 or (size is not None and tensor.size != size):
        raise BundleError(f"shape {list(tensor.shape)}, expected [{'n' if size is None else size}]", name)
    if tensor.code in "ef" and not _finite(tensor):
        raise BundleError("holds a value that is not finite", name)
    return tensor


def _finite(tensor: Buffer) -> bool:
    size = {"f": 4, "e": 2}[tensor.code]
    high = bytes(tensor.data[size - 1 if sys.byteorder == "little" else 0 :: size])
    if not high.translate(None, FINITE_HIGH[tensor.code]):
        return True
    return tensor.code == "f" and isfinite(sum(tensor.data.cast("f")))  # in float64, which no such sum overflows


def _decode_biases(shapes: list[list[tuple[int, ...]]], tensors: dict[str, Buffer]) -> Iterator[Buffer]:
    flat = [shape for network in shapes for shape in network]
    ends = list(accumulate(map(prod, flat)))
    bias = plain(_take(tensors, "bias", "fe", ends[-1]), "f")
    return (buffer("f", bias[end - prod(shape) : end], shape) for shape, end in zip(flat, ends, strict=True))


def _decode_layers(shapes: list[Layer], tensors: dict[str, Buffer]) -> Iterator[Layer]:
    """The layers with their contents."""
    values = _take(tensors, "values", "feb")
    scales = _decode_scales(shapes, tensors) if values.code == "b" else [None] * len(shapes)
    grids = [0 if layer.is_dense else layer.block_rows * layer.inputs for layer in shapes]
    starts = list(accumulate(grids, initial=0))
    places = _decode_index(_take(tensors, "index", "B"), starts[-1])
    cuts = [bisect_left(places, start) for start in starts]
    sizes = [
        layer.outputs * layer.inputs if layer.is_dense else (end - first) * layer.block
        for layer, (first, end) in zip(shapes, pairwise(cuts), strict=True)
    ]
    if values.size != sum(sizes):
        raise BundleError(f"{values.size} values, expected {sum(sizes)}", "values")
    layers = []
    for i, (layer, at) in enumerate(zip(shapes, accumulate(sizes[:-1], initial=0), strict=True)):
        shape = (layer.outputs, layer.inputs) if layer.is_dense else (sizes[i] // layer.block, layer.block)
        own = part(values, at, at + sizes[i])._replace(shape=shape)
        layers.append(_filled(layer, own, scales[i], places[cuts[i] : cuts[i + 1]], starts[i]))
    return iter(layers)


def _decode_scales(layers: list[Layer], tensors: dict[str, Buffer]) -> list[Buffer]:
    ends = list(accumulate(layer.outputs for layer in layers))
    scale = plain(_take(tensors, "scale", "fe", ends[-1]), "f")
    if min(scale) < 0.0 or max(scale) > MAX_SCALE:
        raise BundleError(f"holds a value outside [0, {MAX_SCALE:.4g}]", "scale")
    return [buffer("f", scale[end - layer.outputs : end]) for layer, end in zip(layers, ends, strict=True)]


def _decode_index(index: Buffer, grid: int) -> array[int]:
    """The places of the blocks [n_blocks], strictly increasing, in a grid of so many places."""
    if index.size > grid:
        raise BundleError(f"{index.size} steps, the sparse layers have {grid} places", "index")
    content = bytes(index.data)
    steps = content.translate(STEPS)
    if sum(steps) > grid:
        raise BundleError(f"place {sum(steps) - 1}, the sparse layers have {grid}", "index")
    places = islice(accumulate(steps, initial=-1), 1, None)
    return array("I", compress(places, content.translate(IS_BLOCK)))


def _filled(layer: Layer, values: Buffer, scale: Buffer | None, places: array[int], start: int) -> Layer:
    """The layer with its values, in blocks at these places of its grid, which starts at `start`, if it is sparse."""
    if layer.is_dense:
        return Layer(layer.outputs, layer.inputs, values, scale=scale, segments=layer.segments)
    rows, n, block = layer.block_rows, layer.inputs, layer.block
    cuts = [bisect_left(places, start + row * n) for row in range(rows + 1)]
    for (_, length), (first, end) in zip(layer.block_spans(), pairwise(cuts), strict=True):
        if length < block and first < end:
            row = plain(part(values, first, end), "f")
            if any(any(row[k::block]) for k in range(length, block)):
                raise BundleError("the padding of a short block is not zero", "values")
    counts = buffer("i", [end - first for first, end in pairwise(cuts)])
    columns = buffer("H", [(place - start) % n for place in places])
    return Layer(layer.outputs, n, values, counts, columns, scale, block, layer.segments)
