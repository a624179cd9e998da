"""A policy file written down by hand, for tests of the format."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save as safetensors_save


def handmade() -> tuple[dict, dict[str, np.ndarray]]:
    """A policy written down by hand: every encoding, a ragged row, short blocks, empty rows."""
    manifest = {
        "version": 1,
        "contract": {"obs_dim": 2, "n_actions": 2, "n_agents": 2, "last_action": True, "agent_id": False},
        "agents": [{"name": "ally_0", "type": "marine", "index": 1, "network": 0}],
        "networks": [[2, 3]],
        "blocks": {"fc1": 1, "weight_ih": 0, "weight_hh": 2, "fc2": 0},
        "info": {"map": "3m"},
    }
    tensors = {
        "fc1.values": np.array([1.5, -2.0, 0.5], np.float32),
        "fc1.counts": np.array([2, 1], np.uint8),
        "fc1.columns": np.array([1, 3, 2], np.uint8),
        "weight_ih.values": np.arange(-9, 9, dtype=np.int8),
        "weight_ih.scale": np.full(9, 0.5, np.float32),
        "weight_hh.values": np.array([1.0, 2.0, 3.0, 0.0], np.float32),
        "weight_hh.counts": np.array([1, 0, 0, 1, 0, 0], np.uint8),
        "weight_hh.columns": np.array([2, 0], np.uint16),
        "fc2.values": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], np.float16),
        "fc1_bias": np.array([0.1, 0.2], np.float32),
        "gru_bias": np.arange(12, dtype=np.float32),
        "fc2_bias": np.array([0.3, 0.4], np.float32),
    }
    return manifest, tensors


def file_of(manifest: dict | str, tensors: dict[str, np.ndarray]) -> bytes:
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    return safetensors_save(tensors, {"mast": text})
