"""SMAC: the StarCraft Multi-Agent Challenge in the real game, through `smac.env.StarCraft2Env`.

Source: Samvelyan et al., The StarCraft Multi-Agent Challenge, AAMAS 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from mast_train.envs import starcraft
from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.envs.frame import Frame
from mast_train.envs.smac_process import Answer, Worker, find_python
from mast_train.settings.errors import UserError, check_choice


class Outcome(NamedTuple):
    """One step. `frame` is the last one that there was when the game crashed and was restarted."""

    frame: Frame
    reward: float
    terminated: bool
    truncated: bool
    won: bool


class SmacEnv:
    """E battles on one SMAC map, each in a process of its own, in the interpreter that has SMAC.

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
        python: str | None = None,
        **options: Any,
    ) -> None:
        """`python` plays the battles (smac_process.find_python); the other options are StarCraft2Env's.

        Raises UserError for an unknown map, an option that the game would refuse, a missing or wrong `smac`, a missing
        game or missing maps.
        """
        check_choice("smac map", map_name, self.maps())
        self.num_envs, self.device = num_envs, device
        self._map, self._options = map_name, starcraft.checked_options(options)
        self._python = find_python(python)
        starcraft.require_game()
        self._seed, self._resets = seed, 0
        self._workers: list[Worker] = []
        self._last: list[Outcome] = []
        self.spec = self._spec(self._start())

    @staticmethod
    def maps() -> tuple[str, ...]:
        """SMAC's maps."""
        return tuple(starcraft.ALLIES)

    def reset(self) -> Observation:
        """Start E episodes. The first call starts the games."""
        answers = self._ask(dict.fromkeys(range(self.num_envs), ("reset",)))
        self._resets += 1
        frames = [self._frame(answers[index], "reset") for index in range(self.num_envs)]
        self._last = [Outcome(frame, 0.0, False, False, False) for frame in frames]
        return self._transition().next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available. Raises ValueError for a wrong shape, UserError if a game fails."""
        check_actions(actions, self.num_envs, self.spec.n_agents)
        if not self._last:
            raise ValueError("step was called before reset")
        rows = actions.tolist()
        running = [index for index, last in enumerate(self._last) if not (last.terminated or last.truncated)]
        answers = self._ask({index: ("step", rows[index]) for index in running})
        for index, last in enumerate(self._last):
            if index in answers:
                values, arrays = answers[index]
                if not np.isfinite(values["reward"]):
                    raise UserError(f"smac {self._map}: after step, the reward is {values['reward']}")
                frame = self._frame(answers[index], "step") if arrays else last.frame  # none: the game crashed
                self._last[index] = Outcome(frame, **{name: values[name] for name in Outcome._fields[1:]})
            else:
                self._last[index] = last._replace(reward=0.0)
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
        self._ask({0: ("save_replay",)})

    def picture(self) -> None:
        """The game draws itself: see `save_replay`."""

    def close(self) -> None:
        """Stop every game. May be called twice."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.close()

    def _start(self) -> Answer:
        seeds = np.random.SeedSequence([self._seed, self._resets]).generate_state(self.num_envs).tolist()
        for _ in seeds:
            self._workers.append(Worker(self._python))
        return self._ask({index: ("open", self._map, seed, self._options) for index, seed in enumerate(seeds)})[0]

    def _ask(self, requests: Mapping[int, tuple[Any, ...]]) -> dict[int, Answer]:
        """Send every worker's request before waiting for the first answer, so that the games run side by side."""
        try:
            for index, request in requests.items():
                self._workers[index].send(*request)
            answers = {index: self._workers[index].receive() for index in requests}
            for result in answers.values():
                if isinstance(result, UserError):
                    raise result
        except BaseException:  # Ctrl-C too: an answer that nobody took would be taken for the next one
            self.close()
            raise
        return cast(dict[int, Answer], answers)

    def _spec(self, answer: Answer) -> EnvSpec:
        info, versions = answer[0]["info"], answer[0]["versions"]
        build = versions["game"]["build"]
        game = starcraft.build_name(build, versions["game"]["version"])
        return EnvSpec(
            env="smac",
            map=self._map,
            n_agents=int(info["n_agents"]),
            obs_dim=int(info["obs_shape"]),
            state_dim=int(info["state_shape"]),
            n_actions=int(info["n_actions"]),
            episode_limit=int(info["episode_limit"]),
            agent_types=tuple(kind for kind, count in starcraft.ALLIES[self._map].items() for _ in range(count)),
            version=f"StarCraft II {game}, SMAC {versions['smac']}, PySC2 {versions['pysc2']}",
            obs_names=(tuple(answer[0]["names"]),) if answer[0]["names"] else (),
        )

    def _frame(self, answer: Answer, call: str) -> Frame:
        """The arrays of an answer. Raises UserError for what the environment did not promise."""
        spec, (obs, state, avail) = self.spec, answer[1]
        expected = ((spec.n_agents, spec.obs_dim), (spec.state_dim,), (spec.n_agents, spec.n_actions))
        for name, array, shape in zip(("get_obs", "get_state", "get_avail_actions"), answer[1], expected, strict=True):
            if array.shape != shape:
                raise UserError(f"smac {self._map}: after {call}, {name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise UserError(f"smac {self._map}: after {call}, {name} has a value that is not finite")
        return Frame(obs, state, avail)

    def _transition(self) -> Transition:
        frames = [last.frame for last in self._last]
        flags = np.array([(last.terminated, last.truncated, last.won) for last in self._last])
        terminated, truncated, won = (self._tensor(column) for column in flags.T)
        reward = self._tensor(np.array([last.reward for last in self._last], dtype=np.float32))
        return Transition(self._observation(frames), reward, terminated, truncated, won)

    def _observation(self, frames: list[Frame]) -> Observation:
        return Observation(*(self._tensor(np.stack(arrays)) for arrays in zip(*frames, strict=True)))

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)
