"""Scores of runs and what may be said of them: the paper's statistic, rliable's, critical sparsity, Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

PAPER_LAST = 20
"""The paper averages the last 20 of its 200 evaluations."""


def last_count(evaluations: int) -> int:
    """How many evaluations a score averages: the paper's 20, or the last quarter where that is fewer."""
    return max(1, min(PAPER_LAST, evaluations // 4))


def score(win_rates: Sequence[float], last: int | None = None) -> float:
    """Mean win rate of the last evaluations (None: `last_count` of them)."""
    tail = win_rates[-(last or last_count(len(win_rates))) :]
    return sum(tail) / len(tail)
