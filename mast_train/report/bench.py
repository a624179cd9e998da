"""Latency and size of rows: a finished run of each is exported, and all of them are measured together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mast_runtime.bundle import write_atomically
from mast_train.report.collect import BENCH_FILE, collect, group_of, run_folders

ROUNDS = 11


def bench_runs(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Write bench.json into the first finished run of every row on every map. Raises UserError, ExportError.

    The last snapshot of each is exported, and every round measures every row once, so that a busy machine slows all of
    them alike.
    """
    from mast_export.export import export_run
    from mast_runtime import load
    from mast_runtime.measure.bench import TEAM
    from mast_runtime.measure.latency import measure_together
    from mast_runtime.measure.machine import describe_machine
    from mast_train.runs.folders import find_snapshot

    chosen = {folder: group for path in paths if path.is_dir() for group, folder in _first_runs(path)}
    files = {}
    for folder, group in chosen.items():
        say(f"{group}: exporting {folder.name}")
        (files[folder],) = export_run(folder, find_snapshot(folder, "last"), "mast", None, None, "f32")
    bundles = {str(folder): load(file.path) for folder, file in files.items()}
    measured, machine = measure_together(bundles, "native", ROUNDS, TEAM), describe_machine()
    for folder, group in chosen.items():
        own, team, dense = measured[str(folder)]
        found = {
            "run": folder.name,
            "latency_us": round(own.median_us, 4),
            "dense_latency_us": round(dense.median_us, 4),
            "team_latency_us": round(team.median_us, 4),
            "rounds_us": [round(value, 4) for value in own.rounds_us],
            "measured_s": round(own.measured_s, 3),
            "rows_together": len(chosen),
            "size_bytes": files[folder].size_bytes,
            "machine": machine.cpu,
        }
        write_atomically(folder / BENCH_FILE, (json.dumps(found) + "\n").encode())
        say(f"{group}: {found['latency_us']:.2f} us a decision, {found['size_bytes']:,} bytes ({folder.name})")


def _first_runs(path: Path) -> list[tuple[str, Path]]:
    """Group and folder of the first finished run of every row."""
    folders = {folder.name: folder for folder in run_folders(path)}
    results = collect([path])
    first = {group_of(results, run): run for run in reversed(results["runs"]) if run["phase"] == "final"}
    return [(group, folders[run["name"]]) for group, run in sorted(first.items())]
