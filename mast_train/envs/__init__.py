"""Environments by name. Importing this package loads no simulator and no torch; `make_env` loads the one it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mast_train.settings.errors import UserError, check_choice

if TYPE_CHECKING:
    import torch

    from mast_train.envs.base import VecEnv


@dataclass(frozen=True)
class EnvRow:
    """Where an environment lives, and what it is by itself.

    code: file of this folder and class. map, reward_scale: what `--env NAME` sets. extra: of mast-marl, what installs
    it. options: settings of `env` that its constructor takes by name; own_options: whatever else is in `env.options`
    goes to the scenario or factory, as the constructor's `options`. costly: training and evaluation take turns on one
    set of environments, since each is a process of gigabytes. one_program: on a GPU one program steps those of all
    seeds of a process. settings: what else of a run `--env NAME` sets.
    """

    code: str
    map: str
    reward_scale: float
    extra: str
    options: tuple[str, ...] = ()
    own_options: bool = False
    costly: bool = False
    one_program: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


_AGENT_WISE = ("reward_scale", "team_reward", "episode_limit")
SMAC_OPTIONS = ("python", "difficulty", "game_version", "replay_dir", "replay_prefix", "reward_sparse")
_STEPPED = ("reward_scale", "episode_limit", "workers")

LONG_EPISODES = {
    "env.num_envs": 4,
    "env.normalise": "running",
    "net.hidden": 256,
    "net.recurrent": False,
    "net.last_action": False,
    "replay.segment": 1,
    "replay.batch": 256,
    "replay.capacity": 1000,
    "train.episodes_per_update": 0.004,
    "facmac.actor_rate": 0.3,
    "facmac.twin": True,
    "comix.twin": True,
    "facmac.smoothing": 0.2,
    "train.target_interval": 1,
    "train.target_rate": 0.02,
    "train.epsilon_steps": 10_000,
    "train.epsilon_end": 0.0,
    "train.eval_episodes": 8,
}
"""Of 1,000 steps, whose observations say nearly all: single steps as a batch, one update for four steps played. Target
networks follow as far for a step played as with one update a step at 0.005. Sparse actors and critics want width."""

ENVS = {
    "smax": EnvRow("smax:SmaxEnv", "3m", 10.0, "train", ("reward_scale", "rounds"), one_program=True),
    "smac": EnvRow("smac:SmacEnv", "3m", 1.0, "train", SMAC_OPTIONS, costly=True),
    "vmas": EnvRow("vmas:VmasEnv", "navigation", 1.0, "vmas", _AGENT_WISE, own_options=True),
    "pettingzoo": EnvRow("pettingzoo:PettingZooEnv", "", 1.0, "pettingzoo", _AGENT_WISE, own_options=True),
    "aec": EnvRow("pettingzoo:AecEnv", "", 1.0, "pettingzoo", _AGENT_WISE, own_options=True),
    "mamujoco": EnvRow(
        "mamujoco:MamujocoEnv", "HalfCheetah-2x3", 1.0, "mamujoco", _STEPPED, True, settings=LONG_EPISODES
    ),
    "matrix": EnvRow("matrix:MatrixEnv", "two_step", 1.0, "train"),
    "points": EnvRow("points:PointsEnv", "meet", 1.0, "train"),
}
"""Adding one is a file in this folder and a line here (docs/architecture.md)."""


def make_env(
    env: str, map_name: str, num_envs: int, seed: int, device: torch.device, options: dict[str, Any]
) -> VecEnv:
    """E = `num_envs` copies of one map, drawing from the stream `seed`, with tensors on `device`.

    Raises UserError for an unknown environment, map or option, and for a simulator that is not installed.
    """
    cls = _env_class(env)
    entry = ENVS[env]
    known = {name: value for name, value in options.items() if name in entry.options}
    other = {name: value for name, value in options.items() if name not in entry.options}
    if entry.own_options:
        known["options"] = other
    elif other and not entry.options:
        raise UserError(f"unknown option {next(iter(other))!r}: environment {env!r} takes no options")
    else:
        for name in other:
            check_choice(f"option of environment {env!r}", name, entry.options)
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}, expected at least 1")
    return cls(map_name, num_envs, seed, device, **known)


def install(env: str) -> str:
    """What installs an environment."""
    return f'pip install "mast-marl[{ENVS[env].extra}]"'


def available_maps(env: str) -> tuple[str, ...]:
    """Every map of one environment. Loads the simulator where the list belongs to it. Raises UserError."""
    return _env_class(env).maps()


def _env_class(env: str) -> Any:
    check_choice("environment", env, ENVS)
    file, _, name = ENVS[env].code.partition(":")
    return getattr(import_module(f"{__name__}.{file}"), name)
