"""A results tree as the rows a report compares: scores, intervals and costs, each beside the dense row of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from mast_train.report.collect import Results, group_of
from mast_train.report.statistics import Interval, iqm, last_count, probability_of_improvement, score

Task = tuple[str, str]
"""(map, algorithm)."""


@dataclass
class Row:
    """A line of a comparison on one task. scores: one per run. of_dense: its mean over the dense row's mean.

    interval: IQM of the scores over dense's mean (over 1 without a dense row). improvement: P(better than dense).
    """

    group: str
    name: str
    task: Task
    config: dict[str, Any]
    runs: list[dict[str, Any]]
    scores: list[float]
    last: int
    bench: dict[str, Any] | None
    masks: dict[str, Any] | None
    of_dense: float | None = None
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


def build(results: Results) -> Report:
    """Group the final runs, score them, and set each row beside its task's dense row."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["phase"] == "final":
            groups.setdefault(group_of(results, run), []).append(run)
    tasks: dict[Task, list[Row]] = {}
    for group, runs in groups.items():
        row = _row(results, group, sorted(runs, key=lambda run: run["seed"]))
        tasks.setdefault(row.task, []).append(row)
    for rows in tasks.values():
        rows.sort(key=lambda row: row.config["method"] != "dense")
        _beside_dense(rows)
    order = {name: i for i, name in enumerate(dict.fromkeys(row.name for rows in tasks.values() for row in rows))}
    return Report(results, tasks, order, _overall(tasks))


def dense_of(rows: Sequence[Row]) -> Row | None:
    """The row the others are compared with: the first dense one."""
    return next((row for row in rows if row.config["method"] == "dense"), None)


def _row(results: Results, group: str, runs: list[dict[str, Any]]) -> Row:
    config = results["configs"][runs[0]["config"]]
    task = (config["env.map"], config["algorithm"])
    last = last_count(min(len(run["curve"]["step"]) for run in runs))
    scores = [score(run["curve"]["win_rate"], last) for run in runs]
    return Row(
        group, runs[0]["row"], task, config, runs, scores, last,
        results["bench"].get(group), results["masks"].get(group),
    )  # fmt: skip


def _beside_dense(rows: list[Row]) -> None:
    dense = dense_of(rows)
    scale = dense.score if dense is not None and dense.score > 0 else None
    for row in rows:
        row.of_dense = row.score / scale if scale else None
        row.interval = iqm([[value / (scale or 1.0) for value in row.scores]])
        if dense is not None and row is not dense:
            row.improvement = probability_of_improvement([row.scores], [dense.scores])


def _overall(tasks: dict[Task, list[Row]]) -> dict[str, dict[str, Interval]]:
    """IQM over the maps of an algorithm, for the rows that all its maps have, by as many seeds as the scarcest."""
    overall: dict[str, dict[str, Interval]] = {}
    for algorithm in dict.fromkeys(task[1] for task in tasks):
        maps = [rows for task, rows in tasks.items() if task[1] == algorithm]
        if len(maps) < 2 or any((dense := dense_of(rows)) is None or dense.score <= 0 for rows in maps):
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
