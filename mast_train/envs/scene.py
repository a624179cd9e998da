"""What an environment looks like, as plain shapes: environments describe themselves, `mast play` draws them.

Coordinates are the environment's own, y upwards; colours are (red, green, blue) from 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Circle:
    """A disc; `label` is written in its middle."""

    centre: Point
    radius: float
    colour: Colour
    label: str = ""


@dataclass(frozen=True)
class Polygon:
    """A filled polygon."""

    points: tuple[Point, ...]
    colour: Colour


@dataclass(frozen=True)
class Line:
    """A straight line; width in the environment's units. round: its ends are half discs beyond `start` and `end`."""

    start: Point
    end: Point
    colour: Colour
    width: float
    round: bool = False


@dataclass(frozen=True)
class Scene:
    """Shapes from back to front. `legend`: (name, colour) pairs shown beside the step counter.

    `corners`: points that must be in the picture; without any, every shape is. follows: the picture goes with them from
    scene to scene, at one scale; else one picture shows the corners of all.
    """

    shapes: tuple[Circle | Polygon | Line, ...]
    legend: tuple[tuple[str, Colour], ...] = ()
    corners: tuple[Point, ...] = ()
    follows: bool = False
