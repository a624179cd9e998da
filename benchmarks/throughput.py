"""End to end: environment, acting and learning; MAST 95 % in C beside dense torch and beside JaxMARL's own QMIX.

    python benchmarks/throughput.py [--maps 3m 8m] [--hidden 64 256] [--seconds 300] [--rounds 7] [--jaxmarl CHECKOUT]
                                    [--overlap] [--json FILE]

Every cell is a fresh process, compiled and warm before its clock starts, the cells interleaved: a ratio is the median
of the rounds' ratios. `--seconds` bounds the whole run: rounds of all settings follow each other until the next would
not fit; start-up takes most of a cell's time. All cells use 16 environments, batches of 32 and the given hidden size,
and learn about 16 transitions per environment step (each library's own default; ours: one update per two episodes).
Ours run on one thread (`--overlap`: learning and environment on one each); XLA uses every core. CHECKOUT is a clone of
JaxMARL whose baselines/QLearning/qmix_rnn.py is run as it is; it needs flashbax, hydra-core and omegaconf, and gets an
inert stand-in for wandb.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import types
from dataclasses import asdict
from pathlib import Path

from mast_runtime.measure.machine import describe_machine

MAST, DENSE, JAXMARL = "mast 95 %, native", "dense, torch", "jaxmarl"
OURS = {MAST: ("mast", "native"), DENSE: ("dense", "torch")}
"""Cell -> method and kernel."""
WINDOW = 4.0
"""Seconds that one cell is measured for, at least three rounds of episodes."""
TARGETS = {64: 4, 256: 6}
"""Hidden size -> times that MAST's environment steps per second should be dense torch's."""


def measure_ours(name: str, map_name: str, hidden: int, overlap: bool) -> dict[str, float]:
    """Environment steps and learned agent-steps per second of a warm run, and the share of each phase."""
    import torch

    from mast_train.runs.events import Progress
    from mast_train.runs.malloc import keep_freed_memory
    from mast_train.runs.run import Run
    from mast_train.settings.config import override
    from mast_train.settings.methods import preset

    torch.set_num_threads(1)
    keep_freed_memory()
    method, kernel = OURS[name]
    settings = {
        "env.map": map_name, "net.hidden": hidden, "kernel": kernel, "train.overlap": overlap,
        "train.total_steps": 10**9, "train.eval_interval": 10**9, "train.eval_episodes": 16,
    }  # fmt: skip
    trainer = Run(override(preset(method), settings))
    learned, update = [0], trainer.learner.alone.update

    def counted(batch, env_steps):
        learned[0] += int(batch.filled.sum()) * trainer.spec.n_agents
        return update(batch, env_steps)

    trainer.learner.alone.update = counted
    rounds = (event for event in trainer.events() if isinstance(event, Progress))
    first = next(event for event in rounds if event.updates > 24)
    started, learned[0] = time.perf_counter(), 0
    event = next(event for k, event in enumerate(rounds) if k >= 2 and time.perf_counter() - started > WINDOW)
    wall = time.perf_counter() - started
    trainer.close()
    result = {
        "env_steps_per_s": (event.step - first.step) / wall,
        "agent_steps_learned_per_s": learned[0] / wall,
        "updates_per_s": (event.updates - first.updates) / wall,
    }
    return result | {f"share_{key}": (event.seconds[key] - first.seconds[key]) / wall for key in event.seconds}


def measure_jaxmarl(checkout: Path, map_name: str, hidden: int) -> dict[str, float]:
    """JaxMARL's QMIX, compiled ahead: the time of 32 learning updates, as the difference of two runs.

    Its replay must hold 32 additions before anything is learnt, so the shorter run is long enough to fill it.
    """
    import jax

    stub = types.ModuleType("wandb")
    sys.modules["wandb"] = stub
    sys.path.insert(0, str(checkout / "baselines" / "QLearning"))
    import qmix_rnn
    import yaml

    text = (checkout / "baselines" / "QLearning" / "config" / "alg" / "ql_rnn_smax.yaml").read_text()
    config = yaml.safe_load(text.replace("1e7", "1.0e7"))
    config |= {"MAP_NAME": map_name, "HIDDEN_SIZE": hidden, "WANDB_MODE": "disabled", "TEST_DURING_TRAINING": False}
    config |= {"MIXER_EMBEDDING_DIM": 32, "MIXER_HYPERNET_HIDDEN_DIM": 64, "LR": float(config["LR"])}
    per_update = config["NUM_STEPS"] * config["NUM_ENVS"]
    filling, learning = config["BUFFER_BATCH_SIZE"] + 8, 32
    seconds = []
    for updates in (filling, filling + learning):
        run = config | {"TOTAL_TIMESTEPS": updates * per_update, "LEARNING_STARTS": 0}
        env, *_ = qmix_rnn.env_from_config(run)
        key = jax.random.PRNGKey(0)
        train = jax.jit(qmix_rnn.make_train(run, env)).lower(key).compile()
        started = time.perf_counter()
        jax.block_until_ready(train(key))
        seconds.append(time.perf_counter() - started)
    wall = seconds[1] - seconds[0]
    batch = config["BUFFER_BATCH_SIZE"] * config["NUM_STEPS"] * config["NUM_EPOCHS"]
    return {
        "env_steps_per_s": learning * per_update / wall,
        "agent_steps_learned_per_s": learning * batch * env.num_agents / wall,
        "updates_per_s": learning * config["NUM_EPOCHS"] / wall,
    }


def measure(cell: str, map_name: str, hidden: int, options: argparse.Namespace) -> dict[str, float]:
    """One cell in a process of its own."""
    command = [sys.executable, __file__, "--cell", cell, "--maps", map_name, "--hidden", str(hidden)]
    command += ["--jaxmarl", str(options.jaxmarl)] if options.jaxmarl else []
    command += ["--overlap"] if options.overlap else []
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def report(map_name: str, hidden: int, rounds: list[dict[str, dict[str, float]]]) -> dict:
    """Prints one setting; returns it for the file."""
    print(f"{map_name}, hidden {hidden}, {len(rounds)} rounds")
    medians = {
        cell: {key: statistics.median(r[cell][key] for r in rounds) for key in rounds[0][cell]} for cell in rounds[0]
    }
    for cell, row in medians.items():
        shares = ", ".join(f"{key.removeprefix('share_')} {row[key]:.0%}" for key in row if key.startswith("share_"))
        print(
            f"  {cell:18s} {row['env_steps_per_s']:9,.0f} env-steps/s {row['agent_steps_learned_per_s']:11,.0f} "
            f"agent-steps learned/s {row['updates_per_s']:7.1f} updates/s  {shares}"
        )

    def ratio(to: str, key: str) -> float:
        return round(statistics.median(r[MAST][key] / r[to][key] for r in rounds), 2)

    over = {"end_to_end_over_dense": ratio(DENSE, "env_steps_per_s")}
    goal = f"target {TARGETS[hidden]}x" if hidden in TARGETS else "no target"
    print(f"  end to end, mast over dense torch: {over['end_to_end_over_dense']}x ({goal})")
    if JAXMARL in medians:
        over["learned_over_jaxmarl"] = ratio(JAXMARL, "agent_steps_learned_per_s")
        print(f"  agent-steps learned, mast over JaxMARL: {over['learned_over_jaxmarl']}x (target 10x)")
    return {"map": map_name, "hidden": hidden, **over, "medians": medians, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", default=["3m", "8m"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=7, help="at most; at least one is made")
    parser.add_argument("--jaxmarl", type=Path)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        map_name, hidden = options.maps[0], options.hidden[0]
        if options.cell == JAXMARL:
            print(json.dumps(measure_jaxmarl(options.jaxmarl, map_name, hidden)))
        else:
            print(json.dumps(measure_ours(options.cell, map_name, hidden, options.overlap)))
        return
    machine = describe_machine()
    print(f"{machine.cpu}\n{machine.warning}")
    cells = [*OURS, *([JAXMARL] if options.jaxmarl else [])]
    settings = [(map_name, hidden) for map_name in options.maps for hidden in options.hidden]
    rounds: dict[tuple[str, int], list[dict[str, dict[str, float]]]] = {setting: [] for setting in settings}
    started, longest = time.perf_counter(), 0.0
    for k in range(options.rounds):
        begun = time.perf_counter()
        if k and begun - started + longest > options.seconds:
            break
        for setting in settings:
            order = cells[k % len(cells) :] + cells[: k % len(cells)]
            by_cell = {cell: measure(cell, *setting, options) for cell in order}
            rounds[setting].append({cell: by_cell[cell] for cell in cells})
        longest = max(longest, time.perf_counter() - begun)
    results = [report(*setting, rounds[setting]) for setting in settings]
    if options.json:
        found = {"machine": asdict(machine), "overlap": options.overlap, "results": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
