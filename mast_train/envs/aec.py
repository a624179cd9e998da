"""A turn-based environment as a ParallelEnv: one step is one player's turn, and the others wait.

Source of the interface: Terry et al., PettingZoo: Gym for Multi-Agent Reinforcement Learning, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mast_train.envs.door import Refused, parts, short
from mast_train.envs.spaces import MASK

TOLD = ("rewards", "terminations", "truncations")
AEC = ("possible_agents", "agent_iter", "reset", "step", "observe", "observation_space", "action_space")


def in_turn(factory: Callable[..., Any]) -> Callable[..., Turns]:
    """A factory of turn-based environments as one of ParallelEnvs."""

    def make(**options: Any) -> Turns:
        return Turns(factory(**options))

    make.__wrapped__ = factory  # where errors look for the user's code
    return make


class Turns:
    """Every player observes after every turn. Who waits has a mask without an action; its action is not passed on.

    Rewards are those that the turn gave to each player, `rewards` of the AECEnv, as in PettingZoo's own conversions.
    """

    def __init__(self, env: Any) -> None:
        """Raises Refused when it is no AECEnv with discrete actions."""
        if missing := [name for name in AEC if not hasattr(env, name)]:
            advice = "; a ParallelEnv is named --env pettingzoo:..." if "agent_iter" in missing else ""
            raise Refused(f"returned {type(env).__name__}, not a PettingZoo AECEnv: no {', '.join(missing)}{advice}")
        for agent in env.possible_agents:
            if not isinstance(getattr(env.action_space(agent), "n", None), (int, np.integer)):
                raise Refused(
                    f"agent {agent!r} acts in {env.action_space(agent)}, expected Discrete(n) where players take turns"
                )
        self._env = env
        self.possible_agents, self.observation_space, self.action_space = (
            env.possible_agents, env.observation_space, env.action_space,
        )  # fmt: skip
        self.metadata = getattr(env, "metadata", None) or {}
        self.agents: list[Any] = []

    @property
    def unwrapped(self) -> Any:
        return self._env.unwrapped

    @property
    def state(self) -> Any:
        """The environment's method, or whatever else it calls so."""
        return getattr(self._env, "state", None)

    @property
    def episode_limit(self) -> int | None:
        """Turns of the longest episode; PettingZoo's max_cycles counts rounds in which every player has a turn."""
        turns = getattr(self.unwrapped, "episode_limit", None)
        rounds = getattr(self.unwrapped, "max_cycles", self.metadata.get("max_cycles"))
        if turns is None and isinstance(rounds, (int, np.integer)):
            return int(rounds) * len(self.possible_agents)
        return turns

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """See ParallelEnv."""
        self._env.reset(seed=seed)
        self._bury({}, {})
        return self._seen({}), self._infos({})

    def step(self, actions: Mapping[Any, int]) -> tuple[dict[Any, Any], ...]:
        """See ParallelEnv. Of the actions only that of the player whose turn it is counts."""
        env = self._env
        env.step(actions[env.agent_selection])
        told = [dict(part) for part in parts(tuple(getattr(env, name) for name in TOLD), TOLD, self.possible_agents)]
        seen: dict[Any, Any] = {}
        infos: dict[Any, Any] = {}
        self._bury(seen, infos)
        return self._seen(seen), *told, self._infos(infos)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()

    def _bury(self, seen: dict[Any, Any], infos: dict[Any, Any]) -> None:
        """Take out who has ended, and keep what each saw and was told last. An AECEnv waits for it: step(None)."""
        env = self._env
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            agent = env.agent_selection
            seen[agent], infos[agent] = env.observe(agent), env.infos.get(agent)
            env.step(None)
            if agent in env.agents:
                raise Refused(f"agent {agent!r} has ended, and step(None) does not take it out of agents")
        self.agents = list(env.agents)

    def _seen(self, last: dict[Any, Any]) -> dict[Any, Any]:
        return last | {agent: self._env.observe(agent) for agent in self.agents}

    def _infos(self, last: dict[Any, Any]) -> dict[Any, Any]:
        infos = self._env.infos
        if not isinstance(infos, Mapping):
            raise Refused(f"infos is {short(infos)}, expected a dictionary with an entry for each agent")
        told = {agent: {**(infos.get(agent) or {})} for agent in self.agents}
        for agent in told.keys() - {self._env.agent_selection}:
            told[agent][MASK] = np.zeros(int(self.action_space(agent).n), np.int8)
        return last | told
