"""The policies of zoo/: of each map the run of a row's median score, exported, played and described.

    python benchmarks/zoo.py RUNS [RUNS ...] [--row mast-active] [--episodes 256] [--output zoo]

RUNS are runs, or folders of sweeps. Written are MAP.mast and README.md with a line for each; earlier ones stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mast_runtime.bundle import write_atomically
from mast_train.report.collect import collect, run_folders
from mast_train.report.statistics import measure_of, measure_word, score

ROOT = Path(__file__).resolve().parent.parent
CARDS = "cards.json"


def median_runs(paths: Iterable[Path], row: str) -> dict[str, dict[str, Any]]:
    """Environment and map -> what is known of a row's finished seeds: `run` its folder, `seed`, `scores`, `measure`.

    The run is the one of the median score, the lower one of two. A row's seeds have the same settings.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        folders = {folder.name: folder for folder in run_folders(path)}
        results = collect([path])
        for run in results["runs"]:
            if run["phase"] == "final" and run["row"] == row:
                config = results["configs"][run["config"]]
                name = f"{config['env.name']} {config['env.map']}".strip()
                groups.setdefault(name, []).append(
                    {**run, "folder": folders[run["name"]], "score_by": config["train.score"]}
                )
    chosen = {}
    for name, runs in groups.items():
        measure = measure_of((run["curve"]["win_rate"][-1] for run in runs), (run["score_by"] for run in runs))
        scored = sorted((score(run["curve"][measure]), run["seed"], run["folder"]) for run in runs)
        _, seed, folder = scored[(len(scored) - 1) // 2]
        chosen[name] = {
            "run": folder, "seed": seed, "measure": measure_word(measure),
            "scores": [round(value, 3) for value, _, _ in scored],
        }  # fmt: skip
    return chosen


def mast(*arguments: object) -> Any:
    """What a command prints with --json. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, arguments), "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def card(policy: Path, found: dict[str, Any], row: str, episodes: int) -> dict[str, Any]:
    """Export, play and read again: everything that a policy's line says."""
    (exported,) = mast("export", found["run"], "--output", policy)
    played = mast("eval", policy, "--episodes", episodes)
    seen = mast("inspect", policy)
    info = seen["info"]
    return {
        "file": policy.name, "env": info["env"], "map": info["map"], "algorithm": info["algorithm"], "row": row,
        "seed": found["seed"], "steps": info["steps"], "measure": found["measure"], "scores": found["scores"],
        "episodes": played["episodes"],
        "played": [round(played[key], 3) for key in ("win_rate", "win_rate_low", "win_rate_high")]
        if played["win_rate"] is not None else [round(played["return_mean"], 1)],
        "connections": seen["nnz"], "sparsity": round(seen["sparsity"], 4),
        "bytes": exported["size_bytes"], "digest": seen["identity"]["digest"],
    }  # fmt: skip


def page(cards: Iterable[dict[str, Any]]) -> str:
    """README.md of the zoo."""
    lines = [
        "# Trained teams",
        "",
        "Policies to play, measure and serve before you train any:",
        "",
        "```bash",
        "mast play zoo/3m.mast --html battle.html",
        "mast bench zoo/3m.mast",
        "mast selftest zoo/3m.mast",
        "```",
        "",
        "Each is the run of the median score among the seeds of its row, last networks, as `mast export` writes it.",
        "`mast inspect` shows a file's inputs, what training saw of them, and its connections. This page is written by",
        "`python benchmarks/zoo.py RUNS --row NAME`, a row at a time.",
        "",
        "| file | trained on | row; seed | steps | all seeds' scores | the file, played | connections | kB | digest |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in cards:
        value, *interval = c["played"]
        played = f"{c['measure']} {value:g}" + (f" ({interval[0]:g} to {interval[1]:g})" if interval else "")
        row = f"{c['algorithm']}, {c['row']}; {c['seed']}"
        lines.append(
            f"| [{c['file']}]({c['file']}) | {c['env']} {c['map']} | {row} | {c['steps']:,}"
            f" | {', '.join(f'{s:g}' for s in c['scores'])} | {played} of {c['episodes']} episodes"
            f" | {c['connections']:,} ({c['sparsity']:.1%} sparse) | {c['bytes'] / 1000:.0f} | `{c['digest'][:12]}` |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--row", default="mast-active", help="row of the comparison, as mast report calls it")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--output", type=Path, default=ROOT / "zoo")
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True)
    written = options.output / CARDS
    cards = {c["file"]: c for c in json.loads(written.read_text())} if written.exists() else {}
    chosen = median_runs(options.runs, options.row)
    if not chosen:
        sys.exit(f"no finished run of the row {options.row!r}; mast report shows what rows the runs are of")
    for name, found in chosen.items():
        env, map_ = name.partition(" ")[::2]
        policy = options.output / f"{map_ if env == 'smax' else '-'.join(filter(None, (env, map_)))}.mast"
        cards[policy.name] = card(policy, found, options.row, options.episodes)
        print(f"{policy}: seed {found['seed']} of {found['scores']}, {cards[policy.name]['played']}", flush=True)
        ordered = [cards[file] for file in sorted(cards)]
        write_atomically(written, (json.dumps(ordered, indent=1) + "\n").encode())
        write_atomically(options.output / "README.md", page(ordered).encode())


if __name__ == "__main__":
    main()
