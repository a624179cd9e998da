"""Run folders, sweep folders and earlier results files to one compact results tree, which is all a report is made from.

Results (results.json), format "mast-results-1":
configs   settings that runs share, without their seed
runs      per run: row, phase, sweep, seed, config (index), curve (a list per column), idle (a list of [step, share]),
          wall_s, costs, versions, source
choices   sweep -> what tuning tried and chose
bench     group -> latency and size of one exported run
masks     group -> which connections one run kept, over training and at its end
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mast_train.report.masks import collect_masks
from mast_train.runs.folders import read_metrics
from mast_train.settings.config import Config, flatten, load_toml
from mast_train.settings.errors import UserError, reason

FORMAT = "mast-results-1"
COLUMNS = ("step", "episodes", "win_rate", "return_mean", "length_mean", "value_estimate", "value_realised")
BENCH_FILE = "bench.json"
Results = dict[str, Any]


def collect(paths: Sequence[Path]) -> Results:
    """Everything that the paths hold; runs that have not finished are only counted. Raises UserError."""
    results: Results = {
        "format": FORMAT, "sources": [str(path) for path in paths], "unfinished": 0,
        "configs": [], "runs": [], "choices": {}, "bench": {}, "masks": {},
    }  # fmt: skip
    for path in paths:
        if path.is_file():
            _merge(results, read_results(path))
        else:
            for folder in run_folders(path):
                _add_run(results, folder)
            plan = _plan(path)
            if plan.get("choices"):
                results["choices"][plan["name"]] = plan["choices"]
    if not any(run["phase"] == "final" for run in results["runs"]):
        left_out = f"; {results['unfinished']} unfinished ones were left out" if results["unfinished"] else ""
        raise UserError(f"{', '.join(map(str, paths))}: no finished run to report on{left_out}")
    _separate_rows(results)
    return results


def run_folders(path: Path) -> list[Path]:
    """The run folder itself, or those of a sweep or runs folder. Raises UserError when there is none."""
    if (path / "run.json").is_file():
        return [path]
    order = list(_plan(path).get("cells", {}))
    found = sorted(file.parent for pattern in ("*/run.json", "*/*/run.json") for file in path.glob(pattern))
    found.sort(key=lambda folder: order.index(folder.name) if folder.name in order else len(order))
    if not found:
        raise UserError(f"{path}: no run there; expected a run folder, a sweep's folder or a results.json")
    return found


def read_results(path: Path) -> Results:
    """A results file written earlier. Raises UserError."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); expected a results.json of mast report") from error
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise UserError(f"{path}: not a results file of this version (expected format {FORMAT})")
    known = flatten(Config())  # a setting that came after the file was written had its default's meaning then
    results["configs"] = [{key: value for key, value in known.items() if key != "seed"} | c for c in results["configs"]]
    return results


def group_of(results: Results, run: dict[str, Any]) -> str:
    """map/algorithm/row: what a comparison's line is on one task."""
    config = results["configs"][run["config"]]
    return f"{config['env.map']}/{config['algorithm']}/{run['row']}"


def row_name(config: Config) -> str:
    """What a run outside any sweep is called: its method, and what differs from the method's ordinary row."""
    parts = [config.method]
    if config.sparse.agent_sparsity and config.sparse.agent_sparsity != 0.95:
        parts.append(f"{100 * config.sparse.agent_sparsity:g}%")
    if config.sparse.block.gru > 1:
        parts.append(f"gru {config.sparse.block.gru}x1")
    if config.net.hidden != 64 and config.method != "tiny":
        parts.append(f"hidden {config.net.hidden}")
    if config.train.weights_from:
        parts.append("warm")
    return " ".join(parts)


def _add_run(results: Results, folder: Path) -> None:
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if info.get("status") != "finished":
        results["unfinished"] += 1
        return
    config, plan = load_toml(folder / "config.toml"), _plan(folder.parent)
    label = plan.get("cells", {}).get(folder.name, {"row": row_name(config), "phase": "final"})
    flat = flatten(config)
    if flat["train.weights_from"]:  # seeds that start from runs of their own are one row
        flat["train.weights_from"] = "another run"
    evaluations = read_metrics(folder, "evaluation")
    summary = read_metrics(folder, "summary")
    run = {
        "name": folder.name,
        "row": label["row"],
        "phase": label["phase"],
        "sweep": plan.get("name"),
        "seed": flat.pop("seed"),
        "config": _config_index(results, flat),
        "curve": {column: [_rounded(row.get(column)) for row in evaluations] for column in COLUMNS},
        "idle": [[row["step"], _rounded(row["idle"])] for row in read_metrics(folder, "train") if "idle" in row],
        "wall_s": evaluations[-1]["elapsed_s"],
        "costs": {k: v for k, v in summary[-1].items() if k not in ("kind", "step", "elapsed_s")} if summary else None,
        "versions": info["sessions"][-1]["versions"],
        "env": info["spec"]["env"],
        "agent_types": info["spec"]["agent_types"],
    }
    if not _append(results, run) or run["phase"] != "final":
        return
    group = group_of(results, run)
    if group not in results["masks"]:
        masks = collect_masks(folder)
        if masks is not None:
            results["masks"][group] = masks
    if (folder / BENCH_FILE).is_file():
        results["bench"][group] = json.loads((folder / BENCH_FILE).read_text(encoding="utf-8"))


def _append(results: Results, run: dict[str, Any]) -> bool:
    """Add a run unless it is there already."""
    identity = ("row", "phase", "seed", "config", "curve")
    if any(all(other[key] == run[key] for key in identity) for other in results["runs"]):
        return False
    results["runs"].append(run)
    return True


def _merge(results: Results, other: Results) -> None:
    results["sources"] = other["sources"] if len(results["sources"]) == 1 else results["sources"]
    results["unfinished"] += other["unfinished"]
    for run in other["runs"]:
        _append(results, {**run, "config": _config_index(results, other["configs"][run["config"]])})
    for part in ("choices", "bench", "masks"):
        results[part] = {**other[part], **results[part]}


def _config_index(results: Results, flat: dict[str, Any]) -> int:
    if flat not in results["configs"]:
        results["configs"].append(flat)
    return results["configs"].index(flat)


def _separate_rows(results: Results) -> None:
    """Runs of one group but of different settings, as in sweeps of different lengths, become rows of their own."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["phase"] == "final":
            groups.setdefault(group_of(results, run), []).append(run)
    for key, runs in groups.items():
        configs = list(dict.fromkeys(run["config"] for run in runs))
        for index in configs[1:]:
            differs = _difference(results["configs"][configs[0]], results["configs"][index])
            for run in (run for run in runs if run["config"] == index):
                run["row"] = f"{run['row']} ({differs})"
                for part in ("bench", "masks"):
                    if run["name"] == results[part].get(key, {}).get("run"):
                        results[part][group_of(results, run)] = results[part].pop(key)


def _difference(first: dict[str, Any], second: dict[str, Any]) -> str:
    keys = [key for key in second if first.get(key) != second[key]]
    return ", ".join(f"{key.rpartition('.')[2]} {second[key]}" for key in keys[:2]) + ("..." if len(keys) > 2 else "")


def _plan(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "sweep.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def names(runs: Iterable[dict[str, Any]]) -> list[str]:
    """Where runs came from, for a picture's caption."""
    return sorted(f"{run['sweep']}/{run['name']}" if run["sweep"] else run["name"] for run in runs)
