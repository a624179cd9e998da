"""The report as one self-contained HTML page: style, script, pictures and data are all inside."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path

from mast_train.report import pictures, sections, topology
from mast_train.report.markdown import to_markdown
from mast_train.report.marl_eval import marl_eval
from mast_train.report.rows import Report

HERE = Path(__file__).parent
ORDER = (
    sections.scores, sections.curves, sections.improvement, pictures.sparsity, pictures.front, sections.costs,
    pictures.values, pictures.idle, topology.topology, sections.tuning,
)  # fmt: skip


def to_html(report: Report) -> str:
    """The page; the same report gives the same bytes."""
    found = [section for make in ORDER if (section := make(report)) is not None]
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in found)
    body = "".join(f'<section id="{anchor}"><h2>{escape(title)}</h2>{html}</section>' for anchor, title, html in found)
    downloads = "".join(
        f'<a class="download" download="{name}" href="{_data(text, kind)}">{label}</a>'
        for name, label, text, kind in (
            ("results.json", "results.json", dump(report.results), "application/json"),
            ("marl-eval.json", "marl-eval.json", dump(marl_eval(report.results)), "application/json"),
            ("report.md", "table as Markdown", to_markdown(report), "text/markdown"),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>MAST report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><header><div><h1>MAST report</h1><p>{escape(_summary(report))}</p></div>"
        '<button type="button" id="theme" aria-label="Switch between light and dark">light / dark</button></header>'
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f'<footer><p>The numbers behind every picture: {downloads}</p></footer><div id="tip" role="status"></div>'
        f"<script>{script}</script></body></html>\n"
    )


def dump(tree: object) -> str:
    """Compact JSON."""
    return json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _summary(report: Report) -> str:
    runs, maps = sum(len(row.runs) for row in report.rows), sorted({task[0] for task in report.tasks})
    words = f"{runs} runs of {len(report.colours)} rows on {', '.join(maps)}"
    commits = sorted({run["versions"].get("commit", "") for row in report.rows for run in row.runs} - {""})
    words += f"; code {', '.join(commits)}" if commits else ""
    left_out = report.results["unfinished"]
    return words + (f"; {left_out} unfinished left out." if left_out else ".")


def _data(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
