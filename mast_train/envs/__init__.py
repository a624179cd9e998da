"""Environments by name. Importing this package loads no simulator and no torch; `make_env` loads the one it needs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from mast_train.settings.errors import UserError, check_choice

if TYPE_CHECKING:
    import torch

    from mast_train.envs.base import VecEnv


class EnvEntry(NamedTuple):
    """Where an environment lives, and the options its constructor takes by name.

    own_options: whatever else is in `env.options` goes to the scenario or factory, as the constructor's `options`.
    costly: training and evaluation take turns on one set of environments, since each is a process of gigabytes.
    """

    module: str
    class_name: str
    options: tuple[str, ...]
    own_options: bool = False
    costly: bool = False


AGENT_WISE = ("reward_scale", "team_reward", "episode_limit")
SMAC_OPTIONS = ("difficulty", "game_version", "replay_dir", "replay_prefix", "reward_sparse")

ENVS = {
    "smax": EnvEntry("mast_train.envs.smax", "SmaxEnv", ("reward_scale", "rounds")),
    "smac": EnvEntry("mast_train.envs.smac", "SmacEnv", SMAC_OPTIONS, costly=True),
    "vmas": EnvEntry("mast_train.envs.vmas", "VmasEnv", AGENT_WISE, own_options=True),
    "pettingzoo": EnvEntry("mast_train.envs.pettingzoo", "PettingZooEnv", AGENT_WISE, own_options=True),
    "matrix": EnvEntry("mast_train.envs.matrix", "MatrixEnv", ()),
}


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


def available_maps(env: str) -> tuple[str, ...]:
    """Every map of one environment. Loads the simulator where the list belongs to it. Raises UserError."""
    return _env_class(env).maps()


def _env_class(env: str) -> Any:
    check_choice("environment", env, ENVS)
    return getattr(import_module(ENVS[env].module), ENVS[env].class_name)
