"""What sparsity is worth on this CPU: the native kernels beside their own dense kernel and ONNX Runtime.

    python benchmarks/native.py [--rounds 7] [--json FILE]    # the table; needs mast-marl[export]
    python benchmarks/native.py --break-even                  # the densities that level_*.c state as dense_from

Weights are float32, but in the rows that say f16; int8 is decoded at load and takes the time of float32. All rows are
measured in turn, round after round; a figure is the median over the rounds, a ratio the median of the
rounds' ratios. Random weights: time depends on the layout, not on what was learnt.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from networks import random_network

from mast_runtime import Contract, Network
from mast_runtime.native import NativeStep, find_level, levels, make_team, new_agent, packing
from mast_runtime.network import LAYERS

SIZES = {"64": (Contract(66, 14, 5), 64), "256": (Contract(170, 30, 27), 256)}
"""hidden -> contract (inputs 80 and 200), hidden."""
SPARSITY = 0.95
KINDS = {
    "unstructured": {},
    "8x1": dict.fromkeys(LAYERS, 8),
    "16x1": dict.fromkeys(LAYERS, 16),
    "mixed": {"weight_ih": 16, "weight_hh": 16},
}
TEAM = 64
TARGETS = {
    ("unstructured", "dense"): (1.9, 3),
    ("8x1", "dense"): (8, 18),
    ("16x1", "dense"): (11, 25),
    ("mixed", "dense"): (4.5, 9),
    ("dense", "onnxruntime"): (12, None),
    ("act unstructured", "onnxruntime"): (20, 7),
    ("act mixed", "onnxruntime"): (35, 18),
    ("team unstructured", "onnxruntime team"): (5, 8),
}
"""Row, baseline -> times faster at hidden 64 and 256, with AVX-512 for blocks of 16."""


@dataclass(frozen=True)
class Row:
    """`measure(rounds)` returns the seconds of that many decisions; `calls` makes about ten milliseconds.

    weights: those a decision multiplies by, padding included; 0: not known. weight_bytes: what one of them takes.
    """

    name: str
    measure: Callable[[int], float]
    calls: int
    agents: int = 1
    weights: int = 0
    weight_bytes: int = 4


def network_of(kind: str, size: str, sparsity: float = SPARSITY) -> Network:
    contract, hidden = SIZES[size]
    network = random_network(np.random.default_rng(0), contract, hidden, None, sparsity, KINDS.get(kind, {}))
    return network.densified() if kind == "dense" else network


def in_c(agent, obs) -> Callable[[int], float]:
    return lambda calls: agent.measure(obs, calls)


def in_python(call: Callable[[], object]) -> Callable[[int], float]:
    def measure(calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            call()
        return perf_counter() - start

    return measure


def row(name: str, measure: Callable[[int], float], agents: int = 1, weights: int = 0) -> Row:
    measure(2)
    once = max(measure(8) / 8, 1e-8)
    return Row(name, measure, max(1, int(0.01 / once)), agents, weights)


def kernel_rows(size: str, level: str) -> list[Row]:
    """Whole steps looped in C: one agent, and teams."""
    contract, _ = SIZES[size]
    rng = np.random.default_rng(1)
    obs = rng.standard_normal(contract.obs_dim).astype(np.float32)
    team_obs = rng.standard_normal((TEAM, contract.obs_dim)).astype(np.float32)
    rows = []
    for kind in ("dense", *KINDS):
        network = network_of(kind, size)
        step = NativeStep(contract, network, level)
        rows.append(row(kind, in_c(new_agent(contract, step, 0), obs), weights=step.compiled.stored_weights))
        team = make_team(contract, [network], [0], TEAM, level)
        lanes = NativeStep(contract, network, level, lanes=True).compiled.stored_weights
        rows.append(row(f"team {kind}", in_c(team, team_obs), TEAM, lanes))
    row_of = find_level(level)
    kept = row_of.has(packing.Layout.HALVES16) and network_of("8x1", size).nnz >= row_of.halves_from
    for kind in ("8x1", "16x1") if kept else ():
        step = NativeStep(contract, halved(network_of(kind, size)), level)
        timed = row(f"{kind} f16", in_c(new_agent(contract, step, 0), obs), weights=step.compiled.stored_weights)
        rows.append(replace(timed, weight_bytes=2))
    nothing = NativeStep(contract, empty(size), level)
    return [*rows, row("no connections", in_c(new_agent(contract, nothing, 0), obs))]


def halved(network: Network) -> Network:
    """The network with its weights as float16, as `mast export --dtype f16` stores them."""
    layers = network.layers().items()
    return replace(network, **{name: replace(layer, values=layer.values.astype(np.float16)) for name, layer in layers})


def empty(size: str) -> Network:
    """No connections: what a decision costs beside its products, the activations above all."""
    contract, hidden = SIZES[size]
    return random_network(np.random.default_rng(0), contract, hidden, None, 1.0, KINDS["16x1"])


def python_rows(size: str) -> list[Row]:
    """`act` as a robot calls it, and ONNX Runtime on the dense network."""
    contract, hidden = SIZES[size]
    rng = np.random.default_rng(1)
    obs, avail = rng.standard_normal(contract.obs_dim).astype(np.float32), np.ones(contract.n_actions, np.bool_)
    rows = []
    for kind in ("dense", *KINDS):
        agent = new_agent(contract, NativeStep(contract, network_of(kind, size)), 0)
        rows.append(row(f"act {kind}", in_python(lambda agent=agent: agent.act(obs, avail))))
    for n, name in ((1, "onnxruntime"), (TEAM, "onnxruntime team")):
        rows.append(row(name, in_python(onnx_call(size, n, hidden)), n))
    return rows


def onnx_call(size: str, n: int, hidden: int) -> Callable[[], object]:
    """One `run` of the dense model that selects the action too."""
    from mast_runtime.format import AgentInfo
    from mast_runtime.onnx_graph import build_model, open_session

    contract, _ = SIZES[size]
    model = build_model(contract, network_of("dense", size), AgentInfo("a", "a", 0, 0))
    session = open_session(model.SerializeToString())
    feed = {
        "obs": np.random.default_rng(1).standard_normal((n, contract.obs_dim)).astype(np.float32),
        "last_action": np.zeros(n, np.int64),
        "avail_actions": np.ones((n, contract.n_actions), np.bool_),
        "hidden": np.zeros((n, hidden), np.float32),
    }
    return lambda: session.run(["action", "next_hidden"], feed)


def measure(rows: list[Row], rounds: int) -> dict[str, np.ndarray]:
    """Nanoseconds per agent and decision [rounds] of each row, measured in turn."""
    times = {r.name: np.zeros(rounds) for r in rows}
    for i in range(rounds):
        for r in rows:
            times[r.name][i] = 1e9 * r.measure(r.calls) / (r.calls * r.agents)
    return times


def table(rounds: int) -> dict:
    """{size: {level: {row: ns}, "ratios": [...]}}, printed on the way."""
    result: dict = {"cpu": cpu_name(), "rounds": rounds, "sparsity": SPARSITY}
    for column, size in enumerate(SIZES):
        result[size] = {}
        for level in levels():
            best = level == levels()[0]
            rows = kernel_rows(size, level) + (python_rows(size) if best else [])
            times = measure(rows, rounds)
            result[size][level] = {name: float(np.median(ns)) for name, ns in times.items()}
            print(f"\nhidden {size}, {level}: ns per agent and decision, times faster, what the products read and take")
            for r in rows:
                versus = baseline(r.name) if best else "team dense" if "team" in r.name else "dense"
                ns, base = times[r.name], times[versus]
                line = f"  {r.name:24s} {np.median(ns):10.1f}   {np.median(base / ns):6.1f} x {versus:16s}"
                print(line + roofline(r, float(np.median(ns - times["no connections"]))))
            found = targets(times, column)
            if best:
                result[size]["ratios"] = found
    return result


def roofline(r: Row, ns: float) -> str:
    """Bytes of weights and multiply-adds a decision takes, and the rates that `ns` without the activations means.

    One agent's weights come from a cache level that holds them: 64 bytes a cycle at best from the first two on AVX-512.
    A team reads each weight once for a tile of agents, so multiply-adds bound it.
    """
    if not r.weights or ns <= 0:
        return ""
    n_bytes = r.weight_bytes * r.weights
    rate = f"{r.weights / ns:6.1f} multiply-adds/ns"
    return f"{n_bytes / 1e3:8.1f} kB, {rate}" + ("" if r.agents > 1 else f", {n_bytes / ns:6.1f} bytes/ns")


def baseline(name: str) -> str:
    return "onnxruntime team" if "team" in name else "onnxruntime" if name.startswith("act") else "dense"


def targets(times: dict[str, np.ndarray], column: int) -> list[dict]:
    found = []
    for (name, base), wanted in TARGETS.items():
        if wanted[column] is not None and name in times and base in times:
            ratio = float(np.median(times[base] / times[name]))
            found.append({"row": name, "baseline": base, "ratio": round(ratio, 2), "target": wanted[column]})
            verdict = "met   " if ratio >= wanted[column] else "MISSED"
            print(f"  {verdict} {name} / {base}: {ratio:.1f} of {wanted[column]}")
    return found


BREAK_EVEN = (("SLICES or PERMUTED", 1, 0), ("BLOCKS8", 8, 0), ("BLOCKS16", 16, 0), ("LANE_SLICES", 1, 1))
"""Layout, block, lanes?"""


def break_even(rounds: int) -> None:
    """Density at which each layout's GRU takes as long as the dense kernel's: the network run in both, by bisection."""
    for level in levels():
        for size, (contract, hidden) in SIZES.items():
            obs = np.zeros((TEAM, contract.obs_dim), np.float32)
            for layout, block, lanes in BREAK_EVEN:
                low, high = 0.0, 1.0
                for _ in range(6):
                    density = (low + high) / 2
                    times = measure(_dense_or_sparse(contract, hidden, density, block, lanes, level, obs), rounds)
                    faster = np.median(times["dense"] / times["sparse"]) > 1.0
                    low, high = (density, high) if faster else (low, density)
                print(f"{level} hidden {size} {layout}: {low:.2f}")


def _dense_or_sparse(contract, hidden, density, block, lanes, level, obs) -> list[Row]:
    rng = np.random.default_rng(0)
    network = random_network(rng, contract, hidden, None, 1.0 - density, dict.fromkeys(LAYERS, block))
    rows = []
    for name, limit in (("dense", -1.0), ("sparse", 2.0)):
        found = find_level(level)
        found = replace(found, dense_from=tuple(limit if density else 0.0 for density in found.dense_from))
        if lanes:
            rows.append(row(name, in_c(make_team(contract, [network], [0], TEAM, found), obs), TEAM))
        else:
            rows.append(row(name, in_c(new_agent(contract, NativeStep(contract, network, found), 0), obs[0])))
    return rows


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--break-even", action="store_true", help="measure the densities of dense_from instead")
    options = parser.parse_args()
    if options.break_even:
        break_even(options.rounds)
        return
    result = table(options.rounds)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
