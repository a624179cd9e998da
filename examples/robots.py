"""A VMAS scenario, one world of it, as a PettingZoo environment. `--env vmas:navigation` steps such worlds in batches.

mast train --env pettingzoo:examples/robots.py:Robots --set train.epsilon_steps=30000
"""

import torch
import vmas
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Robots(ParallelEnv):
    """Actions: VMAS's nine directions. For scenarios that end by themselves only when the task is solved: `won`."""

    def __init__(self, scenario: str = "navigation", max_cycles: int = 100, **options) -> None:
        self.world = vmas.make_env(scenario, num_envs=1, continuous_actions=False, seed=0, **options)
        self.possible_agents, self.max_cycles = [agent.name for agent in self.world.agents], max_cycles

    def observation_space(self, agent):
        width = self.world.observation_space[self.possible_agents.index(agent)].shape[0]
        return Box(-float("inf"), float("inf"), (width,))

    def action_space(self, agent):
        return Discrete(int(self.world.action_space[self.possible_agents.index(agent)].n))

    def reset(self, seed=None, options=None):
        self.agents, self.steps = self.possible_agents[:], 0
        return self._by_name(self.world.reset(seed=seed)), {agent: {"won": False} for agent in self.agents}

    def step(self, actions):
        seen, rewards, done, _ = self.world.step([torch.tensor([[float(actions[agent])]]) for agent in self.agents])
        self.steps += 1
        solved, late = bool(done), self.steps == self.max_cycles
        earned = {agent: float(reward) for agent, reward in zip(self.agents, rewards, strict=True)}
        ends = [dict.fromkeys(self.agents, value) for value in (solved, late and not solved)]
        told = {agent: {"won": solved} for agent in self.agents}
        seen = self._by_name(seen)
        self.agents = [] if solved or late else self.agents
        return seen, earned, *ends, told

    def _by_name(self, parts):
        return {agent: part[0].numpy() for agent, part in zip(self.agents, parts, strict=True)}
