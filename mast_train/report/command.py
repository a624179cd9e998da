"""`mast report`: what it reads, and the four files it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mast_runtime.bundle import write_atomically
from mast_train.report.collect import collect
from mast_train.report.markdown import to_markdown
from mast_train.report.marl_eval import marl_eval
from mast_train.report.page import dump, to_html
from mast_train.report.rows import build


def write_report(paths: Sequence[Path], output: Path) -> list[Path]:
    """report.html, report.md, results.json and marl-eval.json in `output`. Raises UserError."""
    report = build(collect(paths))
    files = {
        "report.html": to_html(report),
        "report.md": to_markdown(report),
        "results.json": dump(report.results) + "\n",
        "marl-eval.json": dump(marl_eval(report.results)) + "\n",
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomically(output / name, text.encode())
    return [output / name for name in files]
