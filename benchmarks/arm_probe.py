"""What benchmarks/arm.py runs inside a root: one JSON object on standard output.

python arm_probe.py start POLICY ROUNDS       # start-up and memory, of a Python without numpy
python arm_probe.py decide POLICY ROUNDS      # decisions of every backend that is there, in turn
"""

from __future__ import annotations

import argparse
import json
import platform
import struct
import sysconfig
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import mast_runtime
from mast_runtime.backends import installed_backends
from mast_runtime.inputs import Step
from mast_runtime.measure.startup import BARE, bare_command, measure_startup, policy_command

ENOUGH_S = 0.2
"""Of a backend's turn."""


def start(policy: Path, rounds: int) -> dict[str, object]:
    """A fresh process to its first decision, beside a Python that imports nothing: processor time, and memory."""
    rows = measure_startup({BARE: bare_command(), "policy": policy_command(policy)}, rounds)
    bare, loaded = rows
    return {
        "numpy": find_spec("numpy") is not None,
        "native": mast_runtime.native_status(),
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "python": platform.python_version(),
        "abi": sysconfig.get_config_var("SOABI"),
        "bare_cpu_ms": round(bare.cpu_ms, 1),
        "policy_cpu_ms": round(loaded.cpu_ms, 1),
        "bare_peak_bytes": bare.peak_bytes,
        "policy_peak_bytes": loaded.peak_bytes,
    }


def pass_us(agent: object, steps: Sequence[Step]) -> float:
    """Processor microseconds of a decision, over whole episodes for ENOUGH_S: a busy machine disturbs these less."""
    passes, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < ENOUGH_S or not passes:
        for step in steps:
            if step.start:
                agent.reset()
            agent.act(step.obs, step.avail)
        passes += 1
    return 1e6 * elapsed / (passes * len(steps))


def decide(policy: Path, rounds: int) -> dict[str, object]:
    """Each backend's median decision in microseconds, and the median over rounds of its ratio to the kernel's."""
    bundle = mast_runtime.load(policy)
    network = bundle.networks[bundle.agents[0].network]
    steps = list(network.recording.steps(network.inputs))
    agents = {name: bundle.agent(0, name) for name in installed_backends()}
    for agent in agents.values():
        pass_us(agent, steps)  # warm
    found = [{name: pass_us(agent, steps) for name, agent in agents.items()} for _ in range(rounds)]
    return {
        "native": mast_runtime.native_status(),
        "versions": {name: known for name in ("numpy", "onnxruntime") if (known := _version(name))},
        "decision_us": {name: round(median(row[name] for row in found), 3) for name in agents},
        "over_kernel": {
            name: round(median(row[name] / row["native"] for row in found), 2) for name in agents if name != "native"
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "decide"))
    parser.add_argument("policy", type=Path)
    parser.add_argument("rounds", type=int)
    given = parser.parse_args()
    print(json.dumps({"start": start, "decide": decide}[given.what](given.policy, given.rounds)))
