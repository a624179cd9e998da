"""What counting the inputs outside their range costs: a decision with the ranges known beside the same without them.

    python benchmarks/ranges.py [--rounds 301] [--level NAME] [--json FILE]

One agent, a team of eight with eight networks, and 64 agents of one network, which run in lanes; observations as wide
as those of 3m and 8m; networks of hidden 64, 95 % sparse, random. Decisions are looped in C. The two are measured in
turn, a millisecond each; a time is the fifth percentile of the rounds, since what interrupts them only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from native import cpu_name
from networks import random_network

from mast_runtime import Contract, Network
from mast_runtime.inputs import Inputs
from mast_runtime.native import NativeStep, default_level, make_team, new_agent

MAPS = {"3m": Contract(75, 8, 8), "8m": Contract(205, 13, 8)}
AGENTS = {"agent": (1, 1), "team of 8": (8, 8), "64 in lanes": (64, 1)}
"""Row -> agents, networks."""
ROWS = 8
"""Observations a round goes through, so that no branch learns one by heart."""
OUTSIDE = {"none": 0.0, "1 in 1000": 1e-3, "1 in 20": 0.05}
"""Which inputs lie outside their range."""


def networks(contract: Contract, count: int) -> list[Network]:
    """Each with the range -1 to 1 of every input."""
    rng, one = np.random.default_rng(0), np.ones(contract.obs_dim, np.float32)
    inputs = Inputs(-one, one, 0 * one, one)
    return [replace(random_network(rng, contract, 64, None, 0.95), inputs=inputs) for _ in range(count)]


def observations(contract: Contract, agents: int, share: float) -> np.ndarray:
    """[ROWS, agents, O] within the range, but for a share."""
    rng = np.random.default_rng(1)
    obs = rng.uniform(-0.9, 0.9, (ROWS, agents, contract.obs_dim)).astype(np.float32)
    return np.where(rng.random(obs.shape) < share, np.float32(2.0), obs)


def decider(contract: Contract, given: list[Network], agents: int, level: str) -> Callable[[np.ndarray, int], float]:
    """(obs [ROWS, agents, O], decisions on each) -> seconds."""
    if agents == 1:
        agent = new_agent(contract, NativeStep(contract, given[0], level), 0)
        return lambda obs, calls: sum(agent.measure(row[0], calls) for row in obs)
    team = make_team(contract, given, range(len(given)), agents, level)
    return lambda obs, calls: sum(team.measure(row, calls) for row in obs)


def measure(name: str, row: str, share: float, level: str, rounds: int) -> tuple[float, float]:
    """Nanoseconds of an agent's decision without ranges, and the ratio with them."""
    contract, (agents, count) = MAPS[name], AGENTS[row]
    known = networks(contract, count)
    sides = [decider(contract, x, agents, level) for x in ([replace(n, inputs=None) for n in known], known)]
    obs = observations(contract, agents, share)
    sides[0](obs, 50)
    calls = max(1, round(0.001 / (sides[0](obs, 50) / 50)))
    times = np.array([[side(obs, calls) for side in sides] for _ in range(rounds)])
    per_decision = 1e9 / (ROWS * calls * agents)
    plain, counting = np.quantile(times, 0.05, axis=0)
    return float(plain) * per_decision, float(counting / plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=301)
    parser.add_argument("--level", default=default_level(), help="instruction set; default: the best")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    result: dict = {"cpu": cpu_name(), "load": load, "level": options.level, "rounds": options.rounds, "rows": []}
    print(f"{options.level}: ns of an agent's decision without ranges; what counting adds, by inputs outside")
    for name in MAPS:
        for row in AGENTS:
            found = {
                share: measure(name, row, value, options.level, options.rounds) for share, value in OUTSIDE.items()
            }
            ns, ratios = found["none"][0], {share: ratio for share, (_, ratio) in found.items()}
            result["rows"].append({"map": name, "agents": row, "ns": round(ns, 1), "ratios": ratios})
            print(
                f"{name:3s} {row:12s} {ns:8.1f}  "
                + "  ".join(f"{k}: {100 * r - 100:+5.1f} %" for k, r in ratios.items())
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
