"""Two robots in a corridor have to meet in one cell. Next to each other, both moving would only swap their places.

mast train --env pettingzoo:examples/meeting.py:Meeting --steps 20000
"""

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Meeting(ParallelEnv):
    """Actions: 0 stay, 1 left, 2 right. Both earn 1/2 when they share a cell, and pay 1/100 for every step."""

    def __init__(self, cells: int = 7) -> None:
        self.possible_agents, self.cells, self.max_cycles = ["robot_0", "robot_1"], cells, 20

    def observation_space(self, agent):
        return Box(-1.0, 1.0, (3,))

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        rng = np.random.default_rng(seed)
        self.agents, self.steps = self.possible_agents[:], 0
        self.at = rng.permutation(self.cells)[:2]
        return self._look(), self._tell(False)

    def step(self, actions):
        self.at += [(0, -1, 1)[actions[agent]] for agent in self.agents]
        self.steps += 1
        met, late = self.at[0] == self.at[1], self.steps == self.max_cycles
        reward, seen, told = 0.5 * met - 0.01, self._look(), self._tell(bool(met))
        ends = [dict.fromkeys(self.agents, value) for value in (reward, bool(met), bool(late and not met))]
        self.agents = [] if met or late else self.agents
        return seen, *ends, told

    def _look(self):
        place = 2.0 * self.at / (self.cells - 1) - 1.0
        return {
            agent: np.array([place[i], place[1 - i], self.steps / self.max_cycles], np.float32)
            for i, agent in enumerate(self.agents)
        }

    def _tell(self, won):
        masks = [np.array([1, at > 0, at < self.cells - 1], np.int8) for at in self.at]
        return {agent: {"action_mask": mask, "won": won} for agent, mask in zip(self.agents, masks, strict=True)}

    def render(self):
        image = np.full((1, self.cells, 3), 255, np.uint8)
        image[0, self.at] = [[200, 60, 60], [60, 90, 200]]
        return image.repeat(48, 0).repeat(48, 1)
