"""What the server counts, in Prometheus's terms: base units, so times are in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mast_runtime.serve.sequences import SequenceTable

DECISION_BUCKETS_S = tuple(us / 1e6 for us in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000))


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, sequences: SequenceTable, version: str, backend: str, policy: dict[str, str]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mast_requests", "Inference requests by model and outcome.", ("model", "outcome"), registry=self.registry
        )
        self.decision = Histogram(
            "mast_decision_seconds",
            "Time of one decision inside the policy, HTTP excluded.",
            ("model",),
            buckets=DECISION_BUCKETS_S,
            registry=self.registry,
        )
        Info("mast_build", "What is running.", registry=self.registry).info({"version": version, "backend": backend})
        Info("mast_policy", "Which policy is served.", registry=self.registry).info(policy)
        self.outside = Counter(
            "mast_inputs_out_of_range",
            "Inputs of the observation outside the range that training saw.",
            ("model", "input"),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self._sequences = sequences
        self.registry.register(self)

    def count_outside(self, model: str, names: Sequence[str], counts: NDArray[np.int64]) -> None:
        """Add one decision's inputs out of range, counts [O]."""
        for i in np.flatnonzero(counts).tolist():
            self.outside.labels(model, names[i]).inc(int(counts[i]))

    def collect(self):
        """The sequence table's numbers at the time of the scrape (prometheus_client's collector interface)."""
        yield GaugeMetricFamily("mast_live_sequences", "Sequences in progress.", len(self._sequences))
        yield CounterMetricFamily(
            "mast_expired_sequences", "Sequences dropped at the idle limit.", self._sequences.expired
        )
