"""A chart as an SVG element: axes, lines, bands and dots. Colours are classes (s0, s1, ...) that the page defines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""
WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 44
LETTER = 6.6
"""Width to reserve for a letter of a label."""
COLOURS = 6
"""Classes s0 ... s5, hues that colour-blind readers tell apart; further rows take them again with other strokes."""
STROKES = 4
"""Classes k0 ... k3: solid, dashed, dotted, dash-dot; each with a mark of its own."""
MARKS = (
    (),  # a circle
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0.0, -1.3), (1.15, 0.8), (-1.15, 0.8)),
    ((0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)),
)
"""Corners of a stroke's mark, for a radius of 1."""


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Round numbers from low to high, about n of them."""
    raw = (high - low) / max(1, n - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """1500000 -> "1.5M", 20000 -> "20k"."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


class Chart:
    """Draw with data coordinates; `render` gives the element. title: what a screen reader says."""

    def __init__(
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        x_ticks: Sequence[float] | None = None,
        x_format: Callable[[float], str] = short,
        y_format: Callable[[float], str] = short,
        log_x: bool = False,
    ) -> None:
        self._title, self._log = title, log_x
        self._x, self._y = (x if x[1] > x[0] else (x[0] - 0.5, x[0] + 0.5)), (y if y[1] > y[0] else (y[0], y[0] + 1.0))
        self._parts: list[str] = []
        self._axes(labels, x_ticks, x_format, y_format)

    def at(self, point: Point) -> Point:
        """Data to pixels."""
        (x0, x1), (y0, y1) = self._x, self._y
        x = point[0]
        share = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0)) if self._log else (x - x0) / (x1 - x0)
        return (
            LEFT + share * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    def line(self, points: Sequence[Point], colour: int, kind: str = "line") -> None:
        """kind: "line", "thin" (one seed) or "guide" (no row's)."""
        self._parts.append(f'<polyline class="{kind} {style(colour)}" points="{self._points(points)}"/>')

    def band(self, low: Sequence[Point], high: Sequence[Point], colour: int) -> None:
        """Filled between two lines over the same x."""
        points = self._points([*low, *reversed(high)])
        self._parts.append(f'<polygon class="band {style(colour)}" points="{points}"/>')

    def dot(self, point: Point, colour: int, tip: str, radius: float = 3.5, hollow: bool = False) -> None:
        """A mark that says `tip` when pointed at."""
        x, y = self.at(point)
        tag, place = _mark(colour, x, y, radius)
        kind = "dot hollow" if hollow else "dot"
        self._parts.append(
            f'<{tag} class="{kind} {style(colour)}" {place} data-tip="{escape(tip)}">'
            f"<title>{escape(tip)}</title></{tag}>"
        )

    def text(self, point: Point, words: str, offset: Point = (6, -6)) -> None:
        """A small label beside a point."""
        x, y = self.at(point)
        anchor = "end" if x > 0.75 * WIDTH else "start"
        dx = -offset[0] if anchor == "end" else offset[0]
        self._parts.append(
            f'<text class="label" x="{x + dx:.1f}" y="{y + offset[1]:.1f}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def name_points(self, names: Sequence[tuple[Point, str, str]], dots: Sequence[Point]) -> None:
        """(point, row, label): labels beside their points, at the nearest place where none covers another or a dot."""
        taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in map(self.at, dots)]
        for point, row, label in names:
            (x, y), width = self.at(point), LETTER * len(label)
            places = [(left, y + dy) for dy in (-8, 16, -20, 28, -32, 40) for left in (x + 8, x - 8 - width)]
            boxes = [(left, base - 10, left + width, base + 4) for left, base in places]
            free = [box for box in boxes if _inside(box) and not any(_overlap(box, other) for other in taken)]
            box = (free or boxes)[0]
            taken.append(box)
            self.open(row)
            self._parts.append(f'<text class="label" x="{box[0]:.1f}" y="{box[3] - 4:.1f}">{escape(label)}</text>')
            self.close()

    def open(self, row: str) -> None:
        """What follows belongs to a row, which the legend can hide."""
        self._parts.append(f'<g data-row="{escape(row)}">')

    def close(self) -> None:
        self._parts.append("</g>")

    def render(self) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}">'
            f"{''.join(self._parts)}</svg>"
        )

    def _points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))

    def _axes(
        self,
        labels: tuple[str, str],
        x_ticks: Sequence[float] | None,
        x_format: Callable[[float], str],
        y_format: Callable[[float], str],
    ) -> None:
        for value in ticks(*self._y):
            y = self.at((self._x[0], value))[1]
            self._parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self._parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{y_format(value)}</text>')
        for value in ticks(*self._x) if x_ticks is None else x_ticks:
            x = self.at((value, self._y[0]))[0]
            self._parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x_format(value)}</text>'
            )
        base = HEIGHT - BOTTOM
        self._parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        self._parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{labels[0]}</text>')
        self._parts.append(
            f'<text class="name" transform="translate(13 {(TOP + base) / 2}) rotate(-90)" text-anchor="middle">'
            f"{labels[1]}</text>"
        )


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= 0 and box[2] <= WIDTH - RIGHT and box[3] <= HEIGHT - BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def style(colour: int) -> str:
    """The classes of the n-th row; below 0: of no row."""
    return "neutral" if colour < 0 else f"s{colour % COLOURS} k{_stroke(colour)}"


def swatch(colour: int) -> str:
    """The line and the mark of the n-th row, for a legend."""
    tag, place = _mark(colour, 14, 5, 3)
    return (
        f'<svg class="swatch {style(colour)}" viewBox="0 0 28 10" aria-hidden="true">'
        f'<polyline class="line {style(colour)}" points="0,5 28,5"/><{tag} class="dot" {place}/></svg>'
    )


def _stroke(colour: int) -> int:
    return max(0, colour) // COLOURS % STROKES


def _mark(colour: int, x: float, y: float, radius: float) -> tuple[str, str]:
    """The element and its place."""
    corners = MARKS[_stroke(colour)]
    if not corners:
        return "circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    points = " ".join(f"{x + dx * radius:.1f},{y + dy * radius:.1f}" for dx, dy in corners)
    return "polygon", f'points="{points}"'
