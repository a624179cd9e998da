"""Copies of one MaMuJoCo scenario in a process of their own, without torch: stepped together, answered in arrays.

Letters as in base.py; K copies of this process.
"""

from __future__ import annotations

import ctypes.util
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from mast_train.envs.box import Box
from mast_train.envs.mujoco_names import obs_names
from mast_train.envs.scene import Line, Scene
from mast_train.settings.errors import UserError

FROM_ABOVE = ("Ant", "ManySegmentAnt", "ManySegmentSwimmer", "Reacher", "Swimmer")
"""Scenarios that move in the plane of the ground; the others are seen from the side."""
GROUND = (200, 200, 195)
ADVICE = "see `mast maps --env mamujoco`"


class Facts(NamedTuple):
    """What one copy says of itself."""

    obs_dims: tuple[int, ...]
    state_dim: int
    box: Box
    episode_limit: int
    version: str
    obs_names: tuple[tuple[str, ...], ...]


class Frames(NamedTuple):
    """K episodes after a reset or a step: obs [K,N,O], state [K,S], reward [K] float32; terminated, truncated [K]."""

    obs: np.ndarray
    state: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


class Copies:
    """K copies; one whose episode has ended is not stepped again until `reset`."""

    def __init__(self, scenario: str, partition: str, count: int, options: dict[str, Any]) -> None:
        """Does nothing yet: see `open`."""
        self._name, self._arguments = f"{scenario}-{partition}", (scenario, partition, count, options)
        self._games: list[Any] = []
        self._renders = True

    def open(self) -> Facts:
        """Build the copies. Raises UserError for a scenario, partition or option that there is not."""
        scenario, partition, count, options = self._arguments
        try:
            with _quiet():
                from gymnasium_robotics import mamujoco_v1

                build = {"render_mode": "rgb_array", **options}
                self._games = [mamujoco_v1.parallel_env(scenario, partition, **build) for _ in range(count)]
                self._frames = self.reset([0] * count)
        except Exception as error:
            said = " ".join(str(error).split())
            shown = f" with options {options}" if options else ""
            raise UserError(f"mamujoco {self._name}{shown}: {type(error).__name__}: {said}; {ADVICE}") from error
        game, agents = self._games[0], self._games[0].possible_agents
        spaces = [game.action_space(agent) for agent in agents]
        box = Box.of(f"mamujoco {self._name}", agents, [s.low for s in spaces], [s.high for s in spaces])
        limit = getattr(game.single_agent_env.spec, "max_episode_steps", None) or 1000
        import mujoco

        sizes = tuple(int(game.observation_space(agent).shape[0]) for agent in agents)
        version = f"mujoco {mujoco.__version__}"
        return Facts(sizes, self._frames.state.shape[1], box, int(limit), version, obs_names(game))

    def reset(self, seeds: list[int]) -> Frames:
        """Start an episode in each, from its own seed."""
        shown = [self._seen(game, game.reset(seed=seed)[0]) for game, seed in zip(self._games, seeds, strict=True)]
        obs, state = (np.stack(values) for values in zip(*shown, strict=True))
        none = np.zeros(len(shown), bool)
        self._frames = Frames(obs, state, none.astype(np.float32), none, none)
        return self._frames

    def step(self, actions: np.ndarray) -> Frames:
        """actions [K,N,A] in the environment's units."""
        last = self._frames
        frames = Frames(*(values.copy() for values in last))
        frames.reward[:] = 0.0
        for k, game in enumerate(self._games):
            if last.terminated[k] or last.truncated[k]:
                continue
            spaces, joint = (game.action_space(agent) for agent in game.possible_agents), {}
            for agent, space, row in zip(game.possible_agents, spaces, actions[k], strict=True):
                joint[agent] = row[: space.shape[0]].astype(space.dtype)
            obs, rewards, ended, cut, _ = game.step(joint)
            agent = game.possible_agents[0]  # the reward and the end are the team's
            frames.obs[k], frames.state[k] = self._seen(game, obs)
            frames.reward[k] = rewards[agent]
            frames.terminated[k], frames.truncated[k] = ended[agent], cut[agent] and not ended[agent]
        if not np.isfinite(frames.state).all() or not np.isfinite(frames.reward).all():
            raise UserError(f"mamujoco {self._name}: the simulation diverged: a state or reward is not finite")
        self._frames = frames
        return frames

    def picture(self) -> np.ndarray | Scene | None:
        """The first copy as MuJoCo renders it, where it can draw off screen; else its bodies from the side."""
        if self._renders:
            with _quiet():
                image = self._rendered()
            if image is not None:
                return image
            self._renders = False
        return bodies(self._games[0].single_agent_env.unwrapped, self._arguments[0] in FROM_ABOVE)

    def _rendered(self) -> np.ndarray | None:
        try:
            return np.asarray(self._games[0].render())[:, :, :3].astype(np.uint8)
        except Exception:  # whatever the machine's graphics lack
            return None

    def close(self) -> None:
        with _quiet():
            for game in self._games:
                game.close()

    def _seen(self, game: Any, obs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        width = max(map(len, obs.values()))
        rows = [np.pad(np.asarray(obs[a], np.float32), (0, width - len(obs[a]))) for a in game.possible_agents]
        return np.stack(rows), np.asarray(game.state(), np.float32).reshape(-1)


def bodies(simulation: Any, from_above: bool) -> Scene:
    """The geoms of the moving bodies, seen from the side or from above, over ground with marks 1 or 5 m apart."""
    model, data, up = simulation.model, simulation.data, 1 if from_above else 2
    shapes: list[Line] = []
    for k in range(model.ngeom):
        if model.geom_bodyid[k] == 0:
            continue
        at, turn, size = data.geom_xpos[k], data.geom_xmat[k].reshape(3, 3), model.geom_size[k]
        along = turn[:, 2] * (size[1] if model.geom_type[k] == 3 else 0.0)  # 3: a capsule
        ends = [(float((at + sign * along)[0]), float((at + sign * along)[up])) for sign in (-1, 1)]
        colour = (40, 100, 200) if model.geom_bodyid[k] == 1 else (214, 126, 44)
        shapes.append(Line(ends[0], ends[1], colour, 2 * float(size[0]), round=True))
    points = np.array([end for shape in shapes for end in (shape.start, shape.end)])
    x, y = points.mean(0).tolist()
    reach = float(np.abs(points - (x, y)).max()) + max(shape.width for shape in shapes)
    half = 1.2 * reach if from_above else max(1.5, 1.2 * reach)
    seen, thin, apart = 2.0 * half, 0.014 * half, 1 if half < 5.0 else 5
    metres = _marks(x - seen, x + seen, apart)
    if from_above:
        ground = [Line((m, y - seen), (m, y + seen), GROUND, thin) for m in metres]
        ground += [Line((x - seen, m), (x + seen, m), GROUND, thin) for m in _marks(y - seen, y + seen, apart)]
        corners = (x - half, y - 0.87 * half), (x + half, y + 0.87 * half)
    else:
        ground = [Line((x - seen, 0.0), (x + seen, 0.0), GROUND, thin)]
        ground += [Line((m, 0.0), (m, -0.3 if m % 5 == 0 else -0.12), GROUND, thin) for m in metres]
        corners = (x - half, -0.3), (x + half, max(1.9, y + reach))
    return Scene((*ground, *shapes), corners=corners, follows=True)


def _marks(low: float, high: float, apart: int) -> range:
    return range(apart * math.ceil(low / apart), math.floor(high) + 1, apart)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on either output: importing gymnasium-robotics and reading old models print warnings, some from C."""
    sys.stdout.flush()
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        for number, original in zip((1, 2), kept, strict=True):
            os.dup2(original, number)
            os.close(original)
        os.close(nowhere)


def answer(copies: Copies, request: tuple[str, tuple[Any, ...]]) -> Any:
    """What one method returns, or, if it raises, the error as a UserError (returned, to cross a pipe)."""
    method, arguments = request
    try:
        return getattr(copies, method)(*arguments)
    except UserError as error:
        return error
    except Exception as error:
        said = " ".join(str(error).split())
        return UserError(f"mamujoco {copies._name}: {method} failed: {type(error).__name__}: {said}")


def serve(pipe: Connection, *arguments: Any) -> None:
    """Body of a worker process: answer requests until the pipe is closed. In a session of its own: what interrupts or
    ends a run is for the run, which still needs its workers while it saves."""
    os.setsid()
    if "MUJOCO_GL" not in os.environ and "DISPLAY" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl" if ctypes.util.find_library("EGL") else "osmesa"
    copies = Copies(*arguments)
    try:
        while True:
            pipe.send(answer(copies, pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    finally:
        copies.close()
