"""Two cars told by the sign of one input which way to go, in whatever unit inputs are given."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Metres(ParallelEnv):
    """Inputs are uniform in [-1, 1] times `unit`; for the first `silent` steps cars see zeros and have no choice."""

    metadata: ClassVar = {"max_cycles": 10}

    def __init__(self, unit: float = 1e4, inputs: int = 12, silent: int = 0) -> None:
        self.unit, self.inputs, self.silent = unit, inputs, silent
        self.possible_agents = ["car_0", "car_1"]

    def observation_space(self, agent):
        return Box(-self.unit, self.unit, (self.inputs,), np.float64)

    def action_space(self, agent):
        return Discrete(3)

    def _look(self):
        self.seen = {agent: self.rng.uniform(-1.0, 1.0, self.inputs) for agent in self.agents}
        quiet = self.t < self.silent
        mask = np.array([1, 0, 0] if quiet else [1, 1, 1], np.int8)
        obs = {agent: seen * self.unit * (not quiet) for agent, seen in self.seen.items()}
        return obs, {agent: {"action_mask": mask} for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.agents, self.t = self.possible_agents[:], 0
        return self._look()

    def step(self, actions):
        reward = {agent: float(actions[agent] == (self.seen[agent][0] > 0)) for agent in self.agents}
        self.t += 1
        live, over = self.agents, self.t >= self.metadata["max_cycles"]
        obs, infos = self._look()
        if over:
            self.agents = []
        return obs, reward, dict.fromkeys(live, False), dict.fromkeys(live, over), infos
