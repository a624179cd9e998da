"""One greedy episode as a page to explore it in, the team's policies inside as WebAssembly."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mast_runtime import Bundle
from mast_runtime.bundle import write_atomically
from mast_train.commands.evaluate import Target, team_policy
from mast_train.commands.play import Episode, Picture, play_episode, record, result_of
from mast_train.envs.base import Observation
from mast_train.envs.scene import Circle, Colour, Polygon, Scene
from mast_train.learning.learner import stream_seed
from mast_train.runs.run import build_env, resolve_device
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

PAGE, PICTURE = ".html", Path("battle.gif")


def watch(
    target: Target, where: EnvConfig, seed: int, backend: str, output: Path | None, page: Path | None, fps: float
) -> Episode:
    """Play one episode: as a page where `page` is given or `output` is .html, else as play.record writes it.

    Raises UserError, ExportError.
    """
    if output is not None and page is not None:
        raise UserError(f"--html {page} and -o {output}: one file is written; give one of them")
    if page is not None and page.suffix != PAGE:
        raise UserError(f"{page}: a page is written as .html; name it {page.stem}.html")
    if page is None and (output is None or output.suffix != PAGE):
        return record(target, where, seed, backend, output or PICTURE, fps)
    chosen = page or output
    assert chosen is not None
    if not chosen.parent.is_dir():
        raise UserError(f"{chosen}: there is no folder {chosen.parent}")
    return explore(target, where, seed, backend, chosen)


def explore(target: Target, where: EnvConfig, seed: int, backend: str, output: Path) -> Episode:
    """Play one episode in `where` and write its page to `output`. Raises UserError, ExportError."""
    from mast_export.web.page import Played, build
    from mast_export.web.wasm import find_compiler

    if where.name == "smac":
        raise UserError(f"{output}: an episode of smac is written as .SC2Replay; a page needs a picture of every step")
    if target is None:
        raise UserError("a random team has no network to show; name a run or a .mast file")
    bundle, name = _bundle(target)
    find_compiler()  # before the episode, which takes longer
    torch.set_num_threads(1)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    one = replace(where, num_envs=1)
    if where.name == "mamujoco":  # bodies as shapes: pictures of a thousand steps would be tens of megabytes
        one = replace(one, options={**where.options, "render_mode": None})
    with closing(build_env(one, stream_seed(seed, "mast play"), resolve_device("cpu"))) as env:
        policy, used = team_policy(bundle, env, backend)

        def watched(t: int, observation: Observation, playing: Any) -> Tensor:
            actions = policy(t, observation, playing)
            seen.append(tuple(x[0].clone() for x in (observation.obs, observation.avail_actions, actions)))  # type: ignore[arg-type]
            return actions

        pictures: list[Picture] = []
        steps = play_episode(env, watched, pictures)
    obs, avail, actions = (torch.stack(part).cpu().numpy() for part in zip(*seen, strict=True))
    reward = np.array([float(step.reward) for step in steps], np.float32)
    place = where.map.rpartition(":")[2]
    words = {"won": "The team won", "lost": "The team lost"}
    result = result_of(steps[-1])
    played = Played(
        obs, avail, actions, reward, *_frames(pictures), f"{place}: one episode", words.get(result, result.capitalize())
    )
    write_atomically(output, build(bundle, played))
    total = round(float(reward.sum()), 4)
    size = output.stat().st_size
    return Episode(str(output), size, name, used, where.name, where.map, seed, len(steps), total, result)


def _bundle(target: Path | Bundle) -> tuple[Bundle, str]:
    if isinstance(target, Bundle):
        return target, str(target.path or "bundle")
    from mast_export.extract import extract

    return extract(target), str(target)


Frames = tuple[list[list[Any] | bytes], list[tuple[float, float, float, float]], list[tuple[str, str]]]


def _frames(pictures: list[Picture]) -> Frames:
    """Pictures as the page draws them, the parts of the plane that they show and their legend; y downwards."""
    from mast_train.envs import draw

    scenes = [picture for picture in pictures if isinstance(picture, Scene)]
    if not scenes:
        return [_png(picture) for picture in pictures if isinstance(picture, np.ndarray)], [], []
    boxes = [(view.left, -view.top, view.width / view.scale, view.height / view.scale) for view in draw.views(scenes)]
    boxes = boxes if len(set(boxes)) > 1 else boxes[:1]
    legend = [(name, _hex(colour)) for name, colour in scenes[0].legend]
    return [[_shape(shape) for shape in scene.shapes] for scene in scenes], boxes, legend


def _shape(shape: Any) -> list[Any]:
    if isinstance(shape, Circle):
        (x, y), radius = shape.centre, shape.radius
        return ["c", *_places(x, -y, radius), _hex(shape.colour), shape.label]
    if isinstance(shape, Polygon):
        return ["p", _places(*(value for x, y in shape.points for value in (x, -y))), _hex(shape.colour)]
    (x0, y0), (x1, y1) = shape.start, shape.end
    return ["l", *_places(x0, -y0, x1, -y1), _hex(shape.colour), *_places(shape.width), int(shape.round)]


def _places(*values: float) -> list[float]:
    return [round(float(value), 3) for value in values]


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def _png(pixels: np.ndarray) -> bytes:
    from mast_train.envs import draw

    file = io.BytesIO()
    draw.draw_pixels(pixels).quantize(draw.COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()
