"""The command line means the same with typer and without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import without_numpy

ROOT = Path(__file__).resolve().parent.parent
LINES = """selftest
selftest p.mast
selftest --json p.mast
selftest p.mast --json --agent 2 --robot-log x.csv
selftest --agent=2 -- p.mast
selftest --agent -1 p.mast
selftest --json --json
selftest --robot-log a --robot-log b
bench --backend native --backend reference --rounds 3 --full
inspect -
inspect --png x.png p.mast --runs elsewhere
serve p.mast --port 0 --host 0.0.0.0 --deadline 0.5
serve
serve --idle-limit nan
serve --config serve.toml
serve --config serve.toml --port 1
doctor
doctor --train
export --format c -o out --agent 1
export --output out run
export -oout
import a.npz b.npz -o c --sparsity 0.9 --last-action
report a b c -o d
train --steps 5e5 --set a=b --set c=d --shared --seed 3 --env smax --map 3m
sweep file.toml --dry-run
eval --episodes 3 --random --set a=1
play p --fps 20 --html x.html
runs elsewhere --json
--help
--version
--version selftest
selftest --help""".splitlines()
MISTAKES = """selftest a b
selftest --agent
selftest --agent x
selftest --age 1
selftest --nothing
selftest --json=1
bench --rounds 0
bench --rounds 1.5
bench p.mast --rounds 1 q.mast
serve --port 65536
serve --port -1
serve --config bad.toml
serve --config nowhere.toml
import
report
train --steps x
train --seeds 0
play p --fps 100
nothing
--versoin
-x""".splitlines()
ENVIRONMENT = {"MAST_SERVE_HOST": "1.2.3.4", "MAST_SERVE_POLICY": "env.mast", "MAST_SERVE_MAX_SEQUENCES": "7"}


def test_every_line_is_read_alike(tmp_path, monkeypatch):
    """The same arguments, of the same types, to the same command; or one line, where to read on, and exit code 2."""
    (tmp_path / "serve.toml").write_text('port = 9000\nidle-limit = 5\nbackend = "native"\n')
    (tmp_path / "bad.toml").write_text("prot = 9000\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mast"])
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")  # and put back at the end: `parsed` sets it
    lines = [line.split() for line in LINES + MISTAKES]
    given = json.dumps(lines), json.dumps(ENVIRONMENT)
    command = [sys.executable, str(ROOT / "tests" / "without_numpy.py"), "parsed", *given]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    light = json.loads(done.stdout)
    for line, without, typer in zip(lines, light, without_numpy.parsed(lines, ENVIRONMENT), strict=True):
        call, printed, said, code = without
        assert [call, printed, code] == [typer[0], typer[1], typer[3]], line
        assert bool(said) == bool(typer[2]) == (code == 2) == (" ".join(line) in MISTAKES), (line, said)
        assert said.count("\n") == (code == 2), said
    assert [call for call, *_ in light[:2]] == [
        ["selftest", {"agent": "int 0", "json_": "bool False", "policy": policy, "robot_log": "NoneType None",
                      "runs": "PosixPath runs"}] for policy in ("NoneType None", "str p.mast")]  # fmt: skip
    assert light[LINES.index("serve --config serve.toml --port 1")][0][1]["port"] == "int 1"
    assert light[LINES.index("serve --config serve.toml")][0][1]["port"] == "int 9000"
    assert light[LINES.index("serve")][0][1]["policy"] == "str env.mast"
