"""What an environment is to the trainer: a batch of episodes stepped together, reset explicitly.

Letters: E environments, N agents, O observation, A actions, S state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mast_train.envs.box import Box
from mast_train.envs.obs_names import MAX_NAME_CHARACTERS, is_name
from mast_train.envs.scene import Scene
from mast_train.settings.errors import UserError


@dataclass(frozen=True)
class EnvSpec:
    """The contract of one map. `episode_limit` is the largest number of transitions an episode can have.

    obs_names: of the observation's inputs, a row of O for each agent, or one for all; none where they have no names.
    box: the bounds of continuous actions, whose largest number of components is `n_actions`; None: actions are choices.
    """

    env: str
    map: str
    n_agents: int
    obs_dim: int
    state_dim: int
    n_actions: int
    episode_limit: int
    agent_types: tuple[str, ...]
    version: str = ""
    obs_names: tuple[tuple[str, ...], ...] = ()
    box: Box | None = None

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of one joint action: [N] of choices, [N,A] of components."""
        return (self.n_agents,) if self.box is None else (self.n_agents, self.n_actions)

    @property
    def action_dtype(self) -> torch.dtype:
        """int64 of choices, float32 of components in [-1, 1]."""
        return torch.int64 if self.box is None else torch.float32

    def __post_init__(self) -> None:
        if len(self.agent_types) != self.n_agents:
            raise ValueError(f"agent_types has {len(self.agent_types)} entries, expected n_agents = {self.n_agents}")
        rows = len(self.obs_names)
        if rows not in (0, 1, self.n_agents) or any(len(row) != self.obs_dim for row in self.obs_names):
            raise ValueError(f"obs_names has {rows} rows, expected 0, 1 or {self.n_agents} of {self.obs_dim} names")
        for name in (name for row in self.obs_names for name in row):
            if not is_name(name):
                what = f"expected 1 to {MAX_NAME_CHARACTERS} printable characters"
                raise UserError(f"{self.env} {self.map}: {name!r:.80} cannot name an input: {what}")
        for kind in self.agent_types:
            if not kind.isprintable():
                raise UserError(
                    f"{self.env} {self.map}: agent type {kind!r} cannot be printed, so no policy of it could "
                    "be exported; rename the agents"
                )


@dataclass
class Observation:
    """obs [E,N,O] float32, state [E,S] float32, avail_actions [E,N,A] bool (at least one True per row).

    Of continuous actions avail_actions says which components an agent has.
    """

    obs: torch.Tensor
    state: torch.Tensor
    avail_actions: torch.Tensor


@dataclass
class Transition:
    """What one joint step returned, each [E]: reward float32, terminated / truncated / won bool.

    `won` is None where no episode says whether it was won: there is a return, and no win rate. `says` [E] bool tells
    which episodes have said so at their ends, where it differs between episodes; those that have not are not won.

    `next` is the observation *after* the step, terminal observations included. A finished environment stays
    finished until `reset`: stepping it again returns reward 0 and repeats its flags and last observation.
    `truncated` and `terminated` are never both true; `won` is only true at an end.
    """

    next: Observation
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    won: torch.Tensor | None
    says: torch.Tensor | None = None


class Stepped(Protocol):
    """E copies of one map. Tensors it returns may alias simulator memory: copy before writing or keeping."""

    spec: EnvSpec
    num_envs: int
    device: torch.device

    def reset(self) -> Observation:
        """Start E fresh episodes, drawing from the environment's own random stream."""
        ...

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64, each available; continuous ones [E,N,A] float32, from -1 (the lower bound) to 1 (the
        upper). Raises ValueError for a wrong shape, UserError for an action that is not a number."""
        ...


class VecEnv(Stepped, Protocol):
    """Such copies with a random stream of their own."""

    def state_dict(self) -> dict[str, Any]:
        """The random stream (JSON-ready), valid between episodes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def picture(self) -> Scene | np.ndarray | None:
        """The first episode as it is now: shapes, or pixels [H,W,3] uint8; None where it cannot be drawn."""
        ...

    def close(self) -> None: ...


def unit_type(agent: str) -> str:
    """What kind of agent a name stands for: "robot_2" is a "robot"."""
    return agent.rstrip("0123456789").rstrip("_ ") or "agent"


def verdicts(
    won: torch.Tensor | None, says: torch.Tensor | None, count: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """A Transition's `won` and `says`, each [count] bool also where it is None."""
    if won is None:
        silent = torch.zeros(count, dtype=torch.bool, device=device)
        return silent, silent
    return won, torch.ones_like(won) if says is None else says


def check_actions(actions: torch.Tensor, num_envs: int, n_agents: int) -> None:
    """Raise ValueError unless actions are [E,N]."""
    if actions.shape != (num_envs, n_agents):
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {(num_envs, n_agents)}")


def check_any_actions(actions: torch.Tensor, num_envs: int, spec: EnvSpec) -> None:
    """Raise ValueError unless actions have the spec's shape, UserError for one that is not a number."""
    expected = num_envs, *spec.action_shape
    if actions.shape != expected:
        raise ValueError(f"actions have shape {tuple(actions.shape)}, expected {expected}")
    if spec.box is not None and not bool(torch.isfinite(actions).all()):
        raise UserError(
            f"an action for {spec.env} {spec.map} is not a finite number: the policy diverged; lower train.lr"
        )
