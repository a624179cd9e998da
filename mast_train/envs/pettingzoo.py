"""A user's own environment, given as MODULE:FACTORY: PettingZoo's ParallelEnv, or an AECEnv with discrete actions.

The contract: docs/environments.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mast_train.envs.aec import in_turn
from mast_train.envs.base import EnvSpec, Observation, Transition, check_any_actions, unit_type
from mast_train.envs.find import load_factory
from mast_train.envs.parallel import LIMITS, Outcome, ParallelGame
from mast_train.settings.errors import UserError


class PettingZooEnv:
    """E copies of one ParallelEnv, stepped one after the other in this process.

    The team's reward is the sum of the agents' (`team_reward` "mean": divided by N) times `reward_scale`. An episode
    is terminated when its last agents terminate, truncated when one of them was truncated or `episode_limit` is
    reached. `options` are the factory's keyword arguments.
    """

    kind = "pettingzoo"

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
        """map_name: MODULE:FACTORY. Raises UserError for whatever in it, or in the environment, breaks the contract."""
        factory, label = self._factory(map_name), f"{self.kind} {map_name}"
        self.num_envs, self.device = num_envs, device
        self._games = [ParallelGame(label, factory, options or {}, reward_scale, team_reward) for _ in range(num_envs)]
        self._rng = np.random.default_rng(seed)
        game = _alike(label, self._games)
        limit = episode_limit or game.limit
        if limit is None:
            raise UserError(
                f"{label}: it does not say how long an episode may be; give it an attribute named "
                f"{' or '.join(LIMITS)}, or set env.episode_limit"
            )
        self.spec = EnvSpec(
            env=self.kind,
            map=map_name,
            n_agents=len(game.agents),
            obs_dim=game.obs_dim,
            state_dim=game.state_dim,
            n_actions=game.n_actions,
            episode_limit=limit,
            agent_types=tuple(unit_type(str(agent)) for agent in game.agents),
            obs_names=game.obs_names,
            box=game.box,
        )
        self._last: list[Outcome] = []

    @classmethod
    def maps(cls) -> tuple[str, ...]:
        """Raises UserError: the user names a factory."""
        raise UserError(f"{cls.kind} has no maps of its own; name your environment: --env {cls.kind}:my_game.py:make")

    def reset(self) -> Observation:
        """Start E episodes, each from a seed drawn from the environment's own stream."""
        seeds = self._rng.integers(2**31, size=self.num_envs).tolist()
        frames = [game.reset(seed) for game, seed in zip(self._games, seeds, strict=True)]
        self._last = [Outcome(frame, 0.0, False, False, None) for frame in frames]
        self._steps = 0
        return self._transition().next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available, or [E,N,A] in [-1, 1]. Raises ValueError for a wrong shape, UserError
        for an action that is not a number, and if a copy fails."""
        check_any_actions(actions, self.num_envs, self.spec)
        if not self._last:
            raise ValueError("step was called before reset")
        self._steps += 1
        for index, row in enumerate(actions.tolist()):
            last = self._last[index]
            if last.terminated or last.truncated:
                self._last[index] = last._replace(reward=0.0)
            else:
                self._last[index] = self._ended(self._games[index].step(row))
        return self._transition()

    def state_dict(self) -> dict[str, Any]:
        """The generator that seeds every reset."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["generator"]

    def picture(self) -> np.ndarray | None:
        """What the first copy's `render()` returns, when that is an image."""
        return self._games[0].picture()

    def close(self) -> None:
        """Close every copy."""
        for game in self._games:
            game.close()

    def _factory(self, name: str) -> Callable[..., Any]:
        return load_factory(name, self.kind)

    def _ended(self, after: Outcome) -> Outcome:
        """The outcome with the episode limit applied."""
        if self._steps >= self.spec.episode_limit and not after.terminated:
            return after._replace(truncated=True)
        return after

    def _transition(self) -> Transition:
        over = np.array([last.terminated or last.truncated for last in self._last])
        flags = np.array([(last.terminated, last.truncated, bool(last.won)) for last in self._last])
        says = over & np.array([last.won is not None for last in self._last])
        terminated, truncated, won = (self._tensor(column) for column in (flags & over[:, None]).T)
        arrays = zip(*(last.frame for last in self._last), strict=True)
        return Transition(
            Observation(*(self._tensor(np.stack(column)) for column in arrays)),
            self._tensor(np.array([last.reward for last in self._last], dtype=np.float32)),
            terminated,
            truncated,
            won if says.any() else None,
            self._tensor(says),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)


class AecEnv(PettingZooEnv):
    """Turn-based environments: a step is one player's turn, and `episode_limit` counts turns."""

    kind = "aec"

    def _factory(self, name: str) -> Callable[..., Any]:
        return in_turn(load_factory(name, self.kind))


def _alike(label: str, games: list[ParallelGame]) -> ParallelGame:
    """The first of games whose agents and sizes are the same. Raises UserError where the factory makes others."""
    sizes = [(game.agents, game.obs_dim, game.state_dim, game.n_actions, game.box) for game in games]
    if other := next((size for size in sizes if size != sizes[0]), None):
        raise UserError(
            f"{label}: its factory makes environments of different sizes: (agents, observation, state, actions, "
            f"bounds) {sizes[0]} and {other}"
        )
    return games[0]
