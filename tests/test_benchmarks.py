"""The benchmark scripts start, and the smallest run of those that learners pass through ends with its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text())
HELP = """
import contextlib, io, runpy, sys
here = list(sys.path)
for path in sys.argv[1:]:
    sys.argv, sys.path = [path, "--help"], [path.rpartition("/")[0], *here]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as left:
        assert not left.code, (path, left.code)
    assert "usage:" in shown.getvalue(), path
"""


def run(*arguments: str | Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
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
