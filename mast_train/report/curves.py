"""Win-rate curves: every seed as it was measured, and the mean of each row. Nothing is smoothed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from mast_runtime.bundle import write_atomically

Curve = Sequence[tuple[float, float]]
"""(environment steps, win rate) per evaluation."""

COLOURS = ("#17202e", "#3c8ff4", "#5ea529", "#cd3f9b", "#5c11a0", "#724d0b")
STROKES = ("-", "--", ":", "-.")
"""The page's hues and strokes (page.css, svg.py)."""


def draw_curves(rows: Mapping[str, Sequence[Curve]], path: Path, title: str) -> None:
    """Draw each row's seeds (thin) and their mean (thick) to a PNG. rows: label -> one curve per seed, equal lengths.

    Raises ValueError when the seeds of a row have different numbers of evaluations.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.6, 4.6), dpi=130, layout="constrained")
    for k, (label, seeds) in enumerate(rows.items()):
        colour, stroke = COLOURS[k % len(COLOURS)], STROKES[k // len(COLOURS) % len(STROKES)]
        if len({len(curve) for curve in seeds}) > 1:
            raise ValueError(f"{label}: seeds with different numbers of evaluations")
        for curve in seeds:
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.7, alpha=0.35)
        mean = [(_mean([p[0] for p in points]), _mean([p[1] for p in points])) for points in zip(*seeds, strict=True)]
        axes.plot(
            *zip(*mean, strict=True), color=colour, linestyle=stroke, linewidth=2.0, label=f"{label} ({len(seeds)})"
        )
    axes.set(title=title, xlabel="environment steps", ylabel="greedy win rate", ylim=(0.0, 1.0))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = {"fontsize": 8, "title_fontsize": 8, "frameon": False, "loc": "lower right"}
    axes.legend(title="row (seeds): thin one seed, thick mean", **legend)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
