"""ParallelEnvs that return what the contract does not allow, or what it allows and looks as if it did not."""

import numpy as np
from gymnasium.spaces import Box, Discrete

TWO = Box(-1.0, 1.0, (2,))


class Plain:
    """Two agents, five steps, reward 1 each. `change(self, answer)` may replace what step returns."""

    max_cycles = 5
    change = None

    def __init__(self):
        self.possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return TWO

    def action_space(self, agent):
        return Discrete(3)

    def look(self, agent):
        return np.array([self.t / 5, 0.5], np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.t = self.possible_agents[:], 0
        return {a: self.look(a) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        self.t += 1
        live, end = self.agents, self.t >= 5
        self.agents = [] if end else live
        parts = dict.fromkeys(live, 1.0), dict.fromkeys(live, end), dict.fromkeys(live, False), {a: {} for a in live}
        answer = [{a: self.look(a) for a in live}, *parts]
        return tuple(answer if self.change is None else self.change(answer))

    def render(self):
        return None

    def close(self):
        pass


def changed(change):
    """A factory of Plain whose step's answer is changed: change(env, [obs, rewards, terminations, ...]) -> answer."""

    def make():
        env = Plain()
        env.change = lambda answer: change(env, answer)
        return env

    return make


def put(part, value, agent="a"):
    """A factory of Plain whose step gives `agent` this value in its part of the answer."""

    def change(_, answer):
        answer[part] = {**answer[part], agent: value}
        return answer

    return changed(change)


def replaced(part, value):
    """A factory of Plain whose step returns `value` as one part of its answer."""
    return changed(lambda _, answer: [*answer[:part], value, *answer[part + 1 :]])


class Gone(Plain):
    def step(self, actions):
        answer = super().step(actions)
        del self.agents
        return answer


class Stranger(Plain):
    def step(self, actions):
        answer = super().step(actions)
        self.agents = ["a", "c"]
        return answer


class Nobody(Plain):
    def reset(self, seed=None, options=None):
        answer = super().reset(seed)
        self.agents = []
        return answer


class Deep(Plain):
    """Raises inside numpy, two calls below step."""

    def step(self, actions):
        return self.sum(np.zeros((2, 3)), np.zeros((4, 5)))

    def sum(self, one, two):
        return one @ two


class Closed(Plain):
    """Its window was closed."""

    def step(self, actions):
        raise SystemExit


class Talks(Plain):
    """state: an attribute that is no method."""

    def reset(self, seed=None, options=None):
        self.state = {"a": 0}
        return super().reset(seed)


class Wrapped(Plain):
    """A wrapper's method `state` over an attribute that is none."""

    def __init__(self):
        super().__init__()
        self.unwrapped = Talks()
        self.unwrapped.reset()

    def state(self):
        return self.unwrapped.state()


class Stateful(Plain):
    """state() is what `give(env)` says."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def state(self):
        return self.give(self)


class Shown(Plain):
    """render() returns `picture`."""

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def render(self):
        return self.picture


class Unseen(Plain):
    def render(self):
        raise NotImplementedError


def wrong_names():
    env = Plain()
    env.possible_agents = np.array(["a", "a"])
    return env
