"""Masks of a finished run, compact enough to commit: bits of one layer, and counts of the others."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

LAYERS = {"fc1_weight": "fc1", "weight_ih": "gru input", "weight_hh": "gru memory", "fc2_weight": "fc2"}
STEPS, PREFIX = 5, "masks.agents."
Mask = NDArray[np.bool_]


def collect_masks(folder: Path) -> dict[str, Any] | None:
    """fc1's masks of the first agent at up to five steps and of every agent at the end, and all layers' connections per
    input, per output and per unit type. None for a run without masks."""
    snapshots = sorted((folder / "snapshots").glob("step-*.safetensors"))
    if not snapshots:
        return None
    last, header = read_masks(snapshots[-1])
    if "fc1" not in last:
        return None
    spread = sorted({round(i * (len(snapshots) - 1) / (STEPS - 1)) for i in range(STEPS)})
    over = [(int(snapshots[i].stem.partition("-")[2]), read_masks(snapshots[i])[0]["fc1"][0]) for i in spread]
    groups, types = len(last["fc1"]), header["spec"]["agent_types"]
    labels = types if groups == len(types) else ["shared"] * groups
    return {
        "run": folder.name,
        "shape": list(last["fc1"].shape[1:]),
        "types": labels,
        "over": [[step, encode(mask)] for step, mask in over],
        "final": [encode(mask) for mask in last["fc1"]],
        "per_input": {name: sorted(mask.sum(1).flatten().tolist(), reverse=True) for name, mask in last.items()},
        "per_output": {name: sorted(mask.sum(2).flatten().tolist(), reverse=True) for name, mask in last.items()},
        "kept": [int(sum(mask[g].sum() for mask in last.values())) for g in range(groups)],
        "weights": int(sum(mask[0].size for mask in last.values())),
    }


def read_masks(snapshot: Path) -> tuple[dict[str, Mask], dict[str, Any]]:
    """Layer -> mask [G, outputs, inputs] of a snapshot, and its header. No weight is read."""
    with safe_open(str(snapshot), framework="np") as file:
        header = json.loads(file.metadata()["mast"])
        stored = set(file.keys())
        return {name: file.get_tensor(PREFIX + key) for key, name in LAYERS.items() if PREFIX + key in stored}, header


def encode(mask: Mask) -> str:
    """Bits, row by row, as base64."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def decode(text: str, shape: list[int]) -> Mask:
    """What `encode` wrote."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=shape[0] * shape[1])
    return bits.reshape(shape).astype(bool)


def png(mask: Mask) -> str:
    """A data URI: one pixel per weight, a connection opaque on nothing, so that it suits a light and a dark page."""
    rows = np.packbits(mask, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = mask.shape
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0))
        + chunk(b"PLTE", bytes((0, 0, 0, 14, 165, 233)))
        + chunk(b"tRNS", bytes((0, 255)))
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()
