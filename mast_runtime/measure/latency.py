"""Latency of `act`: backends and other engines, sparse beside dense, one agent and a team, interleaved in one run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from statistics import median
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from mast_runtime.bundle import Bundle
from mast_runtime.errors import BackendError
from mast_runtime.measure.rivals import RIVALS, Rival

BLOCK_NS = 10_000_000
"""Time that one cell is measured for before the next has its turn."""
MIN_CALLS, MAX_CALLS, OBSERVATIONS = 20, 5_000, 64


@dataclass(frozen=True)
class LatencyRow:
    """Microseconds per agent of calls of `act` with `agents` agents; median and p99 over all calls.

    rounds_us: each round's median. speedup: the same backend's dense row / this one; None in a dense row.
    against_first: this row / the first of as many agents. Both are medians of the rounds' ratios.
    """

    backend: str
    weights: str
    agents: int
    median_us: float
    p99_us: float
    speedup: float | None
    against_first: float
    calls: int
    rounds_us: list[float]


def densified(bundle: Bundle) -> Bundle:
    """The bundle with every weight stored, zeros too, in float32."""
    return replace(bundle, networks=tuple(network.densified() for network in bundle.networks), path=None)


def is_dense(bundle: Bundle) -> bool:
    """Whether no layer is stored sparse."""
    return all(layer.is_dense for network in bundle.networks for layer in network.layers().values())


def measure_latency(
    bundle: Bundle, engines: Sequence[str], rounds: int, team: int, variants: Mapping[str, Bundle] | None = None
) -> tuple[list[LatencyRow], list[str]]:
    """A row for each engine, kind of weights and number of agents, and a note for each that cannot run here.

    engines: names of backends and of RIVALS. team: the other number of agents beside 1, rounded up to whole teams of
    the bundle. variants: more kinds of weights, for the first engine only.
    """
    cells, notes = _cells(bundle, engines, team, variants or {})
    return _measure(cells, rounds), notes


@dataclass(frozen=True)
class OwnLatency:
    """Microseconds per agent of one policy's `act`: median over all calls, each round's median, seconds in calls."""

    median_us: float
    rounds_us: list[float]
    measured_s: float


def measure_together(
    policies: Mapping[str, Bundle], engine: str, rounds: int, team: int
) -> dict[str, tuple[OwnLatency, OwnLatency, OwnLatency]]:
    """Policies of any shapes on one engine, every one in every round: name -> (one agent, a team, one dense agent).

    dense: the same shape with every weight stored; of a dense policy itself. Raises BackendError.
    """
    cells, places = [], {}
    for name, bundle in policies.items():
        own, notes = _cells(bundle, [engine], team, {})
        if notes:
            raise BackendError(f"{name}: {notes[0]}")
        places[name] = (len(cells), len(cells) + 1, len(cells) + (0 if is_dense(bundle) else 2))
        cells += own
    times = _interleave(cells, rounds)
    found = [_own(cell, blocks) for cell, blocks in zip(cells, times, strict=True)]
    return {name: (found[one], found[many], found[dense]) for name, (one, many, dense) in places.items()}


def _own(cell: _Cell, blocks: Sequence[Sequence[int]]) -> OwnLatency:
    pooled = np.concatenate(blocks)
    rounds_us = [median(block) / 1e3 / cell.agents for block in blocks]
    return OwnLatency(float(np.median(pooled)) / 1e3 / cell.agents, rounds_us, float(pooled.sum()) / 1e9)


@dataclass(frozen=True)
class _Cell:
    """One row in the making: `act` on observations that are the same for every cell of as many agents."""

    backend: str
    weights: str
    agents: int
    act: Callable[[NDArray, NDArray | None], object]
    reset: Callable[[], None]
    observations: list[NDArray]
    avail: NDArray[np.bool_] | None

    def measure(self, calls: int) -> list[int]:
        """Nanoseconds of each call."""
        times, act, avail = [], self.act, self.avail
        self.reset()
        for obs in list(islice(cycle(self.observations), calls)):
            start = perf_counter_ns()
            act(obs, avail)
            times.append(perf_counter_ns() - start)
        return times

    def calls(self) -> int:
        """Warm up, and find how many calls fill BLOCK_NS."""
        self.measure(MIN_CALLS)
        once = max(1.0, median(self.measure(MIN_CALLS)))
        return int(min(max(BLOCK_NS / once, MIN_CALLS), MAX_CALLS))


def _cells(
    bundle: Bundle, engines: Sequence[str], team: int, variants: Mapping[str, Bundle]
) -> tuple[list[_Cell], list[str]]:
    """Every cell that can run here, and a note for each that cannot."""
    rng, contract = np.random.default_rng(0), bundle.contract
    n = -(-team // len(bundle.agents)) * len(bundle.agents)
    pool = rng.standard_normal((OBSERVATIONS, n, contract.obs_dim)).astype(np.float32)
    avail = np.ones((n, contract.n_actions), np.bool_)
    kinds = {"dense": densified(bundle)} if is_dense(bundle) else {"sparse": bundle, "dense": densified(bundle)}
    cells, notes = [], []
    for i, engine in enumerate(engines):
        for weights, policy in (kinds | (dict(variants) if i == 0 else {})).items():
            try:
                if engine in RIVALS:
                    one, many, rows = Rival(policy, 1, engine), Rival(policy, n, engine), slice(1)
                else:
                    one, many, rows = policy.agent(0, engine), policy.team(n, engine), 0
            except BackendError as error:
                notes.append(f"{engine}, {weights}: left out ({error})")
                continue
            flags = (avail[rows], avail) if contract.head is None else (None, None)
            cells.append(_Cell(engine, weights, 1, one.act, one.reset, list(pool[:, rows]), flags[0]))
            cells.append(_Cell(engine, weights, n, many.act, many.reset, list(pool), flags[1]))
    return cells, notes


def _interleave(cells: Sequence[_Cell], rounds: int) -> list[list[list[int]]]:
    """[cell][round][call] in nanoseconds: every cell once per round, the first of a round being another each time."""
    calls = [cell.calls() for cell in cells]
    times: list[list[list[int]]] = [[] for _ in cells]
    with _no_garbage_collection():
        for i in range(rounds):
            for k in range(len(cells)):
                chosen = (i + k) % len(cells)
                times[chosen].append(cells[chosen].measure(calls[chosen]))
    return times


def _measure(cells: Sequence[_Cell], rounds: int) -> list[LatencyRow]:
    """A row for each cell."""
    times = _interleave(cells, rounds)
    medians = [
        [median(block) / 1e3 / cell.agents for block in blocks] for cell, blocks in zip(cells, times, strict=True)
    ]
    dense = {(c.backend, c.agents): m for c, m in zip(cells, medians, strict=True) if c.weights == "dense"}
    first = {cell.agents: m for cell, m in zip(reversed(cells), reversed(medians), strict=True)}
    rows = []
    for cell, blocks, rounds_us in zip(cells, times, medians, strict=True):
        pooled = np.concatenate(blocks) / 1e3 / cell.agents
        base = dense.get((cell.backend, cell.agents)) if cell.weights != "dense" else None
        speedup = _ratio(base, rounds_us) if base else None
        against_first = _ratio(rounds_us, first[cell.agents])
        middle, p99 = float(np.median(pooled)), float(np.percentile(pooled, 99))
        found = middle, p99, speedup, against_first
        rows.append(LatencyRow(cell.backend, cell.weights, cell.agents, *found, len(pooled), rounds_us))
    return sorted(rows, key=lambda row: row.agents > 1)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def clock_us() -> float:
    """What reading the clock adds to every call; not subtracted."""
    times = []
    for _ in range(1_000):
        start = perf_counter_ns()
        times.append(perf_counter_ns() - start)
    return median(times) / 1e3
