"""One PettingZoo ParallelEnv as fixed-size arrays, every agent in its place whether it takes part or not.

The contract is in docs/environments.md. Source of the interface: Terry et al., PettingZoo: Gym for Multi-Agent
Reinforcement Learning, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from mast_train.envs.acts import Acts
from mast_train.envs.door import Door, Refused, flag, image, number, parts, short, users_lines
from mast_train.envs.frame import Frame
from mast_train.envs.obs_names import HOOK, given_names, padded
from mast_train.envs.spaces import Sight, flat_state, mask

PARALLEL = ("possible_agents", "reset", "step", "observation_space", "action_space")
LIMITS = ("episode_limit", "max_cycles", "max_steps")
WON = ("won", "success", "is_success")
SEEN = ("observations", "infos")
STEPPED = ("observations", "rewards", "terminations", "truncations", "infos")
LARGEST = float(np.finfo(np.float32).max)
NEUTRAL = 0
"""The one available action of an agent that cannot act now: it is not in the game, or its mask has no action."""


class Outcome(NamedTuple):
    """One step of one episode; reward is the team's, won None when its infos do not say."""

    frame: Frame
    reward: float
    terminated: bool
    truncated: bool
    won: bool | None


class ParallelGame:
    """One copy. An agent that is not in the game observes zeros, has only the neutral action, and earns nothing."""

    def __init__(
        self,
        label: str,
        factory: Callable[..., Any],
        options: dict[str, Any],
        reward_scale: float = 1.0,
        team_reward: str = "sum",
    ) -> None:
        """label: what errors call it. Raises UserError when it is no ParallelEnv."""
        self._door = Door(label, factory)
        with self._door.call(f"its factory with {options}" if options else "its factory"):
            self._env = self._door.env = factory(**options)
        self._check_kind()
        with self._door.call("possible_agents"):
            self.agents = tuple(self._env.possible_agents)
            if not self.agents or len(set(self.agents)) < len(self.agents):
                raise Refused(f"is {short(list(self.agents))}, expected the team's names, each once")
        with self._door.call("its action spaces"):
            spaces = [self._env.action_space(agent) for agent in self.agents]
        self._acts = Acts(label, self.agents, spaces)
        self._counts, self.box = self._acts.counts, self._acts.box
        self.n_actions = max(self._counts)
        with self._door.call("its observation spaces"):
            self._sights = [Sight(self._env.observation_space(agent)) for agent in self.agents]
        self.obs_dim = max(sight.size for sight in self._sights)
        with self._door.call(HOOK):
            self.obs_names = self._obs_names()
        self._scale, self._shares = reward_scale, len(self.agents) if team_reward == "mean" else 1
        self._has_state, self.state_dim = True, 0
        self.state_dim = self.reset(0).state.size

    @property
    def limit(self) -> int | None:
        """The longest episode by the environment's own word: an attribute or metadata entry named in LIMITS."""
        for owner in (self._env, getattr(self._env, "unwrapped", None)):
            for name in LIMITS:
                for value in (getattr(owner, name, None), (getattr(owner, "metadata", None) or {}).get(name)):
                    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value > 0:
                        return int(value)
        return None

    def _obs_names(self) -> tuple[tuple[str, ...], ...]:
        """A row of `obs_dim` for each agent, by the environment's own word or by its Dict spaces; else none."""
        rows = given_names(self._env, self.agents, [sight.size for sight in self._sights])
        rows = rows or [sight.names for sight in self._sights]
        return tuple(padded(row, self.obs_dim) for row in rows) if all(rows) else ()

    def reset(self, seed: int) -> Frame:
        """Start an episode."""
        with self._door.call("reset"):
            obs, infos = parts(self._env.reset(seed=seed), SEEN, self.agents)
            self._left: set[Any] = set()
            self._playing = self._listed()
            if not self._playing:
                raise Refused("nobody takes part: agents is empty afterwards")
            return self._frame(obs, infos, self._playing)

    def step(self, row: list[Any]) -> Outcome:
        """One action per agent, in the order of `agents`, as Acts.given takes it; those of agents that are not in the
        game are ignored."""
        acting = self._playing
        joint = {agent: self._acts.given(i, row[i]) for i, agent in enumerate(self.agents) if agent in acting}
        with self._door.call("step"):
            obs, rewards, terminations, truncations, infos = parts(self._env.step(joint), STEPPED, self.agents)
            reward = self._earned(rewards, acting)
            listed = self._listed()
            asked = acting | listed
            ended = {a for a in asked if flag(terminations.get(a, False), f"terminations[{a!r}]")}
            cut = {a for a in asked if flag(truncations.get(a, False), f"truncations[{a!r}]")} - ended
            self._left = (self._left | ended | cut) & listed  # some environments go on listing who has left
            self._playing = listed - self._left
            over, cut = not self._playing, cut & acting
            won = self._won(infos)
            shown = self._playing or cut
            return Outcome(self._frame(obs, infos, shown, over), reward, over and not cut, over and bool(cut), won)

    def picture(self) -> np.ndarray | None:
        """What `render()` returns, as an image [H,W,3] uint8; None when it is no array, or not implemented."""
        with self._door.call("render"), suppress(NotImplementedError):
            return image(self._env.render())
        return None

    def close(self) -> None:
        """Close the environment."""
        with self._door.call("close"):
            if hasattr(self._env, "close"):
                self._env.close()

    def _listed(self) -> set[Any]:
        """Who is in the game, by the environment's list `agents`."""
        if not hasattr(self._env, "agents"):
            raise Refused("it leaves no attribute agents, the list of those in the game")
        given = self._env.agents
        if given is None or isinstance(given, (str, Mapping)):
            raise Refused(f"agents is {short(given)} afterwards, expected the list of those in the game")
        listed = set(given)
        if strangers := [agent for agent in listed if agent not in self.agents]:
            raise Refused(f"agents holds {strangers[0]!r}, which is none of possible_agents {short(list(self.agents))}")
        return listed

    def _earned(self, rewards: Mapping[Any, Any], acting: set[Any]) -> float:
        """The team's reward, summed in the agents' order: that of a set would differ between processes."""
        own = {a: number(rewards.get(a, 0.0), f"rewards[{a!r}]") for a in self.agents if a in acting}
        team = self._scale * sum(own.values()) / self._shares
        if abs(team) > LARGEST:
            most = max(own, key=lambda agent: abs(own[agent]))
            raise Refused(
                f"rewards[{most!r}] is {own[most]:g}: the team's, times env.reward_scale {self._scale:g}, is more than "
                "a float32 holds"
            )
        return team

    def _won(self, infos: Mapping[Any, Any]) -> bool | None:
        said = [
            flag(info[key], f"infos[{agent!r}][{key!r}]")
            for agent, info in infos.items()
            if isinstance(info, Mapping)
            for key in WON
            if info.get(key) is not None
        ]
        return any(said) if said else None

    def _frame(self, obs: Mapping[Any, Any], infos: Mapping[Any, Any], shown: set[Any], over: bool = False) -> Frame:
        """shown: the agents whose observations are read; the others are not there."""
        seen = np.zeros((len(self.agents), self.obs_dim), np.float32)
        avail = np.zeros((len(self.agents), self.n_actions), np.bool_)
        for i, agent in enumerate(self.agents):
            if agent not in shown:
                continue
            if agent not in obs:
                raise Refused(f"agent {agent!r} is in the game, but the observations hold {sorted(map(str, obs))}")
            avail[i, : self._counts[i]] = True  # every component; choices may be masked
            if self.box is None:
                avail[i, : self._counts[i]] = mask((infos.get(agent), obs[agent]), self._counts[i], agent)
            if obs[agent] is not None or avail[i].any():  # who waits may be shown nothing
                vector = self._sights[i].flatten(obs[agent], f"agent {agent!r}")
                seen[i, : vector.size] = vector
        if not (over or avail.any()):
            raise Refused("the action_mask of every agent is all 0: nobody can act; at least one action is available")
        avail[~avail.any(1), NEUTRAL] = True
        return Frame(seen, self._state(seen, over and not shown), avail)

    def _state(self, seen: np.ndarray, ended: bool) -> np.ndarray:
        """The environment's own state, or all observations. ended: nothing follows, and nobody is left to ask about."""
        if not self._has_state:
            return seen.reshape(-1)
        if ended:
            return np.zeros(self.state_dim, np.float32)
        first = self.state_dim == 0
        with self._door.call("state"):
            given = self._asked_state(first)
            if first and given is None:
                self._has_state = False
                return seen.reshape(-1)
            state = flat_state(given, "its state")
            if state.size != (self.state_dim or state.size) or state.size == 0:
                raise Refused(
                    f"its state has {state.size} values, at the first reset it had {self.state_dim}: it must have one "
                    "size, whoever is in the game; without a method `state` all observations stand for it"
                )
        return state

    def _asked_state(self, first: bool) -> Any:
        """None, at the first reset, where there is no method, below wrappers too, or it is the abstract one."""
        state = getattr(self._env, "state", None)
        inner = getattr(getattr(self._env, "unwrapped", None), "state", state)
        if first and not (callable(state) and callable(inner)):
            return None
        try:
            return state() if callable(state) else state
        except (NotImplementedError, AttributeError) as error:
            if first and (isinstance(error, NotImplementedError) or not users_lines(error)):
                return None  # PettingZoo's abstract method reads metadata, which there may not be
            raise

    def _check_kind(self) -> None:
        if hasattr(self._env, "agent_iter"):
            raise self._door.wrong(
                "its factory returned an AECEnv, expected a ParallelEnv; name it --env aec:..., or where all agents "
                "act at once convert it with pettingzoo.utils.conversions.aec_to_parallel"
            )
        if missing := [name for name in PARALLEL if not hasattr(self._env, name)]:
            kind = type(self._env).__name__
            raise self._door.wrong(
                f"its factory returned {kind}, not a PettingZoo ParallelEnv: no {', '.join(missing)}"
            )
