"""Greedy, decentralised evaluation of a run's networks, of a policy through its runtime, or of a random team."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mast_runtime import Bundle, load
from mast_train.envs.base import EnvSpec, Observation, VecEnv
from mast_train.envs.box import Box
from mast_train.experience.rollout import AgentPolicy, Policy, random_policy
from mast_train.learning.learner import stream_seed
from mast_train.networks.build import agent_inputs, load_agents
from mast_train.networks.heads import head
from mast_train.runs import checkpoint
from mast_train.runs.folders import find_run, find_snapshot
from mast_train.runs.run import build_env, play, resolve_device, summarise, threads
from mast_train.settings.config import Config, EnvConfig, override, parse_assignments
from mast_train.settings.errors import UserError
from mast_train.settings.limits import validate
from mast_train.settings.methods import environment


@dataclass
class Result:
    """Wins over episodes with a 95 % Wilson interval; return_mean is undiscounted, at the default reward scale.

    The wins and their rate are None where no episode says whether it was won; one that does not, among others, was not.
    """

    policy: str
    backend: str
    env: str
    map: str
    episodes: int
    wins: int | None
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    return_mean: float
    length_mean: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """One line for a person."""
        won = f"{self.episodes} episodes"
        if self.win_rate is not None:
            won = (
                f"win rate {self.win_rate:.3f} [{self.win_rate_low:.3f}, {self.win_rate_high:.3f}] (95 %), "
                f"{self.wins} of {self.episodes} episodes"
            )
        where = f"{self.policy} ({self.backend}) on {self.env} {self.map}"
        return f"{where}: {won}, return {self.return_mean:.2f}, length {self.length_mean:.1f}"


def wilson(wins: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); 95 % by default."""
    p = wins / n
    centre, spread = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def team_policy(bundle: Bundle, env: VecEnv, backend: str) -> tuple[Policy, str]:
    """The bundle's agents in every environment, stepped by the runtime; and the backend that was chosen."""
    contract, spec = bundle.contract, env.spec
    if len(bundle.agents) < contract.n_agents:
        raise UserError(f"the policy has {len(bundle.agents)} of {contract.n_agents} agents; evaluate the whole team's")
    head = contract.head
    box = None if head is None else Box(head.low, head.high)
    _check_fit((contract.n_agents, contract.obs_dim, contract.n_actions), spec, box)
    team = bundle.team(env.num_envs * spec.n_agents, backend)

    def act(t: int, observation: Observation, _: Sequence[bool]) -> torch.Tensor:
        if t == 0:
            team.reset()
        obs, avail = (x.flatten(0, 1).cpu().numpy() for x in (observation.obs, observation.avail_actions))
        actions = team.act(obs, avail) if head is None else _scaled(team, obs)
        return torch.as_tensor(actions, device=env.device).view(env.num_envs, *spec.action_shape).to(spec.action_dtype)

    return act, team.backend


def _scaled(team: Any, obs: np.ndarray) -> np.ndarray:
    """Continuous actions as environments take them here, in [-1, 1]."""
    team.act(obs)
    return team.scaled


def networks_policy(snapshot: Path, env: VecEnv) -> Policy:
    """A snapshot's own networks, in torch."""
    tensors, header = checkpoint.read(snapshot)
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    _check_fit((spec.n_agents, spec.obs_dim, spec.n_actions), env.spec, spec.box)
    nets = load_agents(config, spec, tensors).to(env.device)
    return AgentPolicy(nets, partial(agent_inputs, config, spec), (), head(config, spec, nets))


def _check_fit(given: tuple[int, int, int], spec: EnvSpec, box: Box | None = None) -> None:
    if box != spec.box:
        given_kind, kind = ("discrete" if own is None else f"within {own}" for own in (box, spec.box))
        raise UserError(
            f"the policy's actions are {given_kind}, those of {spec.env} {spec.map} {kind}; evaluate it on the map it "
            "was trained on"
        )
    expected = (spec.n_agents, spec.obs_dim, spec.n_actions)
    if given != expected:
        raise UserError(
            f"the policy is for (agents, obs, actions) = {given}, {spec.env} {spec.map} has {expected}; "
            "evaluate it on the map it was trained on"
        )


Target = Path | Bundle | None
"""Who plays: a run's snapshot or checkpoint file, an exported bundle, or None for a team that acts at random."""


def resolve_target(
    target: str | None,
    root: Path,
    at: str,
    random: bool,
    env_name: str | None,
    map_name: str | None,
    assignments: Iterable[str] = (),
) -> tuple[Target, EnvConfig]:
    """Who plays, and where: what it was trained in, with the given environment, map and env.* settings on top.

    Rewards are at the environment's default scale, whatever the run was trained with. Raises UserError.
    """
    who: Target = None
    trained: dict[str, Any] = {}
    if random:
        if env_name is None and map_name is None:
            raise UserError("a random team needs a map: mast eval --random --map 3m")
    elif target is not None and Path(target).is_file():
        who = load(target)
        trained = {"name": who.info.get("env"), "map": who.info.get("map"), **who.info.get("env_settings", {})}
    else:
        if target is not None and target.endswith(".mast"):
            raise UserError(f"{target}: no such file; mast export writes one, and a run can be given instead")
        who = find_snapshot(find_run(target, root), at)
        trained = asdict(checkpoint.config_of(checkpoint.read(who)[1]).env)
    kept = {f"env.{key}": trained[key] for key in ("map", "team_reward", "episode_limit", "options") if key in trained}
    home = str(trained.get("name") or "smax")
    chosen = environment(env_name or home)
    settings = {**chosen, **(kept if chosen["env.name"] == home else {})}
    if ":" in (env_name or ""):
        settings["env.map"] = chosen["env.map"]
    settings |= {"env.map": map_name} if map_name is not None else {}
    given = parse_assignments(assignments)
    if wrong := next((key for key in given if not key.startswith("env.")), None):
        raise UserError(f"--set {wrong}: a policy is played as it is; only settings of the environment, env.*, apply")
    if "env.normalise" in given:
        raise UserError("--set env.normalise: a policy holds what it was trained with in its first layer; leave it out")
    return who, validate(override(Config(), {**settings, **given})).env


def seat(target: Target, env: VecEnv, seed: int, backend: str) -> tuple[str, str, Policy]:
    """The name of who plays, the backend that carries it ("-": none), and its decisions in `env`."""
    if target is None:
        return "random", "-", random_policy(env.spec, torch.Generator().manual_seed(seed))
    if isinstance(target, Path):
        return str(target), "torch", networks_policy(target, env)
    policy, used = team_policy(target, env, backend)
    return str(target.path or "bundle"), used, policy


def evaluate(target: Target, where: EnvConfig, episodes: int, num_envs: int, seed: int, backend: str) -> Result:
    """Play `episodes` episodes, in up to `num_envs` environments at once."""
    config = replace(where, num_envs=min(num_envs, episodes))
    with threads(1), closing(build_env(config, stream_seed(seed, "mast eval"), resolve_device("cpu"))) as env:
        name, used, policy = seat(target, env, seed, backend)
        outcome = summarise(play(env, policy, episodes), 0, episodes)
    low, high = (None, None) if outcome.wins is None else wilson(outcome.wins, outcome.episodes)
    return Result(
        name, used, where.name, where.map, outcome.episodes, outcome.wins, outcome.win_rate, low, high,
        outcome.return_mean, outcome.length_mean,
    )  # fmt: skip
