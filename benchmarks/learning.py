"""Learning on SMAX: every row over one learning-rate grid, then its chosen rate over fresh seeds, raw curves kept.

    python benchmarks/learning.py tune                      # one tuning seed per row and rate
    python benchmarks/learning.py run                       # the chosen rates, three seeds each
    python benchmarks/learning.py table > docs/results.md   # from the stored curves

Each cell is one process and one JSON file under benchmarks/results/learning/; a finished cell is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "learning"
GRU8, GRU16 = {"sparse.block.gru": 8}, {"sparse.block.gru": 16}
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "dense": ("dense", {}),
    "ss": ("ss", {}),
    "rigl": ("rigl", {}),
    "mast": ("mast", {}),
    "mast gru 8x1": ("mast", GRU8),
    "mast gru 16x1": ("mast", GRU16),
}
"""row -> (method of the preset table, settings on top); all at 95 % sparsity and hidden size 64 but the dense one."""
RATES = (5e-4, 1e-3, 2e-3)
TUNING_SEED, SEEDS = 100, (0, 1, 2)
TUNING_STEPS, STEPS = 250_000, 500_000
EVALUATIONS, EPISODES = 20, 128


def cell_path(map_name: str, row: str, lr: float, seed: int, steps: int) -> Path:
    """Where a cell's curve is kept."""
    return RESULTS / f"{map_name}-{row.replace(' ', '_')}-lr{lr:g}-seed{seed}-{steps}.json"


def train_cell(map_name: str, row: str, lr: float, seed: int, steps: int) -> None:
    """Train one cell in this process and write its curve."""
    import torch

    from mast_train.config import flatten, override, validate
    from mast_train.presets import preset
    from mast_train.runs import versions
    from mast_train.trainer import Evaluation, Progress, Trainer

    torch.set_num_threads(1)
    method, settings = ROWS[row]
    base = {
        "env.map": map_name,
        "seed": seed,
        "train.lr": lr,
        "train.total_steps": steps,
        "train.eval_interval": steps // EVALUATIONS,
        "train.eval_episodes": EPISODES,
    }
    config = validate(override(preset(method), {**base, **settings}))
    trainer, started, curve, seconds = Trainer(config), time.perf_counter(), [], {}
    for event in trainer.events():
        if isinstance(event, Evaluation):
            curve.append([event.step, event.win_rate, round(event.return_mean, 4), round(event.length_mean, 3)])
        elif isinstance(event, Progress):
            seconds = event.seconds
    result = {
        "row": row,
        "map": map_name,
        "lr": lr,
        "seed": seed,
        "columns": ["step", "win_rate", "return", "length"],
        "curve": curve,
        "wall_s": round(time.perf_counter() - started, 1),
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "sparsity": trainer.learner.sparsity(),
        "config": flatten(config),
        "versions": versions(),
    }
    path = cell_path(map_name, row, lr, seed, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result) + "\n")
    temporary.rename(path)


def run_cells(cells: list[tuple[str, str, float, int, int]], jobs: int) -> None:
    """Run the cells that are not there yet, `jobs` processes at a time; report failures at the end."""
    waiting = [cell for cell in cells if not cell_path(*cell).exists()]
    print(f"{len(cells)} cells, {len(cells) - len(waiting)} finished before", flush=True)
    running: list[tuple[subprocess.Popen[bytes], tuple[str, str, float, int, int]]] = []
    failed = []
    while waiting or running:
        while waiting and len(running) < jobs:
            cell = waiting.pop(0)
            arguments = [sys.executable, __file__, "cell", *map(str, cell)]
            running.append((subprocess.Popen(arguments), cell))
        time.sleep(1.0)
        for process, cell in [item for item in running if item[0].poll() is not None]:
            running.remove((process, cell))
            if process.returncode:
                failed.append(cell)
            else:
                print(f"{cell}: {last_evaluations(cell_path(*cell)):.3f}", flush=True)
    if failed:
        raise SystemExit(f"failed: {failed}")


def last_evaluations(path: Path, count: int = 5) -> float:
    """Mean win rate of a cell's last evaluations."""
    curve = json.loads(path.read_text())["curve"]
    return sum(point[1] for point in curve[-count:]) / count


def chosen_rate(map_name: str, row: str) -> float:
    """The rate whose tuning run ended highest (mean of the last five evaluations)."""
    return max(RATES, key=lambda lr: last_evaluations(cell_path(map_name, row, lr, TUNING_SEED, TUNING_STEPS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tune", "run", "cell"])
    parser.add_argument("cell", nargs="*")
    parser.add_argument("--map", default="3m")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.what == "cell":
        map_name, row, lr, seed, steps = options.cell
        train_cell(map_name, row, float(lr), int(seed), int(steps))
    elif options.what == "tune":
        run_cells([(options.map, row, lr, TUNING_SEED, TUNING_STEPS) for row in ROWS for lr in RATES], options.jobs)
    else:
        cells = [(options.map, row, chosen_rate(options.map, row), seed, STEPS) for seed in SEEDS for row in ROWS]
        run_cells(cells, options.jobs)


if __name__ == "__main__":
    main()
