"""One PettingZoo ParallelEnv as fixed-size arrays: found by name, checked against the contract, agents kept in place.

The contract is in docs/environments.md. Source of the interface: Terry et al., PettingZoo: Gym for Multi-Agent
Reinforcement Learning, NeurIPS 2021.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mast_train.envs import install
from mast_train.envs.acts import Acts
from mast_train.envs.frame import Frame
from mast_train.settings.errors import UserError, suggest

PARALLEL = ("possible_agents", "reset", "step", "observation_space", "action_space")
LIMITS = ("episode_limit", "max_cycles", "max_steps")
WON = ("won", "success", "is_success")
EXAMPLE = "--env pettingzoo:my_game.py:make"


class Outcome(NamedTuple):
    """One step of one episode; reward is the sum over agents, won None when its infos do not say."""

    frame: Frame
    reward: float
    terminated: bool
    truncated: bool
    won: bool | None


class ParallelGame:
    """One copy. An agent that is gone observes zeros, has only action 0, and earns 0."""

    def __init__(self, name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
        """`name` is what errors call it. Raises UserError when it is no ParallelEnv."""
        self._name = name
        with self._reported(f"its factory with {options}" if options else "its factory"):
            self._env = factory(**options)
        self._check_kind()
        self.agents = tuple(self._env.possible_agents)
        with self._reported("its spaces"):
            actions = {agent: self._env.action_space(agent) for agent in self.agents}
            self._spaces = {agent: _observed(self._env.observation_space(agent)) for agent in self.agents}
        self._acts = Acts(f"pettingzoo {name}", self.agents, list(actions.values()))
        self._counts, self.box = self._acts.counts, self._acts.box
        self.n_actions = max(self._counts)
        with self._reported("its observation spaces"):
            self.obs_dim = max(_size(space) for space in self._spaces.values())
        self._has_state = True
        self.state_dim = self.reset(0).state.size

    @property
    def limit(self) -> int | None:
        """The longest episode by the environment's own word: an attribute or metadata entry named in LIMITS."""
        for owner in (self._env, getattr(self._env, "unwrapped", None)):
            for name in LIMITS:
                for value in (getattr(owner, name, None), (getattr(owner, "metadata", None) or {}).get(name)):
                    if isinstance(value, (int, np.integer)) and value > 0:
                        return int(value)
        return None

    def reset(self, seed: int) -> Frame:
        """Start an episode."""
        with self._reported("reset"):
            answer = self._env.reset(seed=seed)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._wrong("reset returned something other than (observations, infos)")
        self._alive = set(self.agents)
        return self._frame(*answer, gone=set())

    def step(self, row: list[Any]) -> Outcome:
        """One action per agent, in the order of `agents`, as Acts.given takes it; those of agents that are gone are
        ignored."""
        joint = {agent: self._acts.given(i, row[i]) for i, agent in enumerate(self.agents) if agent in self._alive}
        with self._reported("step"):
            answer = self._env.step(joint)
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise self._wrong(
                "step returned something other than (observations, rewards, terminations, truncations, infos)"
            )
        obs, rewards, terminations, truncations, infos = answer
        ended = {agent for agent in self._alive if terminations.get(agent)}
        cut = {agent for agent in self._alive - ended if truncations.get(agent)}
        reward = sum(float(rewards.get(agent, 0.0)) for agent in self._alive)
        if not np.isfinite(reward):
            raise self._wrong(f"its rewards {dict(rewards)} are not all finite numbers")
        present = set(self._env.agents)
        left = {agent for agent in self._alive - ended - cut if agent in present}
        gone = set(self.agents) - left - (set() if left else cut)
        self._alive = left
        frame = self._frame(obs, infos, gone)
        said = [bool(info[key]) for info in infos.values() if isinstance(info, Mapping) for key in WON if key in info]
        over = not left
        return Outcome(frame, reward, over and not cut, over and bool(cut), any(said) if said else None)

    def picture(self) -> np.ndarray | None:
        """What `render()` returns, when that is an image [H,W,3] uint8."""
        with self._reported("render"):
            image = self._env.render()
        fits = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] >= 3
        return image[:, :, :3].astype(np.uint8) if fits else None

    def close(self) -> None:
        """Close the environment."""
        with self._reported("close"):
            self._env.close()

    def _frame(self, obs: Mapping[Any, Any], infos: Mapping[Any, Any], gone: set[Any]) -> Frame:
        seen = np.zeros((len(self.agents), self.obs_dim), np.float32)
        avail = np.zeros((len(self.agents), self.n_actions), np.bool_)
        for i, agent in enumerate(self.agents):
            if agent in gone:
                avail[i, 0] = True
                continue
            if agent not in obs:
                raise self._wrong(f"agent {agent!r} is in the game, but the observations hold {sorted(map(str, obs))}")
            vector = self._vector(agent, obs[agent])
            seen[i, : vector.size] = vector
            avail[i, : self._counts[i]] = self._mask(i, obs[agent], infos.get(agent) or {})
        state = self._state() if self._has_state else None
        return Frame(seen, seen.reshape(-1) if state is None else state, avail)

    def _vector(self, agent: Any, given: Any) -> np.ndarray:
        inner = given["observation"] if isinstance(given, Mapping) and "observation" in given else given
        with self._reported(f"the observation of agent {agent!r}"):
            vector = _flat(self._spaces[agent], inner)
        if vector.size != _size(self._spaces[agent]):
            raise self._wrong(
                f"agent {agent!r} observed {vector.size} values, its observation space has {_size(self._spaces[agent])}"
            )
        return self._finite(vector, f"the observation of agent {agent!r}")

    def _mask(self, index: int, given: Any, info: Mapping[str, Any]) -> np.ndarray:
        """An agent's available actions [its n]: from its info, else from its observation, else all. All components."""
        if self.box is not None:
            return np.ones(self._counts[index], np.bool_)
        holder = next((x for x in (info, given) if isinstance(x, Mapping) and "action_mask" in x), None)
        if holder is None:
            return np.ones(self._counts[index], np.bool_)
        mask = np.asarray(holder["action_mask"]).astype(np.bool_).reshape(-1)
        if mask.size != self._counts[index] or not mask.any():
            raise self._wrong(
                f"the action_mask of agent {self.agents[index]!r} is {mask.astype(int).tolist()}, expected "
                f"{self._counts[index]} flags with at least one action available"
            )
        return mask

    def _state(self) -> np.ndarray | None:
        """The environment's own state, flat; None, from the first reset on, when it has none."""
        try:
            with self._reported("state"):
                given = self._env.state()
        except UserError as error:
            if isinstance(error.__cause__, (NotImplementedError, AttributeError)) and not hasattr(self, "state_dim"):
                self._has_state = False
                return None
            raise
        return self._finite(np.asarray(given, np.float32).reshape(-1), "its state")

    def _finite(self, vector: np.ndarray, what: str) -> np.ndarray:
        if not np.isfinite(vector).all():
            index = int(np.flatnonzero(~np.isfinite(vector))[0])
            raise self._wrong(f"{what} holds {vector[index]} at position {index}; values must be finite float32")
        return vector

    def _check_kind(self) -> None:
        missing = [name for name in PARALLEL if not hasattr(self._env, name)]
        if hasattr(self._env, "agent_iter"):
            raise self._wrong(
                "its factory returned an AECEnv, expected a ParallelEnv; convert it with "
                "pettingzoo.utils.conversions.aec_to_parallel"
            )
        if missing:
            kind = type(self._env).__name__
            raise self._wrong(f"its factory returned {kind}, not a PettingZoo ParallelEnv: no {', '.join(missing)}")
        if not self._env.possible_agents:
            raise self._wrong("possible_agents is empty")

    def _wrong(self, what: str) -> UserError:
        return UserError(f"pettingzoo {self._name}: {what}")

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """An exception of the user's code as one line that says where it was raised."""
        try:
            yield
        except Exception as error:
            raise self._wrong(f"{what} failed: {_located(error)}") from error


def load_factory(name: str) -> Callable[..., Any]:
    """The callable that MODULE:FACTORY or FILE.py:FACTORY names; modules are also looked for in the current folder.

    Raises UserError.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"pettingzoo {name!r}: expected MODULE:FACTORY, for example {EXAMPLE}")
    module = _load_module(place)
    if not hasattr(module, attribute):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"pettingzoo {name}: {place} has no {attribute!r}: {suggest(attribute, names)}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UserError(f"pettingzoo {name}: {attribute} is {type(factory).__name__}, expected a function or a class")
    return factory


def _load_module(place: str) -> ModuleType:
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"pettingzoo {place}: no such file (from {Path.cwd()})")
    if not is_file and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if not is_file:
            return import_module(place)
        spec = spec_from_file_location(f"mast_environment_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        advice = "name a module that Python finds from here, or a .py file" if error.name == place else "install it"
        if (error.name or "").partition(".")[0] in ("pettingzoo", "gymnasium"):
            advice = install("pettingzoo")
        raise UserError(f"pettingzoo {place}: no module named {error.name!r}; {advice}") from error
    except Exception as error:
        raise UserError(f"pettingzoo {place}: importing it failed: {_located(error)}") from error


def _located(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said} ({Path(frame.filename).name}, line {frame.lineno})"


def _observed(space: Any) -> Any:
    """What an agent sees of its observation space: the "observation" of one that also holds an "action_mask"."""
    inner = getattr(space, "spaces", None)
    return inner["observation"] if isinstance(inner, Mapping) and "action_mask" in inner else space


def _size(space: Any) -> int:
    if hasattr(space, "low") and hasattr(space, "shape"):
        return int(np.prod(space.shape))
    from gymnasium.spaces.utils import flatdim

    return int(flatdim(space))


def _flat(space: Any, value: Any) -> np.ndarray:
    """A box's values row by row; other spaces as gymnasium flattens them (a Discrete is one-hot)."""
    if hasattr(space, "low"):
        return np.asarray(value, np.float32).reshape(-1)
    from gymnasium.spaces.utils import flatten

    return np.asarray(flatten(space, value), np.float32).reshape(-1)
