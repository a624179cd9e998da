"""Random ParallelEnvs, each from a Plan; and the contract of docs/environments.md as a slow loop over such a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatten
from hypothesis import strategies as st

FORMS = (float, np.float64, lambda x: np.array([x]), lambda x: np.array(x, np.float32))
"""Ways to write a number or a flag that environments use."""


@dataclass(frozen=True)
class Plan:
    """visits: of each agent, when it joins, when it leaves, and how. masks: where they are given."""

    spaces: tuple[Space, ...]
    actions: tuple[Discrete, ...]
    visits: tuple[tuple[tuple[int, int, str], ...], ...]
    masks: str
    state: str
    says: str
    limit: int

    def present(self, t):
        """Who is in the game after step t; t = 0 is the reset."""
        return [i for i, own in enumerate(self.visits) if any(joins <= t < leaves for joins, leaves, _ in own)]

    def left(self, t, how):
        """Who leaves with step t in this way."""
        return [i for i, own in enumerate(self.visits) if any((leaves, way) == (t, how) for _, leaves, way in own)]

    @property
    def over(self):
        return next(t for t in range(99) if not self.present(t))

    def space(self, i):
        """Of agent i, with the mask where it is part of it."""
        if self.masks != "observation":
            return self.spaces[i]
        entries = self.spaces[i].spaces if isinstance(self.spaces[i], Dict) else {"observation": self.spaces[i]}
        return Dict({**entries, "action_mask": Box(0, 1, (int(self.actions[i].n),), np.int8)})

    def seen(self, seed, t, i):
        self.spaces[i].seed(seed % 1000 + 1000 * t + 100_000 * i)
        return self.spaces[i].sample()

    def mask(self, seed, t, i):
        """An agent may have no action; the first of those in the game has one."""
        n = int(self.actions[i].n)
        drawn = np.random.default_rng([seed, t, i]).integers(2, size=n).astype(np.int8)
        drawn[t % n] |= i == min(self.present(t), default=i)
        return np.ones(n, np.int8) if self.masks == "none" else drawn

    def reward(self, seed, t, i):
        return float(np.random.default_rng([seed, t, i, 1]).integers(-16, 17)) / 8.0

    def told(self, seed):
        """Whether an episode is won; None: it does not say."""
        return {"never": None, "always": seed % 2 == 0, "at times": None if seed % 3 == 0 else seed % 2 == 0}[self.says]


class RandomGame:
    """A Plan as a ParallelEnv."""

    def __init__(self, plan):
        self.plan, self.possible_agents = plan, [f"agent_{i}" for i in range(len(plan.spaces))]
        self.episode_limit = plan.limit
        if plan.state == "no method":
            self.state = {"moves": 3}
        elif plan.state != "none":
            self.state = self._state

    def observation_space(self, agent):
        return self.plan.space(self.possible_agents.index(agent))

    def action_space(self, agent):
        return self.plan.actions[self.possible_agents.index(agent)]

    def reset(self, seed=None, options=None):
        self.seed, self.t = seed, 0
        return self._look([]), self._infos([])

    def step(self, actions):
        plan, acted = self.plan, self.plan.present(self.t)
        assert set(actions) == set(self.agents) == {self.possible_agents[i] for i in acted}
        for i in acted:
            chosen = actions[self.possible_agents[i]] - int(plan.actions[i].start)
            mask = plan.mask(self.seed, self.t, i)
            assert mask[chosen] or (not mask.any() and chosen == 0)
        self.t += 1
        rewards = {self.possible_agents[i]: FORMS[i % 4](plan.reward(self.seed, self.t, i)) for i in acted}
        flags = [
            {self.possible_agents[i]: FORMS[(i + 1) % 4](i in plan.left(self.t, how)) for i in acted}
            for how in ("terminated", "truncated")
        ]
        return self._look(acted), rewards, *flags, self._infos(acted)

    def _look(self, acted):
        here = self.plan.present(self.t)
        self.agents = [self.possible_agents[i] for i in here]
        return {self.possible_agents[i]: self._one(i) for i in sorted({*here, *acted})}

    def _one(self, i):
        value = self.plan.seen(self.seed, self.t, i)
        if self.plan.masks != "observation":
            return value
        entries = value if isinstance(self.plan.spaces[i], Dict) else {"observation": value}
        return {**entries, "action_mask": self.plan.mask(self.seed, self.t, i)}

    def _infos(self, acted):
        told = self.plan.told(self.seed)
        infos = {
            self.possible_agents[i]: {} if told is None else {"won": told} for i in {*self.plan.present(self.t), *acted}
        }
        if self.plan.masks == "info":
            for agent, info in infos.items():
                info["action_mask"] = self.plan.mask(self.seed, self.t, self.possible_agents.index(agent))
        return infos

    def _state(self):
        assert self.t < self.plan.over or self.plan.left(self.t, "truncated"), "nobody is left to ask about"
        one, two = np.array([[self.t, 0.5]]), np.array([self.seed % 7])
        return {"b": two, "a": one} if self.plan.state == "dict" else np.concatenate([one[0], two])

    def close(self):
        pass


current: list[Plan] = []


def make():
    """What `--env pettingzoo:random_games:make` names: the newest plan's game."""
    return RandomGame(current[-1])


def expected(plan, seed, obs_dim, n_actions):
    """One episode by the contract: (obs, state, avail) after every step, (reward, terminated, truncated) of each."""
    n, t, frames, ends = len(plan.spaces), 0, [], []
    while True:
        cut = plan.left(t, "truncated") if t else []
        shown = plan.present(t) or cut
        obs, avail = np.zeros((n, obs_dim), np.float32), np.zeros((n, n_actions), bool)
        for i in range(n):
            if i in shown:
                flat = np.asarray(flatten(plan.spaces[i], plan.seen(seed, t, i)), np.float32)
                obs[i, : len(flat)] = flat
                avail[i, : int(plan.actions[i].n)] = plan.mask(seed, t, i)
            if not avail[i].any():
                avail[i, 0] = True
        own = plan.state in ("array", "dict")
        state = np.array([t, 0.5, seed % 7], np.float32) if shown else np.zeros(3, np.float32)
        frames.append((obs, state if own else obs.reshape(-1), avail))
        if t:
            reward = sum(plan.reward(seed, t, i) for i in plan.present(t - 1))
            terminated = not plan.present(t) and not cut
            ends.append((reward, terminated, not terminated and (not plan.present(t) or t == plan.limit)))
            if terminated or ends[-1][2]:
                return frames, ends
        t += 1


def boxes():
    floats = st.sampled_from([np.float16, np.float32, np.float64])
    shapes = st.sampled_from([(), (1,), (3,), (2, 2), (2, 1, 2)])
    return st.one_of(
        st.builds(lambda shape, dtype: Box(-2, 2, shape, dtype), shapes, floats),
        st.builds(lambda shape: Box(-np.inf, np.inf, shape, np.float32), shapes),
        st.builds(lambda shape, kind: Box(0, 100, shape, kind), shapes, st.sampled_from([np.int8, np.uint8, np.int64])),
    )


def spaces():
    leaves = st.one_of(
        boxes(),
        st.builds(Discrete, st.integers(1, 4), start=st.integers(-2, 2)),
        st.builds(MultiDiscrete, st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        st.builds(MultiBinary, st.integers(1, 3)),
    )
    names = st.sampled_from(["observation", "obs", "goal", "achieved_goal", "mask", "state"])
    inner = st.one_of(leaves, st.builds(lambda parts: Tuple(parts), st.lists(leaves, min_size=1, max_size=2)))
    return st.one_of(leaves, st.builds(Dict, st.dictionaries(names, inner, min_size=1, max_size=3)))


@st.composite
def plans(draw):
    n = draw(st.integers(1, 4))
    how = st.sampled_from(["terminated", "truncated", "without a word"])
    visits = []
    for i in range(n):
        own, t = [], 0 if i == 0 else draw(st.integers(0, 3))
        for _ in range(draw(st.integers(1, 2))):
            leaves = t + draw(st.integers(1, 5))
            own.append((t, leaves, draw(how)))
            t = leaves + draw(st.integers(1, 2))
        visits.append(tuple(own))
    return Plan(
        tuple(draw(spaces()) for _ in range(n)),
        tuple(Discrete(draw(st.integers(1, 4)), start=draw(st.integers(0, 2))) for _ in range(n)),
        tuple(visits),
        draw(st.sampled_from(["none", "info", "observation"])),
        draw(st.sampled_from(["none", "no method", "array", "dict"])),
        draw(st.sampled_from(["never", "always", "at times"])),
        draw(st.integers(2, 16)),
    )
