"""Any PettingZoo ParallelEnv, given as MODULE:FACTORY. The contract: docs/environments.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mast_train.envs.base import EnvSpec, Observation, Transition, check_any_actions, unit_type
from mast_train.envs.parallel import EXAMPLE, LIMITS, Outcome, ParallelGame, load_factory
from mast_train.settings.errors import UserError


class PettingZooEnv:
    """E copies of one ParallelEnv, stepped one after the other in this process.

    The team's reward is the sum of the agents' (`team_reward` "mean": divided by N) times `reward_scale`. An episode
    is terminated when its last agents terminate, truncated when one of them was truncated or `episode_limit` is
    reached. `options` are the factory's keyword arguments.
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
        """map_name: MODULE:FACTORY. Raises UserError for whatever in it, or in the environment, breaks the contract."""
        factory = load_factory(map_name)
        self.num_envs, self.device = num_envs, device
        self._games = [ParallelGame(map_name, factory, options or {}) for _ in range(num_envs)]
        self._rng = np.random.default_rng(seed)
        game = self._games[0]
        limit = episode_limit or game.limit
        if limit is None:
            raise UserError(
                f"pettingzoo {map_name}: it does not say how long an episode may be; give it an attribute named "
                f"{' or '.join(LIMITS)}, or set env.episode_limit"
            )
        self.spec = EnvSpec(
            env="pettingzoo",
            map=map_name,
            n_agents=len(game.agents),
            obs_dim=game.obs_dim,
            state_dim=game.state_dim,
            n_actions=game.n_actions,
            episode_limit=limit,
            agent_types=tuple(unit_type(str(agent)) for agent in game.agents),
            box=game.box,
        )
        self._scale = reward_scale / (self.spec.n_agents if team_reward == "mean" else 1)
        self._last: list[Outcome] = []
        self._says_won = True

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Raises UserError: the user names a factory."""
        raise UserError(f"pettingzoo has no maps of its own; name your environment: {EXAMPLE}")

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

    def _ended(self, after: Outcome) -> Outcome:
        """The outcome with the episode limit applied; notes an episode that ended without saying whether it was won."""
        if self._steps >= self.spec.episode_limit and not after.terminated:
            after = after._replace(truncated=True)
        if after.won is None and (after.terminated or after.truncated):
            self._says_won = False
        return after

    def _transition(self) -> Transition:
        flags = np.array([(last.terminated, last.truncated, bool(last.won)) for last in self._last])
        terminated, truncated, won = (self._tensor(column) for column in flags.T)
        arrays = zip(*(last.frame for last in self._last), strict=True)
        reward = np.array([self._scale * last.reward for last in self._last], dtype=np.float32)
        return Transition(
            Observation(*(self._tensor(np.stack(column)) for column in arrays)),
            self._tensor(reward),
            terminated,
            truncated,
            won if self._says_won else None,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)
