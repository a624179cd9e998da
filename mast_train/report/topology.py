"""Which connections survive: masks over training and of every agent, connections per input, output and unit type."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from html import escape
from statistics import mean
from typing import Any

from mast_train.report.figures import Section, figure, grid, paragraph, title
from mast_train.report.masks import decode, png
from mast_train.report.rows import Report, Row
from mast_train.report.svg import Chart
from mast_train.report.tables import table


def topology(report: Report) -> Section | None:
    """For each row with masks: its pictures, folded away but for the first row of each task."""
    parts = []
    for rows in report.tasks.values():
        kept = [row for row in rows if row.masks]
        for i, row in enumerate(kept):
            opened = " open" if i == 0 else ""
            words = f"{escape(title(rows))}: {escape(row.name)}"
            parts.append(f"<details class='fold'{opened}><summary>{words}</summary>{_row(row, report)}</details>")
    if not parts:
        return None
    words = (
        "The first layer's mask, one pixel per weight: outputs down, inputs across, a connection blue. First one agent "
        "at several training steps, then every agent at the end, ordered by unit type. Below: connections of each "
        "input and output, sorted, and what each unit type kept of the team's one budget."
    )
    return "topology", "Which connections survive", paragraph(words) + "".join(parts)


def _row(row: Row, report: Report) -> str:
    masks: dict[str, Any] = row.masks or {}
    source = [run for run in row.runs if run["name"] == masks["run"]] or row.runs[:1]
    shape = masks["shape"]
    over = [_picture(f"step {step:,}", bits, shape) for step, bits in masks["over"]]
    order = sorted(range(len(masks["types"])), key=lambda i: masks["types"][i])
    final = [_picture(f"{masks['types'][i]} {i}", masks["final"][i], shape) for i in order]
    shown = replace(row, runs=source)
    charts = []
    for key, side in (("per_input", "input"), ("per_output", "output")):
        legend = {layer: colour for colour, layer in enumerate(masks[key])}
        charts.append(
            figure(f"Connections of each {side}, sorted", _degrees(masks[key], side), [shown], report, legend)
        )
    return (
        f"<h4>Over training, first agent</h4><div class='masks'>{''.join(over)}</div>"
        f"<h4>Agents at the end</h4><div class='masks'>{''.join(final)}</div>{grid(charts)}{_by_type(masks)}"
    )


def _picture(caption: str, bits: str, shape: list[int]) -> str:
    mask = decode(bits, shape)
    words = f"{caption}: {int(mask.sum()):,} of {mask.size:,} connections"
    return (
        f'<figure class="mask"><img src="{png(mask)}" alt="{escape(words)}" title="{escape(words)}" '
        f'width="{shape[1]}" height="{shape[0]}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _degrees(layers: dict[str, list[int]], side: str) -> Chart:
    """Connections against rank, a line per layer; ranks and counts as shares of the layer's, so that layers compare."""
    top = max((counts[0] for counts in layers.values()), default=1)
    chart = Chart(
        f"Connections of each {side}", (0, 1), (0, top), (f"{side}s, most connected first (share)", "connections"),
        [0, 0.25, 0.5, 0.75, 1],
    )  # fmt: skip
    for colour, (layer, counts) in enumerate(layers.items()):
        points = [(i / max(1, len(counts) - 1), count) for i, count in enumerate(counts)]
        tip = f"{layer}: {len(counts)} {side}s, at most {counts[0]} connections, {counts.count(0)} without any"
        chart.open(layer)
        chart.line(points, colour)
        chart.dot(points[len(points) // 2], colour, tip)
        chart.close()
    return chart


def _by_type(masks: dict[str, Any]) -> str:
    kept = defaultdict(list)
    for unit, count in zip(masks["types"], masks["kept"], strict=True):
        kept[unit].append(count)
    total = sum(masks["kept"])
    body = [
        [
            escape(unit),
            str(len(counts)),
            f"{mean(counts):,.0f}",
            f"{min(counts):,} to {max(counts):,}",
            f"{sum(counts) / total:.1%}",
            f"{1 - mean(counts) / masks['weights']:.2%}",
        ]
        for unit, counts in sorted(kept.items())
    ]
    return table(["unit type", "agents", "connections an agent", "range", "share of the team's", "sparsity"], body)
