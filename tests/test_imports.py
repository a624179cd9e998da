"""Packages that are installed and cannot be imported end no run, and are named in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mast_runtime import imports
from mast_runtime.backends import installed_backends
from mast_runtime.imports import broken_package, importable, why

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "tests" / "data" / "3m.mast"
PROTOBUF = """
raise TypeError(
    "Descriptors cannot be created directly.\\nIf this call came from a _pb2.py file, your code is out of date."
)
"""
SMALL = ("--env", "matrix", "--method", "dense", "--steps", "40", "--set", "net.hidden=4", "--name", "small")


def break_packages(folder: Path, *names: str) -> Path:
    """A folder that comes first on the path, in which these packages fail as with an old protobuf."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("import " + name + ".inner\n")
        (folder / name / "inner.py").write_text(PROTOBUF)
    return folder


def mast(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_a_run_goes_on_without_tensorboard(tmp_path):
    done = mast(break_packages(tmp_path / "site", "tensorboard"), "train", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "TensorBoard" in line]
    assert "metrics.jsonl has the same numbers: TypeError: Descriptors cannot be created directly." in line
    rows = [json.loads(row) for row in (tmp_path / "runs" / "small" / "metrics.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"train", "evaluation", "summary"}


def test_a_command_names_the_package_that_it_needs(tmp_path):
    site = break_packages(tmp_path / "site", "onnx", "onnxruntime")
    refused = mast(site, "bench", str(POLICY), "--backend", "onnx", cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "backend 'onnx' needs onnx and onnxruntime, which cannot be imported: TypeError" in refused.stderr
    site = break_packages(tmp_path / "torch", "torch")
    refused = mast(site, "eval", str(POLICY), cwd=tmp_path)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr
    assert "mast eval needs torch, which cannot be imported: TypeError: Descriptors" in refused.stderr


def test_a_broken_engine_is_left_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(break_packages(tmp_path, "onnxruntime"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    assert "onnx" not in installed_backends() and not importable("onnxruntime") and importable("json")


def test_only_a_package_that_was_being_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(break_packages(tmp_path, "brittle"))
    with pytest.raises(TypeError) as raised:
        import brittle  # noqa: F401  # pyright: ignore[reportMissingImports]
    assert broken_package(raised.value, {"brittle", "onnx"}) == "brittle"
    assert broken_package(raised.value, {"onnx"}) is None
    with pytest.raises(TypeError) as raised:
        json.dumps(object())
    assert broken_package(raised.value, {"json"}) is None


def test_the_reason_is_one_short_line_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(imports, "_version", lambda name: {"protobuf": "6.1"}.get(name, ""))
    assert why(TypeError("\n first\nsecond")) == "TypeError: first"
    assert len(why(ImportError("x" * 1000))) == imports.MAX_CHARACTERS
    monkeypatch.setattr(imports, "_version", lambda name: {"protobuf": "3.20.3", "smac": "1.0.0"}.get(name, ""))
    assert "SMAC wants it so: pip uninstall smac pysc2, pip install --upgrade protobuf; mast smac" in why(
        TypeError("x")
    )
    monkeypatch.setattr(imports, "_version", lambda name: {"protobuf": "3.20.3"}.get(name, ""))
    assert why(TypeError("x")) == "TypeError: x (protobuf 3.20.3 is old; pip install --upgrade protobuf)"
