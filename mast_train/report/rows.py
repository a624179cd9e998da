"""A results tree as the rows a report compares: scores, intervals and costs, each beside the dense row of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from mast_train.report.collect import Results, group_of
from mast_train.report.statistics import (
    RETURN,
    WIN_RATE,
    Interval,
    iqm,
    last_count,
    measure_of,
    measure_word,
    probability_of_improvement,
    score,
)  # fmt: skip

Task = tuple[str, str]
"""(map, algorithm)."""


@dataclass
class Row:
    """A line of a comparison on one task. scores: one per run, by the measure that all rows of the task have.

    share: mean score over the reference row's; None for returns, which have no zero to be a share from. interval: IQM
    of the scores over the reference's mean, of the scores themselves without a share. improvement: P(better than the
    reference).
    """

    group: str
    name: str
    task: Task
    config: dict[str, Any]
    runs: list[dict[str, Any]]
    measure: str
    scores: list[float]
    last: int
    bench: dict[str, Any] | None
    masks: dict[str, Any] | None
    share: float | None = None
    interval: Interval | None = None
    improvement: Interval | None = None

    @property
    def score(self) -> float:
        return mean(self.scores)

    @property
    def sparsity(self) -> float:
        return float(self.config["sparse.agent_sparsity"])

    def cost(self, name: str) -> float | None:
        """A mean over the runs' summaries; None when no run logged it."""
        found = [run["costs"][name] for run in self.runs if run["costs"]]
        return mean(found) if found else None


@dataclass
class Report:
    """All that the page and the table show. tasks: task -> its rows, dense first. overall: algorithm -> row -> IQM."""

    results: Results
    tasks: dict[Task, list[Row]]
    colours: dict[str, int]
    overall: dict[str, dict[str, Interval]] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.tasks.values() for row in rows]

    @property
    def measure(self) -> str:
        """ "win rate", "return", or "score" where tasks differ in it."""
        words = {measure_word(row.measure) for row in self.rows}
        return words.pop() if len(words) == 1 else "score"


def build(results: Results) -> Report:
    """Group the final runs, score them, and set each row beside its task's dense row."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["phase"] == "final":
            groups.setdefault(group_of(results, run), []).append(run)
    tasks: dict[Task, list[Row]] = {}
    rates: dict[Task, list[float | None]] = {}
    configured: dict[Task, set[str]] = {}
    for runs in groups.values():
        rates.setdefault(_task(results, runs), []).extend(rate for run in runs for rate in run["curve"]["win_rate"])
        configured.setdefault(_task(results, runs), set()).update(_configured(results, run) for run in runs)
    for group, runs in groups.items():
        task = _task(results, runs)
        measure = measure_of(rates[task], configured[task])
        row = _row(results, group, task, sorted(runs, key=lambda run: run["seed"]), measure)
        tasks.setdefault(task, []).append(row)
    for rows in tasks.values():
        rows.sort(key=lambda row: row.config["method"] != "dense")
        _beside_reference(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(row.name for rows in tasks.values() for row in rows))}
    return Report(results, tasks, order, _overall(tasks))


def dense_of(rows: Sequence[Row]) -> Row | None:
    """The row the others are compared with: the first dense one."""
    return next((row for row in rows if row.config["method"] == "dense"), None)


def reference_of(rows: Sequence[Row]) -> Row:
    """The row that scores are given beside: the dense one, or the first of a comparison without one (an ablation's)."""
    return dense_of(rows) or rows[0]


def value_span(rows: Sequence[Row]) -> tuple[float, float]:
    """The axis for every evaluation of one task's rows: 0 to 1 for win rates, as far as they reach for returns."""
    if rows[0].measure == WIN_RATE:
        return 0.0, 1.0
    found = [value for row in rows for run in row.runs for value in run["curve"][row.measure]]
    margin = 0.05 * (max(found) - min(found))
    return min(found) - margin, max(found) + margin


def _task(results: Results, runs: Sequence[dict[str, Any]]) -> Task:
    config = results["configs"][runs[0]["config"]]
    return config["env.map"], config["algorithm"]


def _configured(results: Results, run: dict[str, Any]) -> str:
    return str(results["configs"][run["config"]].get("train.score", "auto"))


def _row(results: Results, group: str, task: Task, runs: list[dict[str, Any]], measure: str) -> Row:
    config = results["configs"][runs[0]["config"]]
    last = last_count(min(len(run["curve"]["step"]) for run in runs))
    scores = [score(run["curve"][measure], last) for run in runs]
    return Row(
        group, runs[0]["row"], task, config, runs, measure, scores, last,
        results["bench"].get(group), results["masks"].get(group),
    )  # fmt: skip


def _beside_reference(rows: list[Row]) -> None:
    reference = reference_of(rows)
    scale = reference.score if reference.measure == WIN_RATE and reference.score > 0 else None
    for row in rows:
        row.share = row.score / scale if scale else None
        row.interval = iqm([[value / (scale or 1.0) for value in row.scores]])
        if row is not reference:
            row.improvement = probability_of_improvement([row.scores], [reference.scores])


def _overall(tasks: dict[Task, list[Row]]) -> dict[str, dict[str, Interval]]:
    """IQM over the maps of an algorithm, for the rows that all its maps have, by as many seeds as the scarcest.

    None over maps of which one is compared by return: returns of different maps have no common scale.
    """
    overall: dict[str, dict[str, Interval]] = {}
    for algorithm in dict.fromkeys(task[1] for task in tasks):
        maps = [rows for task, rows in tasks.items() if task[1] == algorithm]
        if len(maps) < 2 or any(rows[0].measure == RETURN for rows in maps):
            continue
        if any((dense := dense_of(rows)) is None or dense.score <= 0 for rows in maps):
            continue
        for name in [row.name for row in maps[0] if all(row.name in {r.name for r in rows} for rows in maps)]:
            found = [next(row for row in rows if row.name == name) for rows in maps]
            runs = min(len(row.scores) for row in found)
            scores = [
                [value / dense.score for value in row.scores[:runs]]
                for row, rows in zip(found, maps, strict=True)
                if (dense := dense_of(rows)) is not None
            ]
            interval = iqm(scores)
            if interval is not None:
                overall.setdefault(algorithm, {})[name] = interval
    return overall
