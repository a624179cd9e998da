"""What the server counts, in Prometheus's terms: base units, so times are in seconds.

Counting is plain Python; prometheus_client writes it down when somebody asks, and is imported then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from mast_runtime.serve.sequences import SequenceTable

DECISION_BUCKETS_S = tuple(us / 1e6 for us in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000))
REQUEST_BUCKETS_S = tuple(ms / 1e3 for ms in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))


class Histogram:
    """Counts of values up to each bound and beyond, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, int]]:
        """Prometheus's cumulative buckets: the bound and how many values are at most that."""
        names, total, found = [*map(str, self.bounds), "+Inf"], 0, []
        for name, count in zip(names, self.counts, strict=True):
            found.append((name, total := total + count))
        return found


class Metrics:
    """The counters of one server. build, policy: what is running and which policy, as labels, read at each scrape."""

    def __init__(
        self, sequences: SequenceTable, build: Callable[[], dict[str, str]], policy: Callable[[], dict[str, str]]
    ) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """(model, outcome) -> requests."""
        self.late: Counter[str] = Counter()
        """Model -> answers after the deadline."""
        self.reloads: Counter[str] = Counter()
        """Outcome -> reloads of the policy."""
        self.decision: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DECISION_BUCKETS_S))
        self.request: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(REQUEST_BUCKETS_S))
        self.outside: Counter[tuple[str, str]] = Counter()
        """(model, input) -> observations in which that input was outside the range that training saw."""
        self.lost_log_lines: Callable[[], int] = lambda: 0
        self._sequences, self._build, self._policy = sequences, build, policy

    def exposition(self) -> tuple[bytes, str]:
        """All of it in the text format, and that format's media type. Takes a while the first time: it imports."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Any]:
        """The families at the time of the scrape (prometheus_client's collector interface)."""
        from prometheus_client import core

        def counter(name: str, text: str, labels: tuple[str, ...], counts: dict[Any, int]) -> Any:
            family = core.CounterMetricFamily(name, text, labels=labels)
            for key, value in list(counts.items()):
                family.add_metric([key] if isinstance(key, str) else key, value)
            return family

        def histogram(name: str, text: str, found: dict[str, Histogram]) -> Any:
            family = core.HistogramMetricFamily(name, text, labels=("model",))
            for model, values in list(found.items()):
                family.add_metric([model], values.buckets(), values.sum)
            return family

        yield counter("mast_requests", "Inference requests by model and outcome.", ("model", "outcome"), self.requests)
        yield counter(
            "mast_inputs_out_of_range",
            "Inputs of the observation outside the range that training saw.",
            ("model", "input"),
            self.outside,
        )
        yield counter("mast_deadline_missed", "Answers that were ready after the deadline.", ("model",), self.late)
        yield counter("mast_reloads", "Reloads of the policy by outcome.", ("outcome",), self.reloads)
        yield histogram(
            "mast_decision_seconds", "Time of one decision inside the policy, HTTP excluded.", self.decision
        )
        yield histogram(
            "mast_request_seconds", "Time from a request's head to its answer, inside the server.", self.request
        )
        yield core.CounterMetricFamily(
            "mast_request_log_lost", "Lines of the request log that could not be written.", self.lost_log_lines()
        )
        yield core.InfoMetricFamily("mast_build", "What is running.", self._build())
        yield core.InfoMetricFamily("mast_policy", "Which policy new sequences get.", self._policy())
        yield core.GaugeMetricFamily("mast_live_sequences", "Sequences in progress.", len(self._sequences))
        yield core.CounterMetricFamily(
            "mast_expired_sequences", "Sequences dropped at the idle limit.", self._sequences.expired
        )
