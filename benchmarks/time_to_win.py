"""How long until a team wins: ours at 95 % beside JaxMARL's QMIX and PQN-VDN, win rate over wall-clock.

    python benchmarks/time_to_win.py --jaxmarl CHECKOUT [--maps 3m 2s3z] [--seeds 0 1 2] [--minutes 30]
                                     [--only NAME ...] [--json FILE] [--picture FILE]

CHECKOUT is a clone of JaxMARL; its baselines/QLearning/{qmix,pqn_vdn}_rnn.py run as they are, with the configuration of
their own config/alg, but for the map, the hidden size and the evaluations: twenty in a run, of 128 environments. They
need flashbax, hydra-core and omegaconf, and get a stand-in for wandb that writes the clock beside the win rate.
Every run is a process of its own and has the machine to itself: ours uses two threads (train.overlap), XLA all cores.
Clocks start when everything is compiled; what that took stands apart. Evaluations count. A run ends with its steps or
after `--minutes`. With --json the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mast_runtime.measure.machine import describe_machine

EVALUATIONS, EPISODES = 20, 128
LEVELS = (0.5, 0.8, 0.9)
Point = tuple[float, int, float]
"""Seconds since the start, environment steps, greedy win rate."""


@dataclass(frozen=True)
class Contender:
    """script: of JaxMARL's, none for ours. steps: how long it plays on a map; None: as its configuration says."""

    script: str | None
    config: str
    hidden: int
    steps: dict[str, int] | None


OURS = {"3m": 500_000, "2s3z": 700_000, "3s5z": 1_000_000, "8m": 1_000_000}
CONTENDERS = {
    "MAST 95 %": Contender(None, "mast-active", 64, OURS),
    "MAST dense": Contender(None, "dense", 64, OURS),
    "JaxMARL QMIX, 64": Contender("qmix_rnn", "ql_rnn_smax", 64, None),
    "JaxMARL QMIX, 512": Contender("qmix_rnn", "ql_rnn_smax", 512, None),
    "JaxMARL PQN-VDN, 64": Contender("pqn_vdn_rnn", "pqn_vdn_rnn_smax", 64, None),
    "JaxMARL PQN-VDN, 512": Contender("pqn_vdn_rnn", "pqn_vdn_rnn_smax", 512, None),
}


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def run_ours(contender: Contender, map_name: str, seed: int, steps: int) -> None:
    import torch

    from mast_train.runs.events import Evaluation, Progress
    from mast_train.runs.loop import Loop
    from mast_train.runs.malloc import keep_freed_memory
    from mast_train.runs.run import Run
    from mast_train.settings.config import override
    from mast_train.settings.methods import preset

    started = time.perf_counter()
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = {
        "env.map": map_name, "net.hidden": contender.hidden, "train.overlap": True, "seed": seed,
        "train.total_steps": steps, "train.eval_interval": steps // EVALUATIONS, "train.eval_episodes": EPISODES,
    }  # fmt: skip
    run, begun = Run(override(preset(contender.config), settings)), None
    with closing(run), closing(Loop([run])) as loop:
        for _, event in loop.events():
            if begun is None and isinstance(event, Progress):
                begun = time.perf_counter()
                say(compiled=begun - started)
            if isinstance(event, Evaluation) and begun is not None:
                say(point=(time.perf_counter() - begun, event.step, event.win_rate))


def run_jaxmarl(checkout: Path, contender: Contender, map_name: str, seed: int, steps: int | None) -> None:
    began = time.perf_counter()
    clock, seen = [began], [-1]

    def log(metrics: dict[str, Any], step: Any = None) -> None:
        """Their callback comes after every update and repeats the last evaluation until the next one."""
        win, at = float(metrics["test_returned_won_episode"]), int(metrics["update_steps"]) // every
        if at > seen[0]:
            seen[0] = at
            say(point=(time.perf_counter() - clock[0], int(metrics["env_step"]), win))

    stub = types.ModuleType("wandb")
    stub.log = log  # type: ignore[attr-defined]
    sys.modules["wandb"] = stub
    home = checkout / "baselines" / "QLearning"
    sys.path.insert(0, str(home))
    import jax
    import yaml

    assert contender.script is not None
    code = __import__(contender.script)
    # YAML's numbers need a dot before the exponent, which some of theirs lack.
    text = (home / "config" / "alg" / f"{contender.config}.yaml").read_text().replace("1e7", "1.0e7")
    config = yaml.safe_load(text)
    config |= {key: float(value) for key, value in config.items() if isinstance(value, str) and _number(value)}
    config |= {"MAP_NAME": map_name, "HIDDEN_SIZE": contender.hidden, "WANDB_MODE": "offline"}
    config |= {"TEST_DURING_TRAINING": True, "TEST_INTERVAL": 1 / EVALUATIONS, "TEST_NUM_ENVS": EPISODES}
    config |= {"TOTAL_TIMESTEPS": steps or config["TOTAL_TIMESTEPS"]}
    every = max(1, int(config["TOTAL_TIMESTEPS"] // config["NUM_STEPS"] // config["NUM_ENVS"] / EVALUATIONS))
    env, *_ = code.env_from_config(config)
    key = jax.random.PRNGKey(seed)
    train = jax.jit(code.make_train(config, env)).lower(key).compile()
    clock[0] = time.perf_counter()
    say(compiled=clock[0] - began)
    jax.block_until_ready(train(key))
    jax.effects_barrier()


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def measure(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """A run in a process of its own, ended `seconds` after it has compiled."""
    found: dict[str, Any] = {"compiled": None, "points": [], "ended": "finished"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        limit: threading.Timer | None = None
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            said = json.loads(line)
            if "compiled" in said:
                found["compiled"] = said["compiled"]
                limit = threading.Timer(seconds, functools.partial(_end, process, found))
                limit.start()
            else:
                found["points"].append(said["point"])
                print(f"    {said['point'][0]:7.0f} s {said['point'][1]:10,} steps {said['point'][2]:.3f}", flush=True)
    if limit is not None:
        limit.cancel()
    if process.returncode and found["ended"] == "finished":
        found["ended"] = f"exit code {process.returncode}"
    return found


def _end(process: subprocess.Popen[str], found: dict[str, Any]) -> None:
    found["ended"] = "out of time"
    process.terminate()


def seconds_to(level: float, points: Sequence[Point]) -> float | None:
    """When the mean of an evaluation and the one before it has first reached `level`; None: not yet."""
    for before, now in itertools.pairwise(points):
        if (before[2] + now[2]) / 2 >= level:
            return now[0]
    return None


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    rows = ["| map | team | seed | compiling | " + " | ".join(f"{level:.0%}" for level in LEVELS) + " | best | ended |"]
    rows.append("|" + " --- |" * (6 + len(LEVELS)))
    for name, run in runs.items():
        map_name, contender, seed = name.split("/")
        times = (seconds_to(level, run["points"]) for level in LEVELS)
        reached = " | ".join("-" if x is None else f"{x:.0f} s" for x in times)
        best = max((point[2] for point in run["points"]), default=0.0)
        compiled = "-" if run["compiled"] is None else f"{run['compiled']:.0f} s"
        rows.append(f"| {map_name} | {contender} | {seed} | {compiled} | {reached} | {best:.3f} | {run['ended']} |")
    return rows


def draw(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Win rate over minutes, a panel for each map, a colour for each contender."""
    from matplotlib.figure import Figure

    maps = list(dict.fromkeys(name.split("/")[0] for name in runs))
    figure = Figure(figsize=(5.2 * len(maps), 3.8), layout="constrained")
    for panel, map_name in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        for k, contender in enumerate(CONTENDERS):
            label: str | None = contender
            for run in (run for name, run in runs.items() if name.startswith(f"{map_name}/{contender}/")):
                points = [(0.0, 0, 0.0), *run["points"]]
                panel.plot([p[0] / 60 for p in points], [p[2] for p in points], color=f"C{k}", label=label, lw=1.2)
                label = None
        panel.set(title=map_name, xlabel="minutes, compiled", ylabel="greedy win rate", ylim=(0, 1))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jaxmarl", type=Path, help="a clone of JaxMARL")
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z"], choices=list(OURS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=30.0, help="of a run, compiling apart")
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--steps", type=int, help="of every run, in place of its own number")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.jaxmarl is None and any(CONTENDERS[name].script for name in options.only):
        parser.error("JaxMARL's runs need --jaxmarl CHECKOUT, a clone of it; or leave them out with --only")
    if options.one:
        contender, map_name, seed = CONTENDERS[options.one], options.maps[0], options.seeds[0]
        if contender.script:
            run_jaxmarl(options.jaxmarl, contender, map_name, seed, options.steps)
        else:
            run_ours(contender, map_name, seed, options.steps or OURS[map_name])
        return
    runs = json.loads(options.json.read_text())["runs"] if options.json and options.json.is_file() else {}
    work(options, runs, functools.partial(save, options.json, runs))
    print("\n".join(table(runs)))
    if options.picture:
        draw(runs, options.picture)


def work(options: argparse.Namespace, runs: dict[str, dict[str, Any]], save: Callable[[], None]) -> None:
    """Every run that is not there yet. Seeds outermost: a stopped comparison has all contenders."""
    for seed in options.seeds:
        for map_name in options.maps:
            for name in options.only:
                key = f"{map_name}/{name}/{seed}"
                if key in runs:
                    continue
                print(key, flush=True)
                command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--maps", map_name]
                command += ["--seeds", str(seed)]
                command += ["--jaxmarl", str(options.jaxmarl)] if options.jaxmarl else ["--only", name]
                command += ["--steps", str(options.steps)] if options.steps else []
                found = measure(command, 60 * options.minutes)
                if found["ended"].startswith("exit"):
                    print(f"{key}: {found['ended']}; it is not kept, the same command tries again", flush=True)
                    continue
                runs[key] = found
                save()


def save(path: Path | None, runs: dict[str, dict[str, Any]]) -> None:
    if path:
        found = {"machine": asdict(describe_machine()), "runs": runs}
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(found, indent=1) + "\n")
        beside.replace(path)


if __name__ == "__main__":
    main()
