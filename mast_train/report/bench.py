"""Latency and size of rows: one finished run of each is exported and measured; the numbers stay in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mast_runtime.bundle import write_atomically
from mast_train.report.collect import BENCH_FILE, collect, group_of, run_folders


def bench_runs(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Write bench.json into the first finished run of every row on every map. Raises UserError, ExportError."""
    from mast_export.export import export_run
    from mast_runtime import load
    from mast_runtime.bench import bench
    from mast_train.runs import find_snapshot

    for path in paths:
        folders = {folder.name: folder for folder in run_folders(path)} if path.is_dir() else {}
        if not folders:
            continue
        results = collect([path])
        first = {group_of(results, run): run for run in reversed(results["runs"]) if run["phase"] == "final"}
        for group, run in sorted(first.items()):
            folder = folders[run["name"]]
            if (folder / BENCH_FILE).is_file():
                continue
            (file,) = export_run(folder, find_snapshot(folder, "last"), "mast", None, None, "f32")
            result = bench(load(file.path), ["native"], startup_rounds=0)
            rows = {(row.weights, row.agents > 1): row for row in result.latency}
            own = "sparse" if ("sparse", False) in rows else "dense"
            found = {
                "run": run["name"],
                "latency_us": round(rows[own, False].median_us, 4),
                "dense_latency_us": round(rows["dense", False].median_us, 4),
                "team_latency_us": round(rows[own, True].median_us, 4),
                "size_bytes": result.sizes[0].size_bytes,
                "machine": result.machine.cpu,
            }
            write_atomically(folder / BENCH_FILE, (json.dumps(found) + "\n").encode())
            say(f"{group}: {found['latency_us']:.2f} us a decision, {found['size_bytes']:,} bytes ({run['name']})")
