"""One greedy episode that a person can watch: an animation, or for StarCraft II the game's own replay."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from mast_runtime.bundle import write_atomically
from mast_train.commands.evaluate import Target, seat
from mast_train.envs.base import Transition, VecEnv
from mast_train.envs.scene import Scene
from mast_train.experience.rollout import Policy
from mast_train.learning.learner import stream_seed
from mast_train.runs.run import build_env, resolve_device
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

Picture = Scene | np.ndarray


class _Replays(Protocol):
    def save_replay(self) -> None: ...


@dataclass
class Episode:
    """What was played and where it was written. result: won, lost, finished (winning is not defined), or time is up."""

    output: str
    size_bytes: int
    policy: str
    backend: str
    env: str
    map: str
    seed: int
    steps: int
    episode_return: float
    result: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """One line for a person."""
        return (
            f"{self.output}: {self.size_bytes / 1e3:,.0f} kB; {self.policy} ({self.backend}) on {self.env} {self.map}, "
            f"seed {self.seed}: {self.result} after {self.steps} steps, return {self.episode_return:.2f}"
        )


def record(target: Target, where: EnvConfig, seed: int, backend: str, output: Path, fps: float) -> Episode:
    """Play one episode in `where` and write it to `output`. Raises UserError."""
    suffix = ".SC2Replay" if where.name == "smac" else ".gif"
    if output.suffix != suffix:
        raise UserError(f"{output}: an episode of {where.name} is written as {suffix}; name it {output.stem}{suffix}")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}")
    torch.set_num_threads(1)
    if where.name == "smac":
        folder = {"replay_dir": str(output.parent.resolve()), "replay_prefix": output.stem}
        where = replace(where, options={**where.options, **folder})
    config = replace(where, num_envs=1)
    with closing(build_env(config, stream_seed(seed, "mast play"), resolve_device("cpu"))) as env:
        name, used, policy = seat(target, env, seed, backend)
        if where.name == "smac":
            steps = play_episode(env, policy, None)
            _take_replay(cast(_Replays, env), output)
        else:
            pictures: list[Picture] = []
            steps = play_episode(env, policy, pictures)
            write_atomically(output, _animate(pictures, steps, where.map.rpartition(":")[2], fps))
    size = output.stat().st_size
    total = float(sum(float(step.reward) for step in steps))
    return Episode(
        str(output), size, name, used, where.name, where.map, seed, len(steps), round(total, 4), result_of(steps[-1])
    )


def play_episode(env: VecEnv, policy: Policy, pictures: list[Picture] | None) -> list[Transition]:
    """Every step of one episode; a picture before the first and after each goes to `pictures`."""
    observation, steps = env.reset(), []
    _look(env, pictures)
    while not steps or not bool(steps[-1].terminated | steps[-1].truncated):
        actions: Tensor = policy(len(steps), observation, [True])
        steps.append(env.step(actions))
        observation = steps[-1].next
        _look(env, pictures)
    return steps


def _look(env: VecEnv, pictures: list[Picture] | None) -> None:
    if pictures is None:
        return
    picture = env.picture()
    if picture is None:
        advice = (
            "its render() returned no image [H,W,3]; many environments need --set env.options.render_mode=rgb_array"
            if env.spec.env in ("pettingzoo", "aec")
            else "it has no picture"
        )
        raise UserError(f"{env.spec.env} {env.spec.map} cannot be drawn: {advice}")
    pictures.append(picture)


def _animate(pictures: list[Picture], steps: list[Transition], title: str, fps: float) -> bytes:
    from mast_train.envs import draw

    scenes = [picture for picture in pictures if isinstance(picture, Scene)]
    views = iter(draw.views(scenes) if scenes else ())
    frames, total = [], 0.0
    for index, picture in enumerate(pictures):
        total += float(steps[index - 1].reward) if index else 0.0
        text = f"{title}   step {index}   return {total:.1f}"
        if index == len(steps):
            text += f"   {result_of(steps[-1])}"
        if isinstance(picture, Scene):
            frames.append(draw.caption(draw.draw_scene(picture, next(views)), text, picture.legend))
        elif isinstance(picture, np.ndarray):
            frames.append(draw.caption(draw.draw_pixels(picture), text))
    return draw.animation(frames, fps)


def result_of(last: Transition) -> str:
    if last.won is not None and bool(last.won):
        return "won"
    if bool(last.truncated):
        return "time is up"
    return "finished" if last.won is None else "lost"


def _take_replay(env: _Replays, output: Path) -> None:
    """Have the game write its replay, whose name it chooses itself, and move it to `output`."""
    before = set(output.parent.glob("*.SC2Replay"))
    env.save_replay()
    written = sorted(set(output.parent.glob("*.SC2Replay")) - before, key=lambda path: path.stat().st_mtime)
    if not written:
        raise UserError(f"{output}: the game wrote no replay into {output.parent.resolve()}")
    written[-1].replace(output)
