"""Scores of runs and what may be said of them: the paper's statistic, rliable's, critical sparsity, Pareto front.

What is scored, the *measure*, is the win rate, or the return where an environment does not say what winning is or
`train.score` asks for it. A comparison has one measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PAPER_LAST = 20
"""The paper averages the last 20 of its 200 evaluations."""
REPETITIONS = 2000
CLOSE = 0.97
"""A row is as good as dense from this share of dense's score on (the paper's "less than 3 % lost")."""

WIN_RATE, RETURN = "win_rate", "return_mean"
"""The measures, by the columns that evaluations have for them."""

Interval = tuple[float, float, float]
"""(estimate, low, high), 95 %."""


def last_count(evaluations: int) -> int:
    """How many evaluations a score averages: the paper's 20, or the last quarter where that is fewer."""
    return max(1, min(PAPER_LAST, evaluations // 4))


def measure_of(win_rates: Iterable[float | None], configured: Iterable[str] = ()) -> str:
    """What runs with these win rates and `train.score`s are compared by: the return as soon as one has none, or asks
    for it."""
    return RETURN if "return" in configured or any(rate is None for rate in win_rates) else WIN_RATE


def measure_word(measure: str) -> str:
    """ "win rate" or "return"."""
    return "win rate" if measure == WIN_RATE else "return"


def score(values: Sequence[float], last: int | None = None) -> float:
    """Mean of a measure over the last evaluations (None: `last_count` of them)."""
    tail = values[-(last or last_count(len(values))) :]
    return sum(tail) / len(tail)


def iqm(scores: Sequence[Sequence[float]]) -> Interval | None:
    """Interquartile mean over runs and tasks with rliable's stratified bootstrap. scores: [task][run].

    None where a task has fewer than two runs, or tasks differ in their number of runs.
    """
    from rliable import library, metrics

    if len({len(runs) for runs in scores}) != 1 or len(scores[0]) < 2:
        return None
    return _estimate({"row": _matrix(scores)}, metrics.aggregate_iqm, library)


def probability_of_improvement(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> Interval | None:
    """P(a run of x scores above a run of y), averaged over tasks (rliable). x, y: [task][run]; None as for `iqm`."""
    from rliable import library, metrics

    if any(len({len(runs) for runs in scores}) != 1 or len(scores[0]) < 2 for scores in (x, y)) or len(x) != len(y):
        return None
    return _estimate({"pair": (_matrix(x), _matrix(y))}, metrics.probability_of_improvement, library)


def probability(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    """The estimate of `probability_of_improvement` alone, which costs next to nothing."""
    from rliable import metrics

    return float(metrics.probability_of_improvement(_matrix(x), _matrix(y)))


def critical_sparsity(scores: Mapping[float, float], dense: float) -> float | None:
    """The sparsity up to which a row keeps 97 % of dense's score, linear between the measured ones.

    scores: sparsity -> score. None when its least sparse point is below already.
    """
    points = sorted(scores.items())
    limit = CLOSE * dense
    if points[0][1] < limit:
        return None
    for (left, high), (right, low) in pairwise(points):
        if low < limit:
            return left + (right - left) * (high - limit) / (high - low)
    return points[-1][0]


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, score) points that no other beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front, best = [], float("-inf")
    for i in order:
        if points[i][1] > best:
            front.append(i)
            best = points[i][1]
    return front


def _matrix(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """[task][run] -> [run, task], as rliable wants it."""
    import numpy as np

    return np.asarray(scores, dtype=np.float64).T


def _estimate(scores: dict, metric, library) -> Interval:
    import numpy as np

    with _seeded():
        points, intervals = library.get_interval_estimates(scores, lambda *x: np.array([metric(*x)]), reps=REPETITIONS)
    (name,) = scores
    return float(points[name][0]), float(intervals[name][0, 0]), float(intervals[name][1, 0])


@contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from numpy's global stream: a report made twice must say the same."""
    import numpy as np

    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
