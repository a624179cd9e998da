"""The report's scores as a Markdown page."""

from __future__ import annotations

from html import unescape

from mast_runtime.streams import pasted
from mast_train.report.figures import title
from mast_train.report.rows import Report
from mast_train.report.sections import overall_rows, score_head, score_rows, statistic_words
from mast_train.report.tables import markdown


def to_markdown(report: Report) -> str:
    """Scores of every task, and over all maps where there are several."""
    parts = ["# Results", statistic_words(report)]
    for rows in report.tasks.values():
        parts += [f"## {title(rows)}", markdown(score_head(rows), score_rows(rows))]
    for algorithm in report.overall:
        parts += [
            f"## {algorithm.upper()} over all maps",
            markdown(["row", "IQM of score over dense"], overall_rows(report, algorithm)),
        ]
    command = pasted("mast", "report", *report.results["sources"])
    parts.append(f"Made by `{unescape(command)}`.")
    return "\n\n".join(parts) + "\n"
