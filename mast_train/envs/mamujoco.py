"""MaMuJoCo: one MuJoCo robot whose joints are shared out among agents, through gymnasium-robotics.

Source: Peng et al., FACMAC, NeurIPS 2021, whose benchmark it is; de Lazcano et al., Gymnasium-Robotics.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mast_train.envs import install, mujoco_worker
from mast_train.envs.base import EnvSpec, Observation, Transition, check_any_actions
from mast_train.envs.mujoco_worker import Facts, Frames
from mast_train.envs.scene import Scene
from mast_train.settings.errors import UserError

MAPS = (
    "HalfCheetah-2x3", "HalfCheetah-6x1", "Ant-2x4", "Ant-2x4d", "Ant-4x2", "Hopper-3x1", "Walker2d-2x3", "Swimmer-2x1",
    "Reacher-2x1", "Pusher-3p", "Humanoid-9|8", "HumanoidStandup-9|8", "ManySegmentSwimmer-10x2", "ManySegmentAnt-2x3",
    "CoupledHalfCheetah-1p1",
)  # fmt: skip
"""SCENARIO-PARTITION; the segments of a ManySegment robot are as many as its partition says."""


class MamujocoEnv:
    """E copies of one scenario, in processes that step side by side.

    The team's reward is the robot's, once, times `reward_scale`; the state is the robot's own observation. `workers`
    processes, 0: one a core, at most one a copy. `options` go to gymnasium-robotics' parallel_env: agent_obsk (how many
    joints away an agent sees), and what the scenario takes.
    """

    def __init__(
        self,
        map_name: str,
        num_envs: int,
        seed: int,
        device: torch.device,
        reward_scale: float = 1.0,
        episode_limit: int = 0,
        workers: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Raises UserError for a map that is none, an option that the scenario refuses, and where gymnasium-robotics is
        missing."""
        scenario, dash, partition = map_name.partition("-")
        if not dash or not partition:
            raise UserError(f"mamujoco map {map_name!r}: expected SCENARIO-PARTITION, for example HalfCheetah-2x3")
        if find_spec("gymnasium_robotics") is None or find_spec("mujoco") is None:
            raise UserError(f"the mamujoco environment needs gymnasium-robotics: {install('mamujoco')}")
        self.num_envs, self.device, self._scale = num_envs, device, reward_scale
        self._rng, self._frames = np.random.default_rng(seed), None
        count = min(num_envs, workers or len(os.sched_getaffinity(0)))
        self._shares = [len(share) for share in np.array_split(np.arange(num_envs), count)]
        self._workers: list[_Worker] = []
        facts = self._open(scenario, partition, options or {})
        self.spec = EnvSpec(
            env="mamujoco",
            map=map_name,
            n_agents=len(facts.obs_dims),
            obs_dim=max(facts.obs_dims),
            state_dim=facts.state_dim,
            n_actions=facts.box.width,
            episode_limit=episode_limit or facts.episode_limit,
            agent_types=(scenario,) * len(facts.obs_dims),
            version=facts.version,
            obs_names=facts.obs_names,
            box=facts.box,
        )
        self._box = facts.box
        self._avail = torch.from_numpy(facts.box.has).to(device).expand(num_envs, -1, -1)

    @staticmethod
    def maps() -> tuple[str, ...]:
        """Every scenario and partition; of ManySegment robots one of each."""
        return MAPS

    def reset(self) -> Observation:
        """Start E episodes, each from a seed drawn from the environment's own stream."""
        seeds = self._rng.integers(2**31, size=self.num_envs).tolist()
        self._frames = self._joined([("reset", (own,)) for own in self._split(seeds)])
        self._steps, self._cut = 0, np.zeros(self.num_envs, bool)
        return self._transition().next

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N,A] in [-1, 1]. Raises ValueError for a wrong shape, UserError for one that is not a number."""
        check_any_actions(actions, self.num_envs, self.spec)
        if self._frames is None:
            raise ValueError("step was called before reset")
        if self._steps < self.spec.episode_limit:
            bounded = self._box.bounded(actions.cpu().numpy())
            self._frames = self._joined([("step", (own,)) for own in self._split(bounded)])
            self._steps += 1
            if self._steps >= self.spec.episode_limit:
                self._cut = ~self._frames.terminated
        else:
            self._frames = self._frames._replace(reward=np.zeros_like(self._frames.reward))
        return self._transition()

    def state_dict(self) -> dict[str, Any]:
        """The generator that seeds every reset."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["generator"]

    def picture(self) -> Scene | np.ndarray | None:
        """The first copy."""
        return self._ask([("picture", ())], self._workers[:1])[0]

    def close(self) -> None:
        """End the processes. May be called twice."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _open(self, scenario: str, partition: str, options: dict[str, Any]) -> Facts:
        """One process after another: some scenarios write a file of their own while they are built."""
        facts = []
        for share in self._shares:
            self._workers.append(_Worker(scenario, partition, share, options))
            facts += self._ask([("open", ())], self._workers[-1:])
        return facts[0]

    def _split(self, values: Any) -> list[Any]:
        return [values[a:b] for a, b in pairwise(np.cumsum([0, *self._shares]).tolist())]

    def _joined(self, requests: list[tuple[str, tuple[Any, ...]]]) -> Frames:
        return Frames(*map(np.concatenate, zip(*self._ask(requests, self._workers), strict=True)))

    def _ask(self, requests: list[tuple[str, tuple[Any, ...]]], workers: list[_Worker]) -> list[Any]:
        """Send every request before waiting for the first answer, so that the processes work side by side."""
        for worker, request in zip(workers, requests, strict=True):
            worker.send(request)
        answers = [worker.receive() for worker in workers]
        for found in answers:
            if isinstance(found, UserError):
                self.close()
                raise found
        return answers

    def _transition(self) -> Transition:
        frames = self._frames
        assert frames is not None
        obs, state, reward, terminated, truncated = (torch.from_numpy(x.copy()).to(self.device) for x in frames)
        truncated |= torch.from_numpy(self._cut).to(self.device)
        return Transition(Observation(obs, state, self._avail), self._scale * reward, terminated, truncated, None)


class _Worker:
    """A process of some copies. Spawned, because a process that holds JAX or CUDA must not fork."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=mujoco_worker.serve, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()

    def send(self, request: tuple[str, tuple[Any, ...]]) -> None:
        with suppress(BrokenPipeError):  # receive says what happened
            self._pipe.send(request)

    def receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(1)
            return UserError(f"the process of a mamujoco environment stopped with exit code {self._process.exitcode}")

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(10)
