"""Greedy, decentralised evaluation of a run's networks, of a policy through its runtime, or of a random team."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mast_train import checkpoint
from mast_train.config import EnvConfig
from mast_train.envs.base import EnvSpec, Observation, VecEnv
from mast_train.errors import UserError
from mast_train.learner import stream_seed
from mast_train.networks import agent_inputs, load_agents
from mast_train.rollout import AgentPolicy, Policy, random_policy
from mast_train.runs import find_run, find_snapshot
from mast_train.trainer import build_env, play, resolve_device, summarise

if TYPE_CHECKING:
    from mast_runtime import Bundle


@dataclass
class Result:
    """Wins over episodes with a 95 % Wilson interval; return_mean is undiscounted, at the default reward scale."""

    policy: str
    backend: str
    env: str
    map: str
    episodes: int
    wins: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    return_mean: float
    length_mean: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    _check_fit((contract.n_agents, contract.obs_dim, contract.n_actions), spec)
    team = bundle.team(env.num_envs * spec.n_agents, backend)

    def act(t: int, observation: Observation) -> torch.Tensor:
        if t == 0:
            team.reset()
        actions = team.act(
            observation.obs.flatten(0, 1).cpu().numpy(), observation.avail_actions.flatten(0, 1).cpu().numpy()
        )
        return torch.as_tensor(actions, device=env.device).view(env.num_envs, spec.n_agents).long()

    return act, team.backend


def networks_policy(snapshot: Path, env: VecEnv) -> Policy:
    """A snapshot's own networks, in torch."""
    tensors, header = checkpoint.read(snapshot)
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    _check_fit((spec.n_agents, spec.obs_dim, spec.n_actions), env.spec)
    nets = load_agents(config, spec, tensors).to(env.device)
    return AgentPolicy(nets, partial(agent_inputs, config, spec))


def _check_fit(given: tuple[int, int, int], spec: EnvSpec) -> None:
    expected = (spec.n_agents, spec.obs_dim, spec.n_actions)
    if given != expected:
        raise UserError(
            f"the policy is for (agents, obs, actions) = {given}, {spec.env} {spec.map} has {expected}; "
            "evaluate it on the map it was trained on"
        )


def resolve_target(
    target: str | None, root: Path, at: str, random: bool, env_name: str | None, map_name: str | None
) -> tuple[Path | Bundle | None, str, str]:
    """What to evaluate (a run's snapshot, a bundle, None: random), in which environment, on which map. UserError."""
    if random:
        if map_name is None:
            raise UserError("a random team needs a map: mast eval --random --map 3m")
        return None, env_name or "smax", map_name
    if target is not None and Path(target).is_file():
        from mast_runtime import load

        bundle = load(target)
        return bundle, env_name or bundle.info.get("env", "smax"), map_name or bundle.info.get("map", "3m")
    snapshot = find_snapshot(find_run(target, root), at)
    spec = checkpoint.spec_of(checkpoint.read(snapshot)[1])
    return snapshot, env_name or spec.env, map_name or spec.map


def evaluate(
    target: Path | Bundle | None, env_name: str, map_name: str, episodes: int, num_envs: int, seed: int, backend: str
) -> Result:
    """Play `episodes` episodes on a map. target: a snapshot or checkpoint file, a Bundle, or None for a random team."""
    torch.set_num_threads(1)
    device = resolve_device("cpu")
    num_envs = min(num_envs, episodes)
    env = build_env(EnvConfig(env_name, map_name, num_envs), stream_seed(seed, "mast eval"), device)
    if target is None:
        name, used = "random", "-"
        policy = random_policy(env.spec, torch.Generator().manual_seed(seed))
    elif isinstance(target, Path):
        name, used = str(target), "torch"
        policy = networks_policy(target, env)
    else:
        name = str(target.path or "bundle")
        policy, used = team_policy(target, env, backend)
    try:
        outcome = summarise(play(env, policy, episodes), 0, episodes)
    finally:
        env.close()
    low, high = wilson(outcome.wins, outcome.episodes)
    return Result(
        name, used, env_name, map_name, outcome.episodes, outcome.wins, outcome.win_rate, low, high,
        outcome.return_mean, outcome.length_mean,
    )  # fmt: skip
