"""The agents' share of an update, forward and backward: torch beside the native pass, dense and 95 % sparse.

    python benchmarks/train_kernel.py [--rounds 7] [--threads N] [--hidden 64 256] [--steps 25 60] [--json FILE]

Rows take turns of 5 passes, round after round: a time is the median over the rounds, a ratio the median of the rounds'
ratios. Batches of 32 episodes at the sizes of 3m and 8m, one network an agent, random weights and uniform random masks.
"torch masked" is what masked-dense training does: the dense pass, then gradients times masks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from mast_runtime.measure.machine import describe_machine
from mast_train.engines import native
from mast_train.engines.native import SparseSequence
from mast_train.networks.agents import WEIGHTS, AgentNets
from mast_train.sparse.topology import random_mask

MAPS = {"3m": (3, 75, 8), "8m": (8, 205, 13)}
"""name -> agents, observation, actions; the input is the observation and the last action."""
BATCH = 32
TURN = 5
SPARSITY = 0.95
SPARSE_ROWS = ("native 95 %", "native 95 %, GRU 16x1")
TARGETS = {("torch dense", 64): 30, ("torch dense", 256): 12, ("native dense", 64): 12, ("native dense", 256): 12}
"""Baseline, hidden -> times slower than the sparse pass."""


def sparse_nets(nets: AgentNets, block: int) -> dict[str, torch.Tensor]:
    """Random masks of SPARSITY, blocks in the GRU; the weights off them set to 0."""
    masks, generator = {}, torch.Generator().manual_seed(0)
    for name in WEIGHTS:
        weight, gru = getattr(nets, name), name.startswith("weight")
        masks[name] = random_mask(tuple(weight.shape), 1 - SPARSITY, block if gru else 1, 3 if gru else 1, generator)
        with torch.no_grad():
            weight.mul_(masks[name])
    return masks


def candidates(agents: int, inputs: int, hidden: int, actions: int) -> dict[str, Callable]:
    """Row -> a forward and backward pass of x [T,B,N,I] and the gradient of q."""

    def run(nets: AgentNets, forward: Callable, masks: dict, x: torch.Tensor, grad_q: torch.Tensor) -> None:
        nets.zero_grad(set_to_none=True)
        forward(x).backward(grad_q)
        for name, mask in masks.items():
            getattr(nets, name).grad.mul_(mask)

    def nets() -> AgentNets:
        return AgentNets(agents, inputs, hidden, actions)

    dense, masked, full, unstructured, blocked = (nets() for _ in range(5))
    return {
        "torch dense": partial(run, dense, lambda x: dense(x)[0], {}),
        "torch masked": partial(run, masked, lambda x: masked(x)[0], sparse_nets(masked, 1)),
        "native dense": partial(run, full, SparseSequence(full, {}).forward, {}),
        SPARSE_ROWS[0]: partial(
            run, unstructured, SparseSequence(unstructured, sparse_nets(unstructured, 1)).forward, {}
        ),
        SPARSE_ROWS[1]: partial(run, blocked, SparseSequence(blocked, sparse_nets(blocked, 16)).forward, {}),
    }


def measure(name: str, hidden: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a pass by row, a round each, after one round to warm up."""
    agents, obs, actions = MAPS[name]
    rows = candidates(agents, obs + actions, hidden, actions)
    x, grad_q = torch.randn(steps, BATCH, agents, obs + actions), torch.randn(steps, BATCH, agents, actions)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for number in range(rounds + 1):
        for row, run in rows.items():
            started = perf_counter()
            for _ in range(TURN):
                run(x, grad_q)
            if number:
                seconds[row].append((perf_counter() - started) / TURN)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def report(name: str, hidden: int, steps: int, seconds: dict[str, list[float]]) -> dict:
    """Prints one setting; returns it for the file."""
    learned = BATCH * steps * MAPS[name][0]
    print(f"\n{name}, hidden {hidden}, {steps} steps")
    for row, times in seconds.items():
        print(f"  {row:24} {median(times) * 1e3:9.2f} ms {median(times) / learned * 1e9:9.0f} ns per agent-step")
    ratios = {
        fast: {slow: ratio(seconds, slow, fast) for slow in ("torch dense", "native dense")} for fast in SPARSE_ROWS
    }
    for fast, by_baseline in ratios.items():
        for slow, times in by_baseline.items():
            print(f"  {fast:24} {times:5.1f} times faster than {slow} (target {TARGETS.get((slow, hidden), '-')})")
    medians_ms = {row: round(median(times) * 1e3, 3) for row, times in seconds.items()}
    rounded = {fast: {slow: round(times, 2) for slow, times in by.items()} for fast, by in ratios.items()}
    return {"map": name, "hidden": hidden, "steps": steps, "median_ms": medians_ms, "times_faster": rounded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 60])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = describe_machine()
    print(f"{machine.cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {native.status()}")
    print(machine.warning)
    settings = [(name, hidden, steps) for hidden in options.hidden for name in MAPS for steps in options.steps]
    results = [report(*setting, measure(*setting, options.rounds)) for setting in settings]
    if options.json:
        found = {"machine": asdict(machine), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(json.dumps(found | {"rounds": options.rounds, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
