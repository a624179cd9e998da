"""Policies in fixed point beside the trained network: the same actions, the same win rate. Compiled C plays.

    python benchmarks/fixed_point.py RUN [RUN ...] [--fresh 50] [--episodes 256] [--json FILE]

RUN: a run's folder, a team in SMAX. Agreement: on the recorded steps, and on the observations of fresh episodes that
the trained network plays; both after its last actions. Win rate: each plays the same number of episodes from the same
seed by itself, with 95 % Wilson intervals. Every agent is exported with a prefix of its own and all are one library.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mast_export.c.build import find_compiler
from mast_export.compact import compact_bundle
from mast_export.extract import extract, record_trace
from mast_export.formats.c import export_c
from mast_export.verify import Trace
from mast_runtime import Bundle
from mast_train.commands.evaluate import resolve_target, team_policy, wilson
from mast_train.envs.base import Observation, VecEnv
from mast_train.experience.rollout import Policy
from mast_train.learning.learner import stream_seed
from mast_train.runs.folders import find_snapshot
from mast_train.runs.run import build_env, play, resolve_device, summarise, threads

STATE_BYTES = 1 << 16
"""Room for the state of any policy."""


@dataclass(frozen=True)
class Result:
    """A team. recorded, fresh: fractions of decisions that are the network's; wins of `episodes`, with intervals."""

    map: str
    recorded: float
    fresh: float
    fresh_decisions: int
    episodes: int
    float_wins: int
    float_interval: tuple[float, float]
    fixed_wins: int
    fixed_interval: tuple[float, float]


class Team:
    """Compiled agents, one state for each in each of `n` environments."""

    def __init__(self, library: ctypes.CDLL, n_agents: int, n: int) -> None:
        self._calls = [[getattr(library, f"arm_{k}_{name}") for name in ("reset", "act", "executed")]
                       for k in range(n_agents)]  # fmt: skip
        self._states = [[ctypes.create_string_buffer(STATE_BYTES) for _ in range(n_agents)] for _ in range(n)]
        self.reset()

    def reset(self) -> None:
        for states in self._states:
            for (reset, _, _), state in zip(self._calls, states, strict=True):
                reset(state)

    def act(self, obs: np.ndarray, avail: np.ndarray) -> np.ndarray:
        """obs [E,N,O], avail [E,N,A] -> actions [E,N]."""
        obs, avail = np.ascontiguousarray(obs, np.float32), np.ascontiguousarray(avail, np.uint8)
        found = np.empty(obs.shape[:2], np.int64)
        for e, states in enumerate(self._states[: len(obs)]):
            for k, ((_, act, _), state) in enumerate(zip(self._calls, states, strict=True)):
                found[e, k] = act(
                    state, ctypes.c_void_p(obs[e, k].ctypes.data), ctypes.c_void_p(avail[e, k].ctypes.data)
                )
        return found

    def executed(self, actions: np.ndarray) -> None:
        """What was carried out, [E,N]; -1: nothing yet."""
        for row, states in zip(actions, self._states, strict=False):
            for action, (_, _, executed), state in zip(row.tolist(), self._calls, states, strict=True):
                executed(state, action)


def compiled(bundle: Bundle, trace: Trace, folder: Path) -> ctypes.CDLL:
    """Every agent in fixed point, in one library."""
    export_c(bundle, folder / "c", None, trace, "i8", "arm")
    sources = [*(folder / "c").glob("*/src/*.c")]
    command = [*find_compiler(), "-O2", "-shared", "-fPIC", "-o", folder / "team.so", *sources]
    subprocess.run([str(word) for word in command], check=True)
    return ctypes.CDLL(str(folder / "team.so"))


def agreement(team: Team, trace: Trace) -> float:
    """On one recording [T,N,...]."""
    equal = 0
    for t, (obs, avail) in enumerate(zip(trace.obs, trace.avail_actions, strict=True)):
        team.executed(trace.last_actions[t : t + 1])
        equal += int((team.act(obs[None], avail[None])[0] == trace.actions[t]).sum())
    return equal / trace.actions.size


def fresh_agreement(env: VecEnv, network: Policy, team: Team) -> tuple[float, int]:
    """On an episode in every environment, which the network plays; and how many decisions there were."""
    observation, playing, equal, seen = env.reset(), np.ones(env.num_envs, bool), 0, 0
    last, t = np.full((env.num_envs, env.spec.n_agents), -1), 0
    while playing.any():
        actions = network(t, observation, [True]).cpu().numpy()
        team.executed(last)
        own = team.act(observation.obs.cpu().numpy(), observation.avail_actions.cpu().numpy())
        equal, seen = equal + int((own == actions)[playing].sum()), seen + int(playing.sum()) * actions.shape[1]
        following = env.step(torch.as_tensor(actions))
        playing &= ~(following.terminated | following.truncated).cpu().numpy()
        observation, last, t = following.next, actions, t + 1
    return equal / seen, seen


def fixed_policy(team: Team) -> Policy:
    def act(t: int, observation: Observation, _: Sequence[bool]) -> torch.Tensor:
        if t == 0:
            team.reset()
        return torch.as_tensor(team.act(observation.obs.cpu().numpy(), observation.avail_actions.cpu().numpy()))

    return act


def measure(folder: Path, fresh: int, episodes: int) -> Result:
    """A run's last networks."""
    snapshot = find_snapshot(folder, "last")
    bundle, trace, _ = compact_bundle(extract(snapshot), record_trace(snapshot, folder / "trace.safetensors"))
    where = resolve_target(None, folder, "last", True, bundle.info["env"], bundle.info["map"])[1]
    with tempfile.TemporaryDirectory() as scratch, threads(1):
        library = compiled(bundle, trace, Path(scratch))
        n_agents = bundle.contract.n_agents
        recorded = agreement(Team(library, n_agents, 1), trace)
        with closing(build_env(replace(where, num_envs=fresh), stream_seed(1, "fresh"), resolve_device("cpu"))) as env:
            found = fresh_agreement(env, team_policy(bundle, env, "auto")[0], Team(library, n_agents, fresh))
        wins = []
        for fixed in (False, True):
            config = replace(where, num_envs=64)
            with closing(build_env(config, stream_seed(2, "mast eval"), resolve_device("cpu"))) as env:
                policy = fixed_policy(Team(library, n_agents, 64)) if fixed else team_policy(bundle, env, "auto")[0]
                wins.append(summarise(play(env, policy, episodes), 0, episodes).wins or 0)
    intervals = [wilson(won, episodes) for won in wins]
    return Result(bundle.info["map"], recorded, *found, episodes, wins[0], intervals[0], wins[1], intervals[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--fresh", type=int, default=50, help="fresh episodes for the agreement")
    parser.add_argument("--episodes", type=int, default=256, help="for the win rate")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if not find_compiler():
        sys.exit("needs a C compiler: $CC, cc, gcc or clang")
    results = []
    for run in options.runs:
        results.append(found := measure(run, options.fresh, options.episodes))
        print(f"{found.map}: agrees in {found.recorded:.2%} of the recorded decisions, {found.fresh:.2%} of "
              f"{found.fresh_decisions:,} fresh ones; wins {found.fixed_wins} of {found.episodes}, the network "
              f"{found.float_wins}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"results": [asdict(found) for found in results]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
