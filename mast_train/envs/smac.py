"""SMAC: the StarCraft Multi-Agent Challenge in the real game, through `smac.env.StarCraft2Env`.

Source: Samvelyan et al., The StarCraft Multi-Agent Challenge, AAMAS 2019.
"""

from __future__ import annotations

import multiprocessing
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from mast_train.envs import starcraft
from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.envs.frame import Frame
from mast_train.envs.starcraft import EnvFactory, Outcome, Request
from mast_train.settings.errors import UserError, check_choice


class SmacEnv:
    """E battles on one SMAC map: in this process when E = 1, else one process each.

    Rewards, observations and states are SMAC's own, already scaled. An episode that reaches SMAC's time limit, or
    whose game crashed, is truncated. Unlike the other environments this one does not repeat exactly: the game keeps
    its own random state, so `load_state_dict` only makes sure that a resumed run does not replay its first episodes.
    """

    def __init__(
        self,
        map_name: str,
        num_envs: int,
        seed: int,
        device: torch.device,
        env_factory: EnvFactory = starcraft.launch,
        **options: Any,
    ) -> None:
        """`env_factory(map_name, seed, options)` returns an object with SMAC's API; `options` are StarCraft2Env's.

        Raises UserError for an unknown map, an option that the game would refuse, a missing or wrong `smac`, a missing
        game or missing maps.
        """
        check_choice("smac map", map_name, self.maps())
        self.num_envs, self.device = num_envs, device
        self._map, self._factory, self._options = map_name, env_factory, starcraft.checked_options(options)
        self._seed, self._resets = seed, 0
        self._workers: list[_Local | _Process] = []
        self._last: list[Outcome] = []
        self.spec = self._spec(self._start())

    @staticmethod
    def maps() -> tuple[str, ...]:
        """SMAC's maps."""
        return tuple(starcraft.ALLIES)

    def reset(self) -> Observation:
        """Start E episodes. The first call starts the games."""
        frames = self._ask(dict.fromkeys(range(self.num_envs), ("reset", ())))
        self._resets += 1
        self._last = [Outcome(frames[index], 0.0, False, False, False) for index in range(self.num_envs)]
        return self._transition().next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape, UserError if a game fails."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if not self._last:
            raise ValueError("step was called before reset")
        rows = actions.tolist()
        running = [index for index, last in enumerate(self._last) if not (last.terminated or last.truncated)]
        answers = self._ask({index: ("step", (rows[index],)) for index in running})
        for index, last in enumerate(self._last):
            after = answers.get(index, last._replace(reward=0.0))
            self._last[index] = after if after.frame is not None else after._replace(frame=last.frame)
        return self._transition()

    def state_dict(self) -> dict[str, Any]:
        """The seed, and how many resets drew from it."""
        return {"seed": self._seed, "resets": self._resets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start new games, seeded by the saved seed and the number of resets."""
        self.close()
        self._seed, self._resets = state["seed"], state["resets"]
        self._last = []
        self._start()

    def save_replay(self) -> None:
        """Write a StarCraft II replay of the first environment to `replay_dir`."""
        self._ask({0: ("save_replay", ())})

    def picture(self) -> None:
        """The game draws itself: see `save_replay`."""

    def close(self) -> None:
        """Stop every game. May be called twice."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _start(self) -> dict[str, int]:
        seeds = np.random.SeedSequence([self._seed, self._resets]).generate_state(self.num_envs).tolist()
        kind = _Local if self.num_envs == 1 else _Process
        self._workers = [kind(self._factory, self._map, seed, self._options) for seed in seeds]
        return self._ask(dict.fromkeys(range(self.num_envs), ("open", ())))[0]

    def _ask(self, requests: dict[int, Request]) -> dict[int, Any]:
        """Send every worker's request before waiting for the first answer, so that the games run side by side."""
        for index, request in requests.items():
            self._workers[index].send(request)
        answers = {index: self._workers[index].receive() for index in requests}
        for result in answers.values():
            if isinstance(result, UserError):
                self.close()
                raise result
        return answers

    def _spec(self, info: dict[str, int]) -> EnvSpec:
        version = self._options.get("game_version") or starcraft.game_version(starcraft.game_path())
        return EnvSpec(
            env="smac",
            map=self._map,
            n_agents=int(info["n_agents"]),
            obs_dim=int(info["obs_shape"]),
            state_dim=int(info["state_shape"]),
            n_actions=int(info["n_actions"]),
            episode_limit=int(info["episode_limit"]),
            agent_types=tuple(kind for kind, count in starcraft.ALLIES[self._map].items() for _ in range(count)),
            version=f"StarCraft II {version or 'of unknown version'}",
        )

    def _transition(self) -> Transition:
        frames = [last.frame for last in self._last if last.frame is not None]
        flags = np.array([(last.terminated, last.truncated, last.won) for last in self._last])
        terminated, truncated, won = (self._tensor(column) for column in flags.T)
        reward = self._tensor(np.array([last.reward for last in self._last], dtype=np.float32))
        return Transition(self._observation(frames), reward, terminated, truncated, won)

    def _observation(self, frames: list[Frame]) -> Observation:
        return Observation(*(self._tensor(np.stack(arrays)) for arrays in zip(*frames, strict=True)))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)


class _Local:
    """One battle in this process, with the calls of _Process."""

    def __init__(self, *arguments: Any) -> None:
        self._battle = starcraft.Battle(*arguments)

    def send(self, request: Request) -> None:
        self._answer = starcraft.answer(self._battle, request)

    def receive(self) -> Any:
        return self._answer

    def close(self) -> None:
        self._battle.close()


class _Process:
    """One battle in a process of its own. Spawned, because a process that holds JAX or CUDA must not fork."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=starcraft.serve, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()

    def send(self, request: Request) -> None:
        with suppress(BrokenPipeError):  # receive says what happened
            self._pipe.send(request)

    def receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(1)
            return UserError(f"the process of a smac environment stopped with exit code {self._process.exitcode}")

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(10)
