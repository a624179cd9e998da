"""VMAS: two-dimensional multi-robot tasks, a batch of worlds simulated together in torch.

Source: Bettini et al., VMAS: A Vectorized Multi-Agent Simulator for Collective Robot Learning, DARS 2022.
"""

from __future__ import annotations

import random
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mast_train.envs import install
from mast_train.envs.acts import Acts
from mast_train.envs.base import EnvSpec, Observation, Transition, check_any_actions, unit_type
from mast_train.envs.scene import Circle, Colour, Line, Point, Polygon, Scene
from mast_train.settings.errors import UserError, check_choice

EPISODE_LIMIT = 100
"""VMAS's tasks run until they are solved, or for ever; its authors' experiments stop them after 100 steps."""

SOLVED_WHEN_DONE = (
    "discovery", "dispersion", "give_way", "joint_passage", "joint_passage_size", "multi_give_way", "navigation",
    "passage", "reverse_transport", "transport",
)  # fmt: skip
"""Scenarios that end by themselves only when the task is solved: `won`. Elsewhere the end may be a failure."""


class VmasEnv:
    """E worlds of one VMAS scenario; the state is every agent's observation, concatenated.

    Actions are discrete, with `continuous_actions` among the `options` continuous; other options go to the scenario
    (n_agents, ...). VMAS draws from torch's, numpy's and Python's global generators; here every reset
    seeds them from the environment's own stream, and the rest of the process never notices.
    """

    def __init__(
        self,
        map_name: str,
        num_envs: int,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        team_reward: str = "sum",
        episode_limit: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Raises UserError for an unknown scenario or option, a missing VMAS, or agents that talk beside
        acting."""
        check_choice("vmas map", map_name, self.maps())
        self.num_envs, self.device = num_envs, device
        self._rng = np.random.default_rng(seed)
        options = dict(options or {})
        continuous = bool(options.pop("continuous_actions", False))
        self._env = _make(map_name, num_envs, device, options, continuous)
        self._streams = list(self._env.vmas_random_state)
        acts = Acts(f"vmas {map_name}", [agent.name for agent in self._env.agents], self._env.action_space.spaces)
        shown = self._env.get_from_scenario(True, False, False, False)[0]
        obs = [_flat(part) for part in shown]
        self.spec = EnvSpec(
            env="vmas",
            map=map_name,
            n_agents=len(obs),
            obs_dim=max(part.shape[1] for part in obs),
            state_dim=sum(part.shape[1] for part in obs),
            n_actions=max(acts.counts),
            episode_limit=episode_limit or EPISODE_LIMIT,
            agent_types=tuple(unit_type(agent.name) for agent in self._env.agents),
            version=f"vmas {version('vmas')}",
            box=acts.box,
        )
        counts = torch.tensor(acts.counts, device=device)
        avail = torch.arange(self.spec.n_actions, device=device) < counts[:, None]
        self._avail = avail.expand(num_envs, -1, -1)
        self._scale = reward_scale / (len(obs) if team_reward == "mean" else 1)
        self._last: Transition | None = None
        self._wins = map_name in SOLVED_WHEN_DONE

    @staticmethod
    def maps() -> tuple[str, ...]:
        """VMAS's scenarios."""
        return tuple(import_vmas().scenarios)

    def reset(self) -> Observation:
        """Start E episodes from one seed drawn from the environment's own stream."""
        number = int(self._rng.integers(2**31))
        self._put_streams(_fresh_streams(number))
        observation = self._observe(self._env.reset())
        self._keep_streams()
        none = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._last = Transition(observation, torch.zeros(self.num_envs, device=self.device), none, none, none)
        self._steps = 0
        return observation

    def step(self, actions: Tensor) -> Transition:
        """actions [E,N] int64 or [E,N,A] in [-1, 1]. Raises ValueError for a wrong shape, UserError for an action that
        is not a number, and when the world is no longer finite."""
        check_any_actions(actions, self.num_envs, self.spec)
        if self._last is None:
            raise ValueError("step was called before reset")
        self._put_streams(self._streams)
        obs, rewards, done, _ = self._env.step(self._given(actions))
        self._keep_streams()
        self._steps += 1
        last, finished = self._last, self._last.terminated | self._last.truncated
        seen = self._observe(obs)
        reward = self._scale * torch.stack([r.reshape(-1) for r in rewards], 1).sum(1)
        terminated = torch.where(finished, last.terminated, done.reshape(-1))
        truncated = torch.where(finished, last.truncated, ~terminated & (self._steps >= self.spec.episode_limit))
        self._last = Transition(
            Observation(
                torch.where(finished[:, None, None], last.next.obs, seen.obs),
                torch.where(finished[:, None], last.next.state, seen.state),
                self._avail,
            ),
            reward.float().masked_fill(finished, 0.0),
            terminated,
            truncated,
            terminated if self._wins else None,
        )
        return self._last

    def state_dict(self) -> dict[str, Any]:
        """The generator that seeds every reset."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["generator"]

    def picture(self) -> Scene:
        """The first world's bodies: targets faint, bodies solid, agents numbered."""
        agents = list(self._env.world.policy_agents)
        shapes = [shape for entity in self._env.world.landmarks for shape in _shapes(entity, "")]
        shapes += [shape for index, agent in enumerate(agents) for shape in _shapes(agent, str(index))]
        return Scene(tuple(shapes), corners=_corners([*agents, *self._env.world.landmarks]))

    def close(self) -> None:
        """Nothing to release."""

    def _given(self, actions: Tensor) -> list[Tensor]:
        """What the worlds get of each agent: its choice [E,1], or its components within their bounds."""
        box = self.spec.box
        if box is None:
            return list(actions.float().unsqueeze(-1).unbind(1))
        bounded = torch.from_numpy(box.bounded(actions.cpu().numpy())).float().to(self.device)
        return [own[:, : len(low)] for own, low in zip(bounded.unbind(1), box.low, strict=True)]

    def _observe(self, parts: list[Any]) -> Observation:
        obs = [_flat(part) for part in parts]
        state = torch.cat(obs, 1)
        if not bool(torch.isfinite(state).all()):
            raise UserError(f"vmas {self.spec.map}: an observation is not finite: the simulation diverged")
        padded = [functional.pad(part, (0, self.spec.obs_dim - part.shape[1])) for part in obs]
        return Observation(torch.stack(padded, 1), state, self._avail)

    def _put_streams(self, streams: list[Any]) -> None:
        self._env.vmas_random_state[:] = streams

    def _keep_streams(self) -> None:
        self._streams = list(self._env.vmas_random_state)


def import_vmas() -> Any:
    """The package, without its warnings. Raises UserError when it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import vmas
        except ModuleNotFoundError as error:
            raise UserError(f"the vmas environment needs VMAS ({error}): install it with {install('vmas')}") from error
    return vmas


def _make(map_name: str, num_envs: int, device: torch.device, options: dict[str, Any], continuous: bool) -> Any:
    vmas = import_vmas()
    settings = {"num_envs": num_envs, "device": device, "continuous_actions": continuous, "seed": 0}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Scenario kwargs")
            return vmas.make_env(map_name, **settings, **options)
    except (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, UserWarning) as error:
        said = " ".join(str(error).split()).partition(" This will turn into")[0] or type(error).__name__
        raise UserError(f"vmas {map_name} with options {options}: {said}") from error


def _fresh_streams(seed: int) -> list[Any]:
    """States of torch's, numpy's and Python's generators as if each had just been seeded."""
    torch_state = torch.Generator().manual_seed(seed).get_state()
    return [torch_state, np.random.RandomState(seed).get_state(), random.Random(seed).getstate()]


def _flat(part: Any) -> Tensor:
    """One agent's observation [E,...], or a dictionary of them, as [E,O] float32."""
    if isinstance(part, dict):
        return torch.cat([_flat(value) for value in part.values()], 1)
    return part.flatten(1).float()


def _corners(entities: list[Any]) -> tuple[Point, ...]:
    """The boxes around all bodies that are no wider than 2: walls and floors need not be seen to their ends."""
    sized = [(*entity.state.pos[0].tolist(), float(entity.shape.circumscribed_radius())) for entity in entities]
    return tuple((x + sign * r, y + sign * r) for x, y, r in sized if r <= 1.0 for sign in (-1, 1))


def _shapes(entity: Any, label: str) -> list[Circle | Polygon | Line]:
    x, y = entity.state.pos[0].tolist()
    angle, kind = float(entity.state.rot[0]), type(entity.shape).__name__
    solid = bool(label) or entity.collide
    colour = _colour(entity.color, 1.0 if solid else 0.35)
    if kind == "Sphere":
        return [Circle((x, y), entity.shape.radius, colour, label)]
    cos, sin = np.cos(angle), np.sin(angle)
    if kind == "Line":
        half = entity.shape.length / 2
        ends = (x - half * cos, y - half * sin), (x + half * cos, y + half * sin)
        return [Line(*ends, colour, entity.shape.width * 0.01)]
    half_l, half_w = entity.shape.length / 2, entity.shape.width / 2
    corners = ((-half_l, -half_w), (half_l, -half_w), (half_l, half_w), (-half_l, half_w))
    return [Polygon(tuple((x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners), colour)]


def _colour(given: Any, strength: float) -> Colour:
    """`given`: VMAS's Color, three numbers, or such numbers for each world; strength below 1 lightens it."""
    given = getattr(given, "value", given)
    rgb = [float(part) for part in (given[0] if getattr(given, "ndim", 1) == 2 else given)][:3]
    red, green, blue = (round(255 * (1.0 - strength * (1.0 - part))) for part in rgb)
    return red, green, blue
