"""The pictures that set one number of the rows against another: sparsity, latency, value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

from mast_train.report.figures import Section, figure, grid, paragraph, title
from mast_train.report.rows import Report, Row, dense_of, value_span
from mast_train.report.statistics import CLOSE, WIN_RATE, critical_sparsity, measure_word, pareto
from mast_train.report.svg import Chart

VALUES = ("value_estimate", "value_realised")
MAX_NAMED = 4
"""A front of more points than this has numbers beside them instead of names."""


def sparsity(report: Report) -> Section | None:
    """Score over sparsity and where each family of rows leaves dense."""
    figures = []
    for rows in report.tasks.values():
        families = {k: found for k, found in _families(rows).items() if len({row.sparsity for row in found}) > 1}
        if not families:
            continue
        dense, share = dense_of(rows), rows[0].measure == WIN_RATE
        low = min(row.sparsity for found in families.values() for row in found)
        high = max(row.sparsity for found in families.values() for row in found)
        marks = sorted({row.sparsity for found in families.values() for row in found})
        chart = Chart(
            f"Score over sparsity, {title(rows)}",
            (low, high),
            value_span(rows),
            ("sparsity", measure_word(rows[0].measure)),
            marks,
            lambda x: f"{x:.3g}",
        )
        notes = []
        if dense is not None:
            chart.line([(low, dense.score), (high, dense.score)], -1, "guide")
            if share:
                chart.line([(low, CLOSE * dense.score), (high, CLOSE * dense.score)], -1, "guide faint")
        for key, found in families.items():
            colour = report.colours[found[0].name]
            chart.open(key)
            chart.line([(row.sparsity, row.score) for row in found], colour)
            for row in found:
                chart.dot((row.sparsity, row.score), colour, f"{row.name}: {row.score:.3f}, {len(row.runs)} seeds")
            chart.close()
            if dense is not None and share:
                critical = critical_sparsity({row.sparsity: row.score for row in found}, dense.score)
                kept = critical is not None and critical == found[-1].sparsity
                value = f"below {found[0].sparsity:.1%}" if critical is None else f"{critical:.1%}"
                notes.append(f"{key}: {'at least ' if kept else ''}{value}")
        if dense is not None:
            words, level = ("dense, and 97 % of it", CLOSE * dense.score) if share else ("dense", dense.score)
            chart.text((low, level), words, (6, 14))
        legend = {key: report.colours[found[0].name] for key, found in families.items()}
        shown = [row for found in families.values() for row in found]
        figures.append(
            figure(title(rows), chart, shown, report, legend, "Critical sparsity: " + "; ".join(notes) if notes else "")
        )
    if not figures:
        return None
    words = "The score of rows that differ in sparsity alone."
    if report.measure != "return":
        words += (
            " The critical sparsity is the one up to which a row keeps 97 % of dense's win rate, linear between the "
            "measured points."
        )
    return "sparsity", f"{report.measure.capitalize()} over sparsity", paragraph(words) + grid(figures)


def front(report: Report) -> Section | None:
    """Score against measured latency, with the rows that no other beats in both."""
    figures = []
    for rows in report.tasks.values():
        measured = [row for row in rows if row.bench]
        if len(measured) < 2:
            continue
        points = [(row.bench["latency_us"], row.score) for row in measured if row.bench]
        low, high = 0.8 * min(p[0] for p in points), 1.25 * max(p[0] for p in points)
        marks = [
            x for x in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= x <= high
        ] or [low, high]
        chart = Chart(
            f"Score against latency, {title(rows)}", (low, high), value_span(rows),
            ("one decision, microseconds", measure_word(rows[0].measure)), marks, lambda x: f"{x:g}", log_x=True,
        )  # fmt: skip
        chosen = pareto(points)
        steps = [points[i] for i in chosen]
        ends = [*(x for x, _ in steps[1:]), high]
        chart.line(
            [p for (x, y), end in zip(steps, ends, strict=True) for p in ((x, y), (end, y))],
            -1,
            "guide",
        )
        for i, (row, point) in enumerate(zip(measured, points, strict=True)):
            tip = f"{row.name}: score {point[1]:.3f}, {point[0]:.2f} us a decision"
            chart.open(row.name)
            chart.dot(point, report.colours[row.name], tip, 5, hollow=i not in chosen)
            chart.close()
        labels = [f"{k}" if len(chosen) > MAX_NAMED else measured[i].name for k, i in enumerate(chosen, 1)]
        named = list(zip(chosen, labels, strict=True))
        chart.name_points([(points[i], measured[i].name, label) for i, label in named], points)
        found = [
            f"{label if label == measured[i].name else f'{label} {measured[i].name}'} "
            f"({points[i][1]:.3f}, {points[i][0]:.2f} us)"
            for i, label in named
        ]
        note = f"The front, fastest first: {'; '.join(found)}"
        figures.append(figure(title(rows), chart, measured, report, note=note))
    if not figures:
        return None
    words = (
        "Filled: no other row is both faster and better. Hollow: some row is. Latency is measured, not counted (Cost)."
    )
    return "front", f"{report.measure.capitalize()} against latency", paragraph(words) + grid(figures)


def values(report: Report) -> Section | None:
    """Estimated against realised value over training."""
    figures = []
    for rows in report.tasks.values():
        known = [row for row in rows if all(v is not None for run in row.runs for v in run["curve"]["value_estimate"])]
        if not known:
            continue
        lines = {}
        for row in known:
            x = _means(row, "step")
            lines[row.name] = [list(zip(x, _means(row, key), strict=True)) for key in VALUES]
        everything = [point for pair in lines.values() for line in pair for point in line]
        y = min(0.0, min(p[1] for p in everything)), max(p[1] for p in everything)
        chart = Chart(
            f"Estimated and realised value, {title(rows)}",
            (0, max(p[0] for p in everything)),
            y,
            ("environment steps", "value"),
        )
        for row in known:
            colour, (estimate, realised) = report.colours[row.name], lines[row.name]
            chart.open(row.name)
            chart.line(estimate, colour)
            chart.line(realised, colour, "thin dotted")
            for (x, e), (_, r) in zip(estimate, realised, strict=True):
                tip = f"{_operator(row)}, step {x:,.0f}: estimated {e:.2f}, realised {r:.2f}"
                chart.dot((x, e), colour, tip, 2.2)
            chart.close()
        gaps = "; ".join(f"{_operator(row)} {_gap(row):+.2f}" for row in known)
        figures.append(figure(title(rows), chart, known, report, note=f"Estimate minus realised at the end: {gaps}"))
    if not figures:
        return None
    words = (
        "Solid: what the online networks expect of a greedy episode at its first step; dotted: its discounted return; "
        "means over seeds. Solid above dotted is overestimation. An episode cut off by its time limit realises less "
        "than it was worth."
    )
    return "values", "Estimated and realised value", paragraph(words) + grid(figures)


def idle(report: Report) -> Section | None:
    """The share of connections that carried nothing, at every change of the topology."""
    figures = []
    for rows in report.tasks.values():
        known = [row for row in rows if any(run.get("idle") for run in row.runs)]
        if not known:
            continue
        lines = {row.name: [run["idle"] for run in row.runs if run.get("idle")] for row in known}
        points = [point for runs in lines.values() for run in runs for point in run]
        chart = Chart(
            f"Idle connections, {title(rows)}", (0, max(p[0] for p in points)), (0, max(p[1] for p in points)),
            ("environment steps", "share of connections"),
        )  # fmt: skip
        for row in known:
            chart.open(row.name)
            for run in lines[row.name]:
                chart.line([(step, share) for step, share in run], report.colours[row.name])
            chart.close()
        ends = "; ".join(f"{row.name} {mean(run[-1][1] for run in lines[row.name]):.1%}" for row in known)
        figures.append(figure(title(rows), chart, known, report, note=f"At the last change of the topology: {ends}"))
    if not figures:
        return None
    words = (
        "Connections of agents and mixer, the agents' output layer left out, whose gradient over a whole batch is "
        "exactly 0: their input is 0 at every step, or nothing that they lead to is active. One line per seed."
    )
    return "idle", "Connections that carry nothing", paragraph(words) + grid(figures)


def _families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sparse rows whose settings differ in their sparsity alone (and the tuned rate), by rising sparsity."""
    families: dict[str, list[Row]] = {}
    ignored = ("sparse.agent_sparsity", "sparse.mixer_sparsity", "train.lr")
    keys: dict[str, str] = {}
    for row in sorted((row for row in rows if row.sparsity > 0), key=lambda row: row.sparsity):
        identity = json.dumps({key: value for key, value in row.config.items() if key not in ignored}, sort_keys=True)
        block = f" gru {row.config['sparse.block.gru']}x1" if row.config["sparse.block.gru"] > 1 else ""
        families.setdefault(keys.setdefault(identity, _family_name(row, block, families)), []).append(row)
    return families


def _family_name(row: Row, block: str, taken: dict[str, list[Row]]) -> str:
    plain = f"{row.config['method']}{block}"
    return plain if plain not in taken else f"{plain}, as {row.name}"


def _means(row: Row, column: str) -> list[float]:
    """A column of the curves, averaged over seeds."""
    return [mean(at) for at in zip(*(run["curve"][column] for run in row.runs), strict=False)]


def _operator(row: Row) -> str:
    """A row's name and how its targets reduce actions."""
    double = ", double Q" if row.config["target.double_q"] else ""
    return f"{row.name} ({row.config['target.operator'].replace('_', ' ')}{double})"


def _gap(row: Row) -> float:
    """Estimate minus realised, mean over the evaluations of the score and the seeds."""

    def last(key: str) -> float:
        return mean(mean(run["curve"][key][-row.last :]) for run in row.runs)

    return last("value_estimate") - last("value_realised")
