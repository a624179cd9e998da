"""What every section is built from: figures with their legend and provenance, paragraphs, grids."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mast_runtime.streams import pasted
from mast_train.report.collect import names
from mast_train.report.rows import Report, Row
from mast_train.report.statistics import RETURN
from mast_train.report.svg import Chart, swatch

MANY = 6
"""With more rows than that, a row's seeds and band show only while it is lit up."""
Section = tuple[str, str, str]
"""(anchor, title, HTML)."""


def figure(
    heading: str,
    chart: Chart,
    rows: Sequence[Row],
    report: Report,
    legend: dict[str, int] | None = None,
    note: str = "",
) -> str:
    """A chart with its legend, its note and where it came from."""
    legend = {row.name: report.colours[row.name] for row in rows} if legend is None else legend
    buttons = "".join(
        f'<button type="button" class="key" aria-pressed="true" data-toggle="{escape(row)}">'
        f"{swatch(colour)}{escape(row)}</button>"
        for row, colour in legend.items()
    )
    extra = f"<p>{escape(note)}</p>" if note else ""
    many = ' class="many"' if len(legend) > MANY else ""
    return (
        f'<figure{many}><h3>{escape(heading)}</h3>{chart.render()}<div class="legend">{buttons}</div>'
        f"<figcaption>{extra}{provenance(rows, report)}</figcaption></figure>"
    )


def provenance(rows: Sequence[Row], report: Report) -> str:
    """The command and the runs behind a picture."""
    runs = names(run for row in rows for run in row.runs)
    command = pasted("mast", "report", *report.results["sources"])
    listed = ", ".join(map(escape, runs))
    return f"<details><summary>{escape(command)}: {len(runs)} run{'s' * (len(runs) > 1)}</summary>{listed}</details>"


def title(rows: Sequence[Row]) -> str:
    """What one task's rows are about: "3m, QMIX", with "(return)" where they are compared by that."""
    (map_, algorithm), measure = rows[0].task, rows[0].measure
    return f"{map_}, {algorithm.upper()}" + (" (return)" if measure == RETURN else "")


def paragraph(words: str) -> str:
    """Escaped."""
    return f"<p>{escape(words)}</p>"


def grid(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="grid">{"".join(figures)}</div>'
