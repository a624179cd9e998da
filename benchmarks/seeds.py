"""Several seeds in one process against the same seeds one after another, which play the same episodes.

    python benchmarks/seeds.py [--seeds 4] [--map 3m] [--method mast] [--kernel auto] [--threads 1] [--seconds 40]
    python benchmarks/seeds.py --steps 10000 [--seeds 4] [--map 3m] [--method mast]

The first form compares warm rounds (environments, acting, updates; no evaluations), joint and alone in turn, in one
process. Its ratios, alone over joint, are medians over the turns of the time that a step takes. The second times whole
commands, start-up and evaluations included: `mast train --seeds K` and K times `mast train`, each in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mast_runtime.measure.machine import describe_machine

if TYPE_CHECKING:
    from mast_train.runs.events import Event
    from mast_train.runs.run import Run

CLI = Path(__file__).resolve().parent.parent / "cli.py"
TURN = 6
"""Rounds of episodes of every seed in one turn."""
WARM = 12
"""Rounds before the clock starts: everything is compiled and the replay can be sampled."""


def advance(events: Iterator[tuple[Run, Event]], last: Run, rounds: int) -> tuple[float, float]:
    """Take that many rounds, of which `last` reports at their end; returns wall and processor seconds."""
    from mast_train.runs.events import Progress

    started, busy = time.perf_counter(), time.process_time()
    ends = (event for run, event in events if run is last and isinstance(event, Progress))
    for _ in range(rounds):
        next(ends)
    return time.perf_counter() - started, time.process_time() - busy


def measure_rounds(options: argparse.Namespace) -> dict[str, float]:
    """Environment steps and updates per second of all seeds, joint and alone, once everything is warm."""
    import torch

    from mast_train.runs.loop import Loop
    from mast_train.runs.malloc import keep_freed_memory
    from mast_train.runs.run import Run
    from mast_train.settings.config import override
    from mast_train.settings.methods import preset

    torch.set_num_threads(options.threads)
    keep_freed_memory()
    settings = {
        "env.map": options.map, "kernel": options.kernel, "threads": options.threads,
        "train.total_steps": 10**9, "train.eval_interval": 10**9, "train.eval_episodes": 16,
    }  # fmt: skip
    config = override(preset(options.method), settings)
    together, apart = ([Run(replace(config, seed=seed)) for seed in range(options.seeds)] for _ in range(2))
    joint, alone = Loop(together).events(), [run.rounds.events() for run in apart]

    def turn(rounds: int) -> list[dict[str, float]]:
        """What the joint runs took, and those alone."""
        rows = []
        for runs, loops in ((together, [(joint, together[-1])]), (apart, list(zip(alone, apart, strict=True)))):
            steps, updates = sum(run.step for run in runs), sum(run.learner.updates for run in runs)
            times = [advance(events, last, rounds) for events, last in loops]
            wall, busy = (sum(column) for column in zip(*times, strict=True))
            steps, updates = sum(run.step for run in runs) - steps, sum(run.learner.updates for run in runs) - updates
            rows.append({"steps": steps, "updates": updates, "wall": wall, "busy": busy})
        return rows

    turn(WARM)
    started, turns = time.perf_counter(), []
    while not turns or time.perf_counter() - started < options.seconds:
        turns.append(turn(TURN))
    result: dict[str, float] = {"turns": len(turns)}
    for k, name in enumerate(("joint", "alone")):
        total = {key: sum(rows[k][key] for rows in turns) for key in turns[0][k]}
        result |= {f"{name}_{key}_per_s": total[key] / total["wall"] for key in ("steps", "updates")}
    for key, name in (("wall", "wall"), ("busy", "processor")):
        ratios = [(b[key] / b["steps"]) / (a[key] / a["steps"]) for a, b in turns]
        result[f"{name}_ratio"] = statistics.median(ratios)
    return result | {"same_steps": [run.step for run in together] == [run.step for run in apart]}


def measure_commands(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of whole commands."""

    def seconds(*arguments: str) -> float:
        command = [sys.executable, str(CLI), "train", "--map", options.map, "--method", options.method]
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            given = [*command, "--steps", str(options.steps), *arguments]
            subprocess.run(given, cwd=folder, stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - started

    joint = seconds("--seeds", str(options.seeds))
    alone = [seconds("--seed", str(seed)) for seed in range(options.seeds)]
    return {"joint_s": joint, "alone_s": sum(alone), "ratio": sum(alone) / joint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--method", default="mast")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--steps", type=int, help="time whole commands of that many steps a seed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = describe_machine()
    print(f"{machine.cpu}\n{machine.warning}")
    result = measure_commands(options) if options.steps else measure_rounds(options)
    print(", ".join(f"{name} {value:,.2f}" for name, value in result.items()))
    if options.json:
        given = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"machine": asdict(machine), **given, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
