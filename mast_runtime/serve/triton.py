"""What clients of Triton Inference Server ask beside the protocol: a model's configuration and its statistics.

Sources: Triton's model_config.proto, and its model configuration and statistics extensions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mast_runtime.serve.protocol import TensorSpec


@dataclass
class Count:
    """How often, and the nanoseconds it took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count, self.ns = self.count + 1, self.ns + ns


@dataclass
class Statistics:
    """Of one model: requests that succeeded and failed, from their head on, and decisions."""

    success: Count = field(default_factory=Count)
    fail: Count = field(default_factory=Count)
    decisions: Count = field(default_factory=Count)
    last_ms: int = 0

    def request(self, ns: int, ok: bool) -> None:
        """A request was answered after so many nanoseconds."""
        (self.success if ok else self.fail).add(ns)

    def decision(self, ns: int) -> None:
        """A decision took so many nanoseconds."""
        self.decisions.add(ns)
        self.last_ms = time.time_ns() // 1_000_000

    def answer(self, name: str, version: str) -> dict[str, Any]:
        """One entry of "model_stats". Nothing queues and nothing is cached; the rest of a request is its input."""
        none, infer = vars(Count()), vars(self.decisions)
        before = {"count": self.success.count, "ns": max(0, self.success.ns - self.decisions.ns)}
        computed = {"compute_input": before, "compute_infer": infer, "compute_output": none}
        stats = {"success": vars(self.success), "fail": vars(self.fail), "queue": none, **computed}
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.decisions.count,
            "execution_count": self.decisions.count,
            "inference_stats": stats | {"cache_hit": none, "cache_miss": none},
            "response_stats": {},
            "batch_stats": [{"batch_size": 1, **computed}] if self.decisions.count else [],
            "memory_usage": [],
        }


def configuration(
    name: str, version: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], idle_limit_s: float
) -> dict[str, Any]:
    """A ModelConfig as JSON: no batches, one instance, sequences by their correlation id."""

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}

    return {
        "name": name,
        "platform": "mast",
        "backend": "mast",
        "version_policy": {"specific": {"versions": [int(version)]}},
        "max_batch_size": 0,
        "input": [tensor(spec) | {"format": "FORMAT_NONE", "optional": spec.optional} for spec in inputs],
        "output": [tensor(spec) for spec in outputs],
        "sequence_batching": {"max_sequence_idle_microseconds": round(idle_limit_s * 1e6), "control_input": []},
        "instance_group": [{"name": f"{name}_0", "kind": "KIND_CPU", "count": 1}],
        "model_transaction_policy": {"decoupled": False},
        "parameters": {},
    }
