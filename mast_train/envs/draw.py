"""Scenes to images, and images to an animation, with Pillow: drawn large and scaled down, which smooths every edge."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mast_train.envs.scene import Circle, Colour, Line, Polygon, Scene

SMOOTHING = 3
WIDTH, HEIGHT, BAR = 480, 420, 30
"""The largest picture, and the strip above it for words; in pixels."""
INK: Colour = (40, 40, 40)
PAPER: Colour = (250, 250, 247)
COLOURS = 64


@dataclass(frozen=True)
class View:
    """The part of the plane that is shown, and pixels per unit of it."""

    left: float
    top: float
    scale: float
    width: int
    height: int


def views(scenes: Sequence[Scene]) -> list[View]:
    """A view for each scene, all of one scale and size, with a margin: of its own corners where it is followed, else of
    every scene's; of every shape where there are no corners."""
    ends = []
    for scene in scenes:
        corners = np.array(scene.corners or _corners(scene))
        ends.append((corners.min(0), corners.max(0)))
    low, high = (np.array(side) for side in zip(*ends, strict=True))
    if not scenes[0].follows:
        low[:], high[:] = low.min(0), high.max(0)
    size = (high - low).max(0)
    size = size + 2 * (0.06 * size.max() + 1e-6)
    scale = float(min(WIDTH / size[0], HEIGHT / size[1]))
    height = max(120, round(scale * size[1]))
    middles = ((low + high) / 2).tolist()
    return [View(x - WIDTH / 2 / scale, y + height / 2 / scale, scale, WIDTH, height) for x, y in middles]


def draw_scene(scene: Scene, view: View) -> Image.Image:
    """One scene as an RGB image."""
    factor = SMOOTHING * view.scale
    image = Image.new("RGB", (SMOOTHING * view.width, SMOOTHING * view.height), PAPER)
    pen = ImageDraw.Draw(image)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return factor * (point[0] - view.left), factor * (view.top - point[1])

    for shape in scene.shapes:
        if isinstance(shape, Circle):
            (x, y), r = at(shape.centre), factor * shape.radius
            pen.ellipse((x - r, y - r, x + r, y + r), fill=shape.colour)
            if shape.label:
                font = ImageFont.load_default(size=max(6.0, 1.1 * r))
                pen.text((x, y), shape.label, fill=_readable(shape.colour), font=font, anchor="mm")
        elif isinstance(shape, Polygon):
            pen.polygon([at(point) for point in shape.points], fill=shape.colour)
        else:
            width = max(SMOOTHING, round(factor * shape.width))
            pen.line((at(shape.start), at(shape.end)), fill=shape.colour, width=width)
            for x, y in (at(shape.start), at(shape.end)) if shape.round else ():
                r = width / 2
                pen.ellipse((x - r, y - r, x + r, y + r), fill=shape.colour)
    return image.resize((view.width, view.height), Image.Resampling.LANCZOS)


def draw_pixels(pixels: np.ndarray) -> Image.Image:
    """pixels [H,W,3] uint8, made smaller where they exceed the largest picture."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return image


def caption(image: Image.Image, text: str, legend: Sequence[tuple[str, Colour]] = ()) -> Image.Image:
    """The image under a strip that holds `text` and, to its right, the legend."""
    out = Image.new("RGB", (max(image.width, 300), image.height + BAR), PAPER)
    out.paste(image, ((out.width - image.width) // 2, BAR))
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(size=14.0)
    pen.text((8, BAR / 2), text, fill=INK, font=font, anchor="lm")
    right = out.width - 8.0
    for name, colour in reversed(legend):
        pen.text((right, BAR / 2), name, fill=colour, font=font, anchor="rm")
        right -= pen.textlength(name, font=font) + 14
    return out


def animation(frames: Sequence[Image.Image], fps: float, hold_s: float = 2.0) -> bytes:
    """A GIF that repeats for ever; its last frame stays for `hold_s` seconds. The same frames give the same bytes."""
    strip = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
    for row, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        strip.paste(frame, (0, row * frame.height))
    palette = strip.quantize(COLOURS, dither=Image.Dither.NONE)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * hold_s)]
    file = io.BytesIO()
    indexed[0].save(file, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)
    return file.getvalue()


def _corners(scene: Scene) -> list[tuple[float, float]]:
    return [corner for shape in scene.shapes for corner in _extent(shape)]


def _extent(shape: Circle | Polygon | Line) -> list[tuple[float, float]]:
    if isinstance(shape, Circle):
        (x, y), r = shape.centre, shape.radius
        return [(x - r, y - r), (x + r, y + r)]
    return list(shape.points) if isinstance(shape, Polygon) else [shape.start, shape.end]


def _readable(colour: Colour) -> Colour:
    return INK if sum(colour) > 480 else (255, 255, 255)
