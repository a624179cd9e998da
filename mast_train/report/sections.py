"""The sections of a report: each a piece of HTML from the rows, or nothing where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import mean, median

from mast_train.report.figures import MANY, Section, figure, grid, paragraph, title
from mast_train.report.rows import Report, Row, dense_of, reference_of, value_span
from mast_train.report.statistics import PAPER_LAST, RETURN, measure_word, probability
from mast_train.report.svg import Chart, short
from mast_train.report.tables import cell, interval_words, percent, table

MAX_TABLE_SIDE = 14
COSTS = (
    "training_paper_flops", "training_counted_flops", "inference_paper_flops", "inference_counted_flops",
    "agent_weights",
)  # fmt: skip


def curves(report: Report) -> Section | None:
    """Every seed as measured, the median, and the band between the extremes. Nothing is smoothed."""
    figures = []
    for rows in report.tasks.values():
        end = max(run["curve"]["step"][-1] for row in rows for run in row.runs)
        word = measure_word(rows[0].measure)
        chart = Chart(
            f"{word.capitalize()} over steps, {title(rows)}", (0, end), value_span(rows),
            ("environment steps", f"greedy {word}"),
        )  # fmt: skip
        for row in rows:
            colour = report.colours[row.name]
            chart.open(row.name)
            seeds = [list(zip(r["curve"]["step"], r["curve"][row.measure], strict=True)) for r in row.runs]
            points = list(zip(*seeds, strict=False))
            middle = [(mean(p[0] for p in at), median(p[1] for p in at)) for at in points]
            if len(seeds) > 1:
                low, high = (
                    [(x, f(p[1] for p in at)) for (x, _), at in zip(middle, points, strict=True)] for f in (min, max)
                )
                chart.band(low, high, colour)
                for seed in seeds:
                    chart.line(seed, colour, "thin")
            chart.line(middle, colour)
            for (x, y), at in zip(middle, points, strict=True):
                spread = f" ({min(p[1] for p in at):.2f} to {max(p[1] for p in at):.2f}, {len(at)} seeds)"
                chart.dot((x, y), colour, f"{row.name}, step {x:,.0f}: {y:.3f}{spread if len(at) > 1 else ''}", 2.2)
            chart.close()
        figures.append(figure(title(rows), chart, rows, report))
    words = (
        "Thin lines are single seeds as they were measured, the thick line is their median, the band runs from the "
        "lowest to the highest seed. Nothing is smoothed. Pointing at a line or at its name lights its row up"
    )
    if any(len(rows) > MANY for rows in report.tasks.values()):
        words += f"; where there are more than {MANY} rows, seeds and bands show only then"
    words += ". Choosing a name hides its row or shows it again."
    return "curves", "Learning curves", paragraph(words) + grid(figures)


def scores(report: Report) -> Section:
    """The table of the comparison, one per task."""
    parts = [paragraph(statistic_words(report))]
    for rows in report.tasks.values():
        parts.append(f"<h3>{escape(title(rows))}</h3>" + table(score_head(rows), score_rows(rows)))
    if report.overall:
        parts.append("<h3>Over all maps</h3>")
        parts += [_overall(report, algorithm) for algorithm in report.overall]
    return "scores", "Scores", "".join(parts)


def score_head(rows: Sequence[Row]) -> list[str]:
    """The columns of one task's table."""
    name = escape(reference_of(rows).name)
    return [
        "row", "learning rate", "seeds", "score per seed", "mean", f"of {name}", "IQM, 95 % interval",
        f"P(better than {name})",
    ]  # fmt: skip


def score_rows(rows: Sequence[Row]) -> list[list[str]]:
    """One task's rows under `score_head`."""
    return [
        [
            escape(row.name),
            f"{row.config['train.lr']:g}",
            str(len(row.runs)),
            " ".join(f"{value:.3f}" for value in row.scores),
            f"{row.score:.3f}",
            percent(row.share),
            interval_words(row.interval),
            interval_words(row.improvement),
        ]
        for row in rows
    ]


def statistic_words(report: Report) -> str:
    """What a score is, with the number of evaluations in it."""
    counts = sorted({row.last for row in report.rows})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    paper = "as in the paper" if counts == [PAPER_LAST] else "the paper averages 20 of 200; here runs have fewer"
    what = "win rate (return, where the heading says so)" if report.measure == "score" else report.measure
    shares = {
        "win rate": "A share is a row's mean score over the dense row's on the same map, or over the first row's where "
        "no row is dense; so is the IQM. ",
        "return": "Returns, in the reward scale of the run, are compared as they are. ",
        "score": "Win rates are also given as shares of the dense row's, or of the first row's where no row is dense; "
        "returns, in the run's reward scale, as they are. ",
    }[report.measure]
    return (
        f"A run's score is the mean greedy {what} of its last {count} evaluations ({paper}). {shares}The interquartile "
        "mean and the probability of improvement have 95 % stratified bootstrap intervals from rliable; they need two "
        "seeds."
    )


def improvement(report: Report) -> Section | None:
    """P(row scores above column), every pair."""
    parts = []
    for rows in report.tasks.values():
        several = [row for row in rows if len(row.scores) > 1][:MAX_TABLE_SIDE]
        if len(several) < 2:
            continue
        body = []
        for row in several:
            cells = [escape(row.name)]
            for other in several:
                found = None if other is row else probability([row.scores], [other.scores])
                cells.append("" if found is None else cell(f"{found:.2f}", found, f"{row.name} above {other.name}"))
            body.append(cells)
        parts.append(
            f"<h3>{escape(title(rows))}</h3>" + table(["row, against", *(escape(r.name) for r in several)], body)
        )
    if not parts:
        return None
    words = "How probable it is that a run of the row scores above a run of the column (rliable). Intervals: in Scores."
    return "improvement", "Probability of improvement", paragraph(words) + "".join(parts)


def costs(report: Report) -> Section | None:
    """FLOPs of training and inference, size and latency, as multiples of the dense row where there is one."""
    parts = []
    for rows in report.tasks.values():
        dense = dense_of(rows)
        if not any(row.runs[0]["costs"] or row.bench for row in rows):
            continue
        body = [
            [
                escape(row.name),
                *(_cost(row, dense, key) for key in COSTS),
                _bench(row, dense, "size_bytes", ",.0f"),
                _bench(row, dense, "latency_us", ".2f"),
                f"{mean(run['wall_s'] for run in row.runs) / 60:.1f}",
            ]
            for row in rows
        ]
        head = [
            "row", "training, paper", "training, all", "inference, paper", "inference, all", "weights",
            "file, bytes", "decision, us", "minutes a run",
        ]  # fmt: skip
        parts.append(f"<h3>{escape(title(rows))}</h3>" + table(head, body))
    if not parts:
        return None
    machines = sorted({row.bench["machine"] for row in report.rows if row.bench})
    words = (
        "Training: FLOPs per sample (one joint transition); inference: per joint decision of the team. “Paper” counts "
        "as the paper does, “all” counts everything (docs/methods.md). In brackets: how many times less than dense. "
        "A decision is one call of one agent through the native runtime"
        + (f" on {', '.join(machines)}, all rows in turns." if machines else "; mast report --bench measures it.")
    )
    return "costs", "Cost", paragraph(words) + "".join(parts)


def tuning(report: Report) -> Section | None:
    """Every score of the learning rates that were tried, and the choice."""
    parts = []
    for sweep, choices in report.results["choices"].items():
        if not choices:
            continue
        rates = sorted({rate for choice in choices.values() for rate in choice["scores"]}, key=float)
        body = []
        for group, choice in choices.items():
            cells = [escape(group) + (" (return)" if choice.get("measure") == RETURN else "")]
            for rate in rates:
                tried = choice["scores"].get(rate)
                text = "" if tried is None else f"{mean(tried):.3f}" + (f" ({len(tried)})" if len(tried) > 1 else "")
                cells.append(f"<strong>{text}</strong>" if float(rate) == choice["rate"] else text)
            body.append(cells)
        parts.append(f"<h3>{escape(sweep)}</h3>" + table(["row", *rates], body))
    if not parts:
        return None
    words = (
        "Mean score of each learning rate on seeds of their own (in brackets: how many); bold: chosen. A choice at the "
        "edge of the grid may not be the best there is."
    )
    return "tuning", "Learning rates tried", paragraph(words) + "".join(parts)


def overall_rows(report: Report, algorithm: str) -> list[list[str]]:
    """Row and IQM over every map of an algorithm."""
    return [[escape(row), interval_words(interval)] for row, interval in report.overall[algorithm].items()]


def _overall(report: Report, algorithm: str) -> str:
    maps = ", ".join(task[0] for task in report.tasks if task[1] == algorithm)
    words = paragraph(
        f"{algorithm.upper()} over {maps}: IQM of score over dense, for the rows that are on all of them."
    )
    return words + table(["row", "IQM, 95 % interval"], overall_rows(report, algorithm))


def _cost(row: Row, dense: Row | None, key: str) -> str:
    value, base = row.cost(key), dense.cost(key) if dense is not None else None
    if value is None:
        return "–"
    return short(float(f"{value:.3g}")) + _ratio(base, value, row is dense)


def _bench(row: Row, dense: Row | None, key: str, form: str) -> str:
    if not row.bench:
        return "–"
    base = dense.bench[key] if dense is not None and dense.bench else None
    return format(row.bench[key], form) + _ratio(base, row.bench[key], row is dense)


def _ratio(base: float | None, value: float, same: bool) -> str:
    return "" if same or not base else f" ({base / value:.1f}x)"
