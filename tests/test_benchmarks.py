"""The benchmark scripts start, and the smallest run of those that learners pass through ends with its table."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
HELP = """
import contextlib, io, runpy, sys
here = list(sys.path)
for path in sys.argv[1:]:
    sys.argv, sys.path, shown = [path, "--help"], [path.rpartition("/")[0], *here], io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as left:
        assert not left.code, (path, left.code)
    assert "usage:" in shown.getvalue() or "__main__" not in open(path).read(), path
"""


def run(*arguments: str | Path, cwd: Path, limit_s: float = 120) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_script_says_how_it_is_used(tmp_path):
    assert len(SCRIPTS) > 10
    run("-c", HELP, *SCRIPTS, cwd=tmp_path)


def test_one_update_and_its_parts(tmp_path):
    given = "--rounds", "1", "--maps", "3m", "--hidden", "16", "--clock", "cpu", "--profile", "--json", "update.json"
    assert "evolving update" in run(ROOT / "benchmarks" / "update.py", *given, cwd=tmp_path)
    (cell,) = json.loads((tmp_path / "update.json").read_text())["results"]
    parts = {"update", "agents", "target agents", "mixers", "optimiser", "evolving update"}
    assert set(cell["median_ms"]) == parts and all(times["sparse native"] > 0 for times in cell["median_ms"].values())


def test_the_gpu_benchmark_without_a_gpu(tmp_path):
    """Each stage that needs no compilation, at the smallest sizes; a second call has nothing left to do."""
    given = (
        "--device",
        "cpu",
        "--tiny",
        "--json",
        "gpu.json",
        "--seconds",
        "3000",
        "--stages",
        "update",
        "packed",
        "train",
    )
    run(ROOT / "benchmarks" / "gpu.py", *given, cwd=tmp_path, limit_s=3100)
    stages = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(given[-3:], "done")
    assert all(row["ms"] > 0 for row in stages["update"]["rows"].values())
    assert stages["packed"]["rows"]["16 dense 2"]["gain"] > 0
    assert stages["train"]["rows"]["tiny 2"]["env_steps_per_s"] > 0
    again = run(ROOT / "benchmarks" / "gpu.py", *given, cwd=tmp_path)
    assert "at most" not in again and "update, ms" in again


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu")
    for name in [name for name in sys.modules if name == "gpu" or name.startswith("gpu_")]:
        del sys.modules[name]


def options(tmp_path: Path, **given) -> argparse.Namespace:
    usual = {"seconds": 100.0, "again": False, "json": tmp_path / "gpu.json", "device": "cpu", "tiny": True}
    return argparse.Namespace(**{**usual, "jaxmarl": None, "stages": ["card", "smax", "train"], **given})


def test_stages_share_the_time_survive_each_other_and_are_not_repeated(gpu, tmp_path, monkeypatch):
    limits = {}

    def run_apart(stage, rows, options, limit_s):
        limits[stage] = limit_s
        found = json.loads(rows.read_text())
        rows.write_text(json.dumps({**found, "a": {"ms": 1.0}, **({"b": {"error": "no"}} if stage == "smax" else {})}))
        return "timed out" if stage == "card" else "done"

    monkeypatch.setattr(gpu, "run_apart", run_apart)
    found = {"train": {"status": "timed out", "rows": {"before": {"ms": 2.0}}}}
    gpu.run_all(options(tmp_path), found)
    kept = json.loads((tmp_path / "gpu.json").read_text())["stages"]
    assert {name: stage["status"] for name, stage in kept.items()} == {
        "train": "done", "card": "timed out", "smax": "failed"
    }  # fmt: skip
    assert kept["train"]["rows"] == {"before": {"ms": 2.0}, "a": {"ms": 1.0}}
    assert limits["card"] == pytest.approx(100 * 15 / 120, abs=0.5) and limits["train"] == pytest.approx(100, abs=2)
    limits.clear()
    gpu.run_all(options(tmp_path), kept)
    assert list(limits) == ["card", "smax"]


def test_a_stage_that_takes_too_long_is_ended(gpu, tmp_path):
    (tmp_path / "rows.json").write_text("{}")
    started = time.monotonic()
    assert gpu.run_apart("card", tmp_path / "rows.json", options(tmp_path), 0.5) == "timed out"
    assert time.monotonic() - started < 20


def test_the_table_says_what_is_wrong(gpu):
    updates = {"64 dense graph 8": {"ms": 7.831, "replay_ms": 6.26}, "64 dense graph 64": {"error": "out of memory"}}
    battles = {"jax 16": {"plain_ms": 1.255, "graphs_ms": 0.385, "same_bits": False}}
    found = {"update": {"status": "failed", "rows": updates}, "smax": {"status": "done", "rows": battles}}
    lines = gpu.table(found)
    assert "7.83 (6.26)" in lines[1] and "failed" in lines[1] and "out of memory" in lines[2]
    assert "1.255" in lines[4] and "GRAPHS DIFFER" in lines[4]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_line(gpu, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        gpu.run_all(options(tmp_path, device="cuda"), {})
    assert left.value.code == 2 and "no CUDA GPU" in capfd.readouterr().err


def test_rows_are_kept_at_once_and_made_once(gpu, tmp_path, capsys):
    rows = gpu.Rows(tmp_path / "rows.json", 60.0)
    rows.measure("good", lambda: {"ms": 1.25})
    rows.measure("bad", lambda: {"ms": 1 / 0})
    rows.measure("late", lambda: {"ms": 1.0}, needs_s=100.0)
    rows.keep("half", {"ms": 3.0, "unfinished": True})
    later = gpu.Rows(tmp_path / "rows.json", 60.0)
    assert set(later.found) == {"good", "bad", "half"} and rows.skipped == 1
    assert "ZeroDivisionError" in later.found["bad"]["error"] and "good: ms 1.25" in capsys.readouterr().out
    for name in ("good", "bad", "half", "late"):
        later.measure(name, lambda: {"ms": 9.0})
    assert not list(tmp_path.glob("*.at"))
    assert [later.found[name]["ms"] for name in ("good", "bad", "half", "late")] == [1.25, 9.0, 9.0, 9.0]


def test_a_row_that_breaks_its_process_holds_up_no_other(gpu, tmp_path, monkeypatch):
    """It is tried twice; one that hangs, once a call, and not where rows before it took of its time."""
    rows, ends = sys.modules["gpu_rows"], ["exit -11", "exit -11", "timed out", "timed out", "timed out"]

    def run_apart(stage, path, options, limit_s):
        found = rows.Rows(path, limit_s)
        for name in ("a", "broken", "c"):
            if name == "broken" and not found.has(name):
                found.begin(name)
                return ends.pop(0)
            found.measure(name, lambda: {"ms": 1.0})
        return "done"

    monkeypatch.setattr(gpu, "run_apart", run_apart)
    broken = gpu.run_stage("update", {}, options(tmp_path), 100.0, tmp_path)
    assert broken["status"] == "failed" and broken["rows"]["c"] == {"ms": 1.0}
    assert broken["rows"]["broken"] == {"error": "exit -11", "tries": 2}
    hanging = gpu.run_stage("update", {}, options(tmp_path), 100.0, tmp_path)
    assert hanging["status"] == "timed out" and set(hanging["rows"]) == {"a", "broken"}
    tries = [hanging["rows"]["broken"]["tries"]]
    while hanging["status"] == "timed out":
        hanging = gpu.run_stage("update", hanging, options(tmp_path), 100.0, tmp_path)
        tries.append(hanging["rows"]["broken"]["tries"])
    assert tries == [0, 1, 2, 2] and hanging["rows"]["c"] == {"ms": 1.0} and not ends


def test_a_row_cut_after_another_broke_its_process_has_not_failed(gpu, tmp_path, monkeypatch):
    """It had what the other left of the stage's time."""
    rows, ends = sys.modules["gpu_rows"], ["exit -11", "timed out"]

    def run_apart(stage, path, options, limit_s):
        rows.Rows(path, limit_s).begin("a" if len(ends) == 2 else "b")
        return ends.pop(0)

    monkeypatch.setattr(gpu, "run_apart", run_apart)
    found = gpu.run_stage("update", {}, options(tmp_path), 100.0, tmp_path)["rows"]
    assert found == {"a": {"error": "exit -11", "tries": 1}, "b": {"error": "timed out", "tries": 0}}


def test_a_broken_device_ends_the_stage_at_its_row(gpu, tmp_path, monkeypatch):
    rows = sys.modules["gpu_rows"]
    monkeypatch.setattr(rows, "broken", lambda: True)
    found = rows.Rows(tmp_path / "rows.json", 60.0)
    found.measure("good", lambda: {"ms": 1.0})
    with pytest.raises(rows.Broken):
        found.measure("bad", lambda: {"ms": 1 / 0})
    assert found.found["bad"]["tries"] == 1 and rows.ended_at(tmp_path / "rows.json", f"exit {rows.BROKEN}", True)
