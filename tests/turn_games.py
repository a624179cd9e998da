"""Turn-based environments (AEC) for tests."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv
from pettingzoo.utils import wrappers
from pettingzoo.utils.conversions import parallel_to_aec
from wrong_values import Plain


class Count(AECEnv):
    """Players say numbers in turn; each number is a reward for who says it, half of it for the others.

    The player `short` leaves after its first turn; the rest stop after `rounds` rounds, by an end or cut off. The
    number 0 is only allowed in the first round; the mask is part of the observation, as in PettingZoo's classic games.
    """

    def __init__(self, rounds=2, cut=False):
        self.metadata = {"name": "count"}
        self.possible_agents, self.rounds, self.cut = ["short", "long", "last"], rounds, cut
        self.said, self.max_cycles = [], rounds

    def observation_space(self, agent):
        return Dict({"observation": Box(-10, 10, (2,)), "action_mask": Box(0, 1, (3,), np.int8)})

    def action_space(self, agent):
        return Discrete(3)

    def observe(self, agent):
        mine = agent == self.agent_selection
        mask = np.array([self.turn < 3, 1, 1], np.int8) if mine else np.zeros(3, np.int8)
        seen = [self.turn, self.possible_agents.index(agent)]
        return {"observation": np.array(seen, np.float32), "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.agents, self.turn = self.possible_agents[:], 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection, self.said = self.agents[0], []

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            return self._was_dead_step(action)
        self.turn += 1
        self.said.append((agent, action))
        self.rewards = {other: float(action) if other == agent else action / 2 for other in self.agents}
        self.terminations[agent] = agent == "short"
        following = {"short": "long", "long": "last", "last": "long"}[agent]
        if agent == "last" and self.turn >= 2 * self.rounds + 1:
            ends = self.truncations if self.cut else self.terminations
            for other in self.agents:
                ends[other] = True
                self.infos[other] = {"won": self.turn > 4}
        self.agent_selection = following
        self._accumulate_rewards()
        self._deads_step_first()
        return None


class Blind(Count):
    """Who waits is shown nothing."""

    def observe(self, agent):
        return super().observe(agent) if agent == self.agent_selection else None


class Stubborn(Count):
    """Does not take out who has ended."""

    def _was_dead_step(self, action):
        pass


def wrapped(**options):
    return wrappers.OrderEnforcingWrapper(Count(**options))


def plain_in_turn():
    return parallel_to_aec(AsParallel())


class AsParallel(Plain):
    """A ParallelEnv for PettingZoo's own conversion."""

    render_mode = None

    def __init__(self):
        super().__init__()
        self.metadata = {"name": "plain", "max_cycles": 5}

    @property
    def unwrapped(self):
        return self

    def state(self):
        raise NotImplementedError
