"""PettingZoo ParallelEnvs for tests: one that exercises the contract, and one mistake each. No pettingzoo needed."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Expedition:
    """Scripted: `short` leaves after 2 steps, `tall` goes on to step 4; sizes, masks and rewards differ by agent.

    Observations are (step, seed) padded to the agent's size; `tall`'s actions start at 5, its mask is in its
    observation, `short`'s in its info. `end` says how `tall` ends: "terminated", "truncated" or "never".
    """

    max_cycles = 6

    def __init__(self, end="terminated", won=None, state=True):
        self.possible_agents = ["short", "tall"]
        self.end, self.won = end, won
        self.seen = []
        if state:
            self.state = lambda: np.array([[self.steps, -1.0], [0.5, 2.0]])

    def observation_space(self, agent):
        box = Box(-np.inf, np.inf, (2,) if agent == "short" else (2, 2))
        return box if agent == "short" else Dict({"observation": box, "action_mask": Box(0, 1, (3,), np.int8)})

    def action_space(self, agent):
        return Discrete(2) if agent == "short" else Discrete(3, start=5)

    def reset(self, seed=None, options=None):
        self.agents, self.steps, self.drawn = self.possible_agents[:], 0, seed % 1000
        return self._look(), self._infos()

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.seen.append(actions)
        self.steps += 1
        acted, last = self.agents, self.steps == 4 and self.end != "never"
        terminated = {"short": self.steps == 2, "tall": last and self.end == "terminated"}
        truncated = {"short": False, "tall": last and self.end == "truncated"}
        rewards = {agent: {"short": 1.0, "tall": 10.0}[agent] for agent in acted}
        looked, infos = self._look(), self._infos()
        self.agents = [agent for agent in acted if not terminated[agent] and not truncated[agent]]
        pick = [{agent: values[agent] for agent in acted} for values in (rewards, terminated, truncated)]
        return looked, *pick, infos

    def _look(self):
        short = np.array([self.steps, self.drawn], np.float32)
        tall = {"observation": np.stack([short, short]), "action_mask": np.array([1, self.steps > 0, 0], np.int8)}
        return {agent: value for agent, value in (("short", short), ("tall", tall)) if agent in self.agents}

    def _infos(self):
        told = {} if self.won is None else {"won": self.won}
        return {agent: {**told, **({"action_mask": [0, 1]} if agent == "short" else {})} for agent in self.agents}

    def render(self):
        image = np.zeros((20, 30, 3), np.uint8)
        image[:, : 5 * self.steps] = 255
        return image

    def close(self):
        pass


class Mixed(Expedition):
    def action_space(self, agent):
        return Box(-1.0, 1.0, (2,)) if agent == "short" else super().action_space(agent)


class Broken(Expedition):
    """`fault` names what goes wrong after the reset."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def step(self, actions):
        looked, rewards, terminated, truncated, infos = super().step(actions)
        if self.fault == "nan":
            looked["tall"]["observation"][1, 0] = np.nan
        if self.fault == "mask":
            infos["short"]["action_mask"] = [0, 0]
        if self.fault == "size":
            looked["short"] = np.zeros(3, np.float32)
        if self.fault == "missing":
            del looked["short"]
        if self.fault == "reward":
            rewards["tall"] = float("inf")
        if self.fault == "raise":
            raise KeyError("robot\n7")
        return looked, rewards, terminated, truncated, infos


class Endless(Expedition):
    max_cycles = None


class OldStep(Expedition):
    def step(self, actions):
        return super().step(actions)[:4]


class TurnByTurn(Expedition):
    def agent_iter(self):
        return iter(self.agents)


class Nothing:
    pass


NUMBER = 3
