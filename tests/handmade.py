"""A policy file written down by hand, for tests of the format."""

from __future__ import annotations

import hashlib
import json
import zlib

import numpy as np
from safetensors.numpy import save as safetensors_save

BLANK = "0" * 64


def handmade() -> tuple[dict, dict[str, np.ndarray]]:
    """A policy written down by hand: dense and sparse, int8 with scales, a ragged row, short blocks, empty rows.

    index: fc1's grid is 2 x 4 places, blocks at 1, 3 and 6; weight_hh's is 6 x 3, blocks at 2 and 9, thus 10 and 17.
    recording: three steps, the third of another episode. obs 0 is at 0, 255 and 0 of 255, obs 1 at 10, 0 and 51.
    """
    manifest = {
        "digest": BLANK,
        "version": 3,
        "policy_version": "1.4",
        "producer": "a hand",
        "architecture": "gru",
        "head": {"kind": "greedy"},
        "contract": {"obs_dim": 2, "n_actions": 2, "n_agents": 2, "last_action": True, "agent_id": False},
        "agents": [{"name": "ally_0", "type": "marine", "index": 1, "network": 0}],
        "networks": [[2, 3]],
        "blocks": {"fc1": 1, "weight_ih": 0, "weight_hh": 2, "fc2": 0},
        "recorded_steps": 3,
        "info": {"map": "3m"},
    }
    values = [[3, -4, 1], range(-9, 9), [2, 4, 6, 0], range(1, 7)]
    tensors = {
        "values": np.concatenate(values).astype(np.int8),
        "index": np.array([1, 1, 2, 3, 6], np.uint8),
        "scale": np.array([0.5] * 20 + [1.0, 2.0], np.float32),
        "bias": np.concatenate([[0.1, 0.2], np.arange(12), [0.3, 0.4]]).astype(np.float32),
        "inputs": np.array([[-1.0, 0.0], [1.0, 5.1], [0.25, 2.0], [0.5, 1.0]], np.float16).ravel(),
        "names": deflated(b"position\tm\nready"),
        "recording": deflated(bytes([0, 255, 1, 10, 246, 51, *[1, 1, 1, 0, 0, 1], *[1, 0, 1], *[0, 0, 1]])),
    }
    return manifest, tensors


def deflated(content: bytes) -> np.ndarray:
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def file_of(manifest: dict | str, tensors: dict[str, np.ndarray]) -> bytes:
    """The file, whose digest is right where the manifest has BLANK."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    content = safetensors_save(tensors, {"mast": text})
    return content.replace(BLANK.encode(), hashlib.sha256(content).hexdigest().encode())
