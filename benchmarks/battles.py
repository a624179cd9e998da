"""Steps per second of SMAC's own code on the stand-in for the game's binary (tests/stand_in), and what bounds them.

    python benchmarks/battles.py [--pythons PATH ...] [--maps 3m 2s3z 2c_vs_64zg] [--rounds 7] [--json FILE]

PATH: interpreters that have SMAC (default: the one that plays battles, see mast smac install). One battle at a time,
actions at random among the available; every round plays every map with every interpreter, in turn. Parts are processor
times, without what they call that is another part; the game's is that of the stand-in, not of StarCraft II.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "game": "the stand-in: eight game loops, and its end of the protocol",
    "socket": "three requests: sending, and receiving the answers",
    "protobuf": "PySC2 encodes requests and decodes observations",
    "copies": "SMAC copies every unit",
    "features": "SMAC's observations, state, available actions",
    "rest": "the rest of SMAC and PySC2",
    "ours": "our process: the message to the worker and back, tensors",
}


def measure(python: str, map_name: str, steps: int) -> dict[str, float]:
    """Milliseconds a step: by the clock through the environment, and the processor time of each part."""
    command = [python, "-E", ROOT / "benchmarks" / "battle_parts.py", ROOT / "mast_train" / "envs", map_name, steps]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{python} cannot play {map_name}")
    parts = json.loads(done.stdout.splitlines()[-1])
    return {**{name: 1e3 * seconds / steps for name, seconds in parts.items()}, **through_us(python, map_name, steps)}


def through_us(python: str, map_name: str, steps: int) -> dict[str, float]:
    """Milliseconds a step of the environment: by the clock, and our own processor time."""
    import torch

    from mast_train.envs.smac import SmacEnv

    torch.manual_seed(0)
    env = SmacEnv(map_name, 1, 0, torch.device("cpu"), python=python)
    try:
        seen, clock, processor = env.reset(), 0.0, 0.0
        for _ in range(steps):
            actions = torch.multinomial(seen.avail_actions[0].float(), 1).T
            began = time.perf_counter(), time.process_time()
            after = env.step(actions)
            clock, processor = clock + time.perf_counter() - began[0], processor + time.process_time() - began[1]
            seen = env.reset() if bool(after.terminated | after.truncated) else after.next
    finally:
        env.close()
    return {"clock": 1e3 * clock / steps, "ours": 1e3 * processor / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+")
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z", "2c_vs_64zg"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from stand_in.install import install

    from mast_runtime.measure.machine import describe_machine
    from mast_train.envs import smac_process

    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for python in given.pythons or [smac_process.find_python()]:
                found = smac_process.probe(python)
                os.environ["SC2PATH"] = str(install(Path(folder), python))
                for name in given.maps:
                    label = f"{name}, Python {found['python']}, protobuf {found['protobuf_code']}"
                    rows.setdefault(label, []).append(measure(python, name, given.steps))
    result = {label: middle(samples) for label, samples in rows.items()}
    for label, row in result.items():
        print(f"{label}: {1e3 / row['clock']:.0f} steps/s by the clock, {1e3 / row['all']:.0f} of one whole core")
        for part, words in PARTS.items():
            print(f"    {row[part]:6.2f} ms  {words}")
    if given.json:
        given.json.write_text(json.dumps({"machine": vars(describe_machine()), "rows": result}, indent=1) + "\n")


def middle(samples: list[dict[str, float]]) -> dict[str, float]:
    """The medians over the rounds, and the processor time of all parts."""
    row = {name: statistics.median(sample.get(name, 0.0) for sample in samples) for name in (*PARTS, "clock")}
    return {**row, "all": sum(row[name] for name in PARTS), "rounds": len(samples)}


if __name__ == "__main__":
    main()
