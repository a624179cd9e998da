"""Masks as a picture: every layer of every agent side by side, grouped by unit type, light = connection."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mast_runtime.bundle import Bundle, write_atomically
from mast_runtime.errors import RuntimeFault
from mast_runtime.imports import install_command
from mast_runtime.measure.inspect import input_features, network_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND, PANEL, INK, FAINT, CONNECTION = "#0e1117", "#1a1f2b", "#f1efe7", "#8d94a3", "#ffe9a8"
TYPE_COLOURS = ("#6aa9ff", "#ff9f6a", "#7fd49a", "#d08cff", "#ff7f9e", "#5fd3d8")
MAX_NETWORKS = 27
PER_BAND = 9
COLUMN, GAP, LABEL, HEADER, FOOTER, TITLE = 1.75, 0.24, 1.25, 0.55, 0.28, 0.75
LAYER_HEIGHTS = {"fc1": 1.45, "weight_ih": 2.1, "weight_hh": 2.1, "mid": 1.45, "fc2": 0.42}
"""Inches: a network's width, its layers' heights, between layers, left labels, band header and footer, title."""
GATES = ("r", "z", "n")


def masks_png(bundle: Bundle, path: str | Path, dpi: int = 110) -> None:
    """Write the masks of all layers and agents to `path`, atomically. Raises RuntimeFault without matplotlib, OSError.

    Above MAX_NETWORKS networks an even selection is drawn, in the order of unit types, and the title says so.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeFault(f"the picture of the masks needs matplotlib; {install_command('train')}") from error
    bands = _bands(bundle)
    columns = max(map(len, bands))
    heights = [LAYER_HEIGHTS[name] for name in bundle.networks[0].parts.layers]
    band_height = HEADER + sum(heights) + GAP * (len(heights) - 1) + FOOTER
    width, height = max(LABEL + COLUMN * columns, 6.5), TITLE + band_height * len(bands)
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    canvas = _Canvas(figure, width, height)
    canvas.text(0.2, 0.2, _title(bundle, sum(map(len, bands))), size=12, color=INK, weight="bold", va="top")
    canvas.text(0.2, 0.46, _legend(bundle), size=8, color=FAINT, va="top")
    units = sorted({network_label(bundle, i)[1] for i in range(len(bundle.networks))})
    for b, band in enumerate(bands):
        _draw_band(canvas, bundle, band, TITLE + b * band_height, units)
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=BACKGROUND)
    write_atomically(Path(path), data.getvalue())


class _Canvas:
    """A figure addressed in inches from its top left corner."""

    def __init__(self, figure: Any, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        style.setdefault("va", "center")
        self.figure.text(x / self.width, 1.0 - y / self.height, text, fontsize=style.pop("size", 8), **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (x / self.width, 1.0 - (y + height) / self.height, width / self.width, height / self.height)
        )


def _bands(bundle: Bundle) -> list[list[int]]:
    """Networks in the order of their unit types, in rows of at most PER_BAND of nearly one length."""
    order = sorted(range(len(bundle.networks)), key=lambda i: (network_label(bundle, i)[1], i))
    if len(order) > MAX_NETWORKS:
        order = [order[i * len(order) // MAX_NETWORKS] for i in range(MAX_NETWORKS)]
    n_bands = -(-len(order) // PER_BAND)
    return [part.tolist() for part in np.array_split(order, n_bands)]


def _title(bundle: Bundle, drawn: int) -> str:
    name = " ".join(str(bundle.info[key]) for key in ("map", "method") if key in bundle.info)
    shown = "" if drawn == len(bundle.networks) else f", {drawn} of {len(bundle.networks)} networks drawn"
    return f"{name or 'policy'}: {bundle.nnz:,} connections, sparsity {bundle.sparsity:.1%}{shown}"


def _legend(bundle: Bundle) -> str:
    features = " | ".join(
        f"{name.replace('_', ' ')} {width}" for name, width in input_features(bundle.contract).items()
    )
    return f"light = connection; columns are inputs, rows outputs; inputs of fc1: {features}"


def _draw_band(canvas: _Canvas, bundle: Bundle, band: list[int], top: float, units: list[str]) -> None:
    y = top + HEADER
    for name, layer in bundle.networks[band[0]].layers().items():
        height = LAYER_HEIGHTS[name]
        canvas.text(0.2, y + height / 2 - 0.08, name, size=9, color=INK)
        canvas.text(0.2, y + height / 2 + 0.09, f"{layer.inputs} → {layer.outputs}", size=7.5, color=FAINT)
        if layer.segments == len(GATES):
            for k, gate in enumerate(GATES):
                canvas.text(LABEL - 0.1, y + height * (k + 0.5) / 3, gate, size=8, color=FAINT, ha="right")
        for column, network in enumerate(band):
            _draw_layer(canvas, bundle, network, name, (LABEL + COLUMN * column, y, COLUMN - 0.15, height))
        y += height + GAP
    _draw_headers(canvas, bundle, band, top, units)


def _draw_headers(canvas: _Canvas, bundle: Bundle, band: list[int], top: float, units: list[str]) -> None:
    labels = [network_label(bundle, network) for network in band]
    for column, (network, (label, unit)) in enumerate(zip(band, labels, strict=True)):
        x, colour = LABEL + COLUMN * column, TYPE_COLOURS[units.index(unit) % len(TYPE_COLOURS)]
        if column == 0 or labels[column - 1][1] != unit:
            end = next((k for k in range(column, len(band)) if labels[k][1] != unit), len(band))
            bar = canvas.axes(x, top + 0.2, COLUMN * (end - column) - 0.15, 0.04)
            bar.patch.set_facecolor(colour)
            bar.set(xticks=[], yticks=[])
            bar.spines[:].set_visible(False)
            canvas.text(x, top + 0.1, _short(unit, 22), size=9, color=colour, weight="bold")
        canvas.text(x, top + 0.38, _short(label, 13), size=8, color=INK)
        nnz = f"{bundle.networks[network].nnz:,}"
        canvas.text(x + COLUMN - 0.15, top + 0.38, nnz, size=8, color=FAINT, ha="right")


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _draw_layer(
    canvas: _Canvas, bundle: Bundle, network: int, name: str, box: tuple[float, float, float, float]
) -> None:
    layer = bundle.networks[network].layers()[name]
    axes = canvas.axes(*box)
    pixels = np.where(layer.mask()[:, :, None], _rgb(CONNECTION), _rgb(PANEL)).astype(np.uint8)
    axes.imshow(pixels, aspect="auto", interpolation="auto", extent=(0, layer.inputs, layer.outputs, 0))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#3a4152", linewidth=0.6)
    for k in range(1, layer.segments):
        axes.axhline(k * layer.outputs / layer.segments, color=FAINT, linewidth=0.7)
    if name == "fc1":
        for edge in np.cumsum(list(input_features(bundle.contract).values()))[:-1]:
            axes.axvline(edge, color=FAINT, linewidth=0.7)
    x, y, width, height = box
    canvas.text(x + width, y + height + 0.09, f"{layer.nnz:,}", size=6.5, color=FAINT, ha="right")


def _rgb(colour: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)
