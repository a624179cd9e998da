"""Training throughput on one map: where the time goes, beside dense torch and beside JaxMARL's own QMIX.

    python benchmarks/throughput.py --map 3m [--jaxmarl CHECKOUT] [--rounds 5] [--json FILE]

Every cell is a fresh process, compiled and warm before its clock starts, the cells interleaved. All cells use 16
environments, batches of 32 and the given hidden size, and learn about 16 transitions per environment step (each
library's own default). Ours run on one thread; XLA uses every core. CHECKOUT is a clone of JaxMARL whose
baselines/QLearning/qmix_rnn.py is run as it is; it needs flashbax, hydra-core and omegaconf, and gets an inert stand-in
for wandb.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

SECONDS = 6.0
OURS = {
    "mast 95 %, native": ("mast", "native"),
    "dense, torch": ("dense", "torch"),
}


def measure_ours(name: str, map_name: str, hidden: int) -> dict[str, float]:
    """Environment steps and learned agent-steps per second of a warm run, and the share of each phase."""
    import torch

    from mast_train.config import override
    from mast_train.presets import preset
    from mast_train.trainer import Progress, Trainer

    torch.set_num_threads(1)
    method, kernel = OURS[name]
    settings = {
        "env.map": map_name, "net.hidden": hidden, "kernel": kernel,
        "train.total_steps": 10**9, "train.eval_interval": 10**9, "train.eval_episodes": 16,
    }  # fmt: skip
    trainer = Trainer(override(preset(method), settings))
    learned = [0]
    update = trainer.learner.update

    def counted(batch, env_steps):
        learned[0] += int(batch.filled.sum()) * trainer.spec.n_agents
        return update(batch, env_steps)

    trainer.learner.update = counted
    started, first = None, None
    for event in trainer.events():
        if not isinstance(event, Progress):
            continue
        if started is None and event.updates > 24:
            started, first, learned[0] = time.perf_counter(), event, 0
        elif started is not None and time.perf_counter() - started > SECONDS:
            break
    assert started is not None and first is not None and isinstance(event, Progress)
    wall = time.perf_counter() - started
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", default="3m")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jaxmarl", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell")
    options = parser.parse_args()
    if options.cell == "jaxmarl":
        print(json.dumps(measure_jaxmarl(options.jaxmarl, options.map, options.hidden)))
        return
    if options.cell:
        print(json.dumps(measure_ours(options.cell, options.map, options.hidden)))
        return
    cells = [*OURS, *(["jaxmarl"] if options.jaxmarl else [])]
    rounds: dict[str, list[dict[str, float]]] = {cell: [] for cell in cells}
    for k in range(options.rounds):
        for cell in cells[k % len(cells) :] + cells[: k % len(cells)]:
            command = [sys.executable, __file__, "--cell", cell, "--map", options.map, "--hidden", str(options.hidden)]
            command += ["--jaxmarl", str(options.jaxmarl)] if options.jaxmarl else []
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rounds[cell].append(json.loads(out.strip().splitlines()[-1]))
    medians = {
        cell: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for cell, rows in rounds.items()
    }
    for cell, row in medians.items():
        shares = ", ".join(f"{key.removeprefix('share_')} {row[key]:.0%}" for key in row if key.startswith("share_"))
        print(
            f"{cell:20s} {row['env_steps_per_s']:9,.0f} env-steps/s {row['agent_steps_learned_per_s']:11,.0f} "
            f"agent-steps learned/s {row['updates_per_s']:7.1f} updates/s  {shares}"
        )
    if options.json:
        content = {"map": options.map, "hidden": options.hidden, "medians": medians, "rounds": rounds}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
