"""What a robot saw beside what training saw, input by input, without numpy.

Only what is far from anything that a healthy robot shows is pointed at: training explores, and a trained team does not,
so means and deviations differ between them as a matter of course.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mast_runtime.arrays import plain
from mast_runtime.bundle import Bundle
from mast_runtime.inputs import Inputs
from mast_runtime.selftest.log import LogError, Row

MIN_ROWS = 32
SWAP_GAIN = 2.5
"""By how much two inputs fit better when exchanged. Healthy episodes of SMAX, 30 rows and more, came to 1.1 at most."""
SURE_GAIN = 10.0
"""The same where every value is one that training saw."""
SWAP_FIT = 1.5
"""How well each must then fit."""
LARGER, SMALLER = 3.0, 20.0
"""Factors beyond which values are too large, or too small, for the range of training."""
DISTINCT = 8
"""Different values that must be there before they are called small rather than idle."""
OFTEN = 0.1
"""Share of rows with a value out of range from which an input may be another."""
OUTSIDE = 0.3
"""Share from which an input is pointed at for that alone."""
EPISODE = 200
"""Rows that may be of one episode, where the policy does not say how long its episodes could be."""
KNOWN = {
    180 / math.pi: "degrees for radians", math.pi / 180: "radians for degrees", 100.0: "centimetres for metres",
    0.01: "metres for centimetres", 1000.0: "milli-units for units", 0.001: "units for milli-units",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that does not look as in training. kind: swapped, scaled, stuck, out of range or not finite.

    inputs: indices; names: theirs, as the policy has them.
    """

    kind: str
    inputs: list[int]
    names: list[str]
    detail: str

    def sentence(self) -> str:
        """For a person."""
        return f"{' and '.join(self.names)}: {self.kind}: {self.detail}"


@dataclass(frozen=True)
class Column:
    """Moments of one input: in a log, or in training. distinct: different values but 0 (a log only)."""

    low: float
    high: float
    mean: float
    deviation: float
    distinct: int = 0

    @property
    def peak(self) -> float:
        return max(abs(self.low), abs(self.high))

    @property
    def rms(self) -> float:
        return math.hypot(self.mean, self.deviation)


def compare(bundle: Bundle, agent: int, rows: Sequence[Row]) -> list[Finding]:
    """What looks wrong in a log of agent `agent`'s observations, the surest first. Raises LogError."""
    if not 0 <= agent < len(bundle.agents):
        raise LogError(f"agent {agent}: the policy has agents 0 to {len(bundle.agents) - 1}")
    network = bundle.networks[bundle.agents[agent].network]
    if network.inputs is None:
        raise LogError("the policy does not say what training saw; export it again from its run: mast export RUN")
    seen, findings, explained = _training(network.inputs), [], set()

    def point(kind: str, inputs: list[int], detail: str) -> None:
        names = [network.inputs.name(i) for i in inputs] if network.inputs else []
        findings.append(Finding(kind, inputs, names, detail))
        explained.update(inputs)

    for i in sorted({i for row in rows for i, value in enumerate(row) if not math.isfinite(value)}):
        point("not finite", [i], "NaN or infinite in some rows, which the policy refuses")
    there = [row for row in rows if any(row) and all(map(math.isfinite, row))]
    if len(there) < MIN_ROWS:
        raise LogError(f"{len(there)} observations that are finite and not all zero, expected {MIN_ROWS} or more")
    log, long = [_column(column) for column in zip(*there, strict=True)], len(there) > one_episode(bundle)
    low, high = network.inputs.limits()
    outside = [sum(row[i] < low[i] or row[i] > high[i] for row in there) for i in range(len(seen))]
    for i, j in _swapped(log, seen, [count / len(there) for count in outside], explained):
        point("swapped", [i, j], "each has the values that the other had in training")
    for i, (mine, training) in enumerate(zip(log, seen, strict=True)):
        if i in explained:
            continue
        if factor := _scale(mine, training, long):
            point("scaled", [i], _scaled(factor))
        elif long and _stuck(mine, training):
            point("stuck", [i], f"{mine.low:.4g} in all {len(there)} rows; training {_span(training)}")
    for i, training in enumerate(seen):
        if i not in explained and outside[i] > OUTSIDE * len(there):
            where = f"in {outside[i]} of {len(there)} rows, {_span(log[i])}; training {_span(training)}"
            point("out of range", [i], where)
    return findings


def one_episode(bundle: Bundle) -> int:
    """So many rows may be of one episode, in which much stays as it was at the start."""
    limit = bundle.info.get("episode_limit")
    return max(MIN_ROWS, limit if type(limit) is int else EPISODE)


def _training(inputs: Inputs) -> list[Column]:
    moments = (plain(inputs.stored(name), "f") for name in ("low", "high", "mean", "deviation"))
    return [Column(*values) for values in zip(*moments, strict=True)]


def _column(values: Sequence[float]) -> Column:
    n = len(values)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n)
    return Column(min(values), max(values), mean, deviation, len({value for value in values if value}))


def _misfit(log: Column, training: Column) -> float:
    """How unlike: means in deviations, the logarithm of the deviations' ratio, and what lies beyond the range."""
    width = training.high - training.low
    floor = 0.05 * width + 1e-6
    shift = abs(log.mean - training.mean) / max(training.deviation, floor)
    spread = abs(math.log((log.deviation + floor) / (training.deviation + floor)))
    beyond = max(0.0, training.low - log.low, log.high - training.high) / (width + 1e-6)
    return shift + spread + beyond


def _swapped(
    log: Sequence[Column], seen: Sequence[Column], strange: Sequence[float], explained: set[int]
) -> list[tuple[int, int]]:
    """Pairs that fit far better when exchanged, the surest first; an input is in one pair at most.

    strange: share of each input's values out of its range. Without such values only what is beyond doubt is a pair.
    """
    own = [_misfit(a, b) for a, b in zip(log, seen, strict=True)]
    odd = [i for i, misfit in enumerate(own) if misfit > SWAP_GAIN / 4 and i not in explained]
    pairs = []
    for i in odd:
        for j in (j for j in odd if j > i and own[i] + own[j] > SWAP_GAIN):
            gain = SWAP_GAIN if max(strange[i], strange[j]) > OFTEN else SURE_GAIN
            there, back = _misfit(log[i], seen[j]), _misfit(log[j], seen[i])
            if max(there, back) < SWAP_FIT and own[i] + own[j] - there - back > gain:
                pairs.append((there + back - own[i] - own[j], i, j))
    taken: set[int] = set()
    found = []
    for _, i, j in sorted(pairs):
        if not {i, j} & taken:
            taken |= {i, j}
            found.append((i, j))
    return found


def _scale(log: Column, training: Column, long: bool) -> float:
    """The factor by which the log's values are off, 0 where they are not. Small values are no sign in one episode."""
    if training.peak == 0.0 or log.rms == 0.0 or training.rms == 0.0 or log.distinct < DISTINCT:
        return 0.0
    if log.peak > LARGER * training.peak and log.rms > LARGER * training.rms:
        return log.rms / training.rms
    if long and SMALLER * log.peak < training.peak and SMALLER * log.rms < training.rms:
        return log.rms / training.rms
    return 0.0


def _scaled(factor: float) -> str:
    near = [word for known, word in KNOWN.items() if 1 / 1.6 < factor / known < 1.6]
    return f"about {factor:.3g} times the values of training" + (f", as {near[0]} would be" if near else "")


def _stuck(log: Column, training: Column) -> bool:
    """Whether an input never changed, at a value that it does not have at rest."""
    if log.low != log.high or training.deviation == 0.0:
        return False
    width = training.high - training.low
    rest = (training.low, training.high, 0.0)
    return min(abs(log.low - value) for value in rest) > 0.02 * width


def _span(column: Column) -> str:
    return f"{column.low:.4g} to {column.high:.4g}"
