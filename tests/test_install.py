"""What a robot installs: the base package alone, in an environment of its own, acts and serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from mast_runtime import __version__

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "3m.mast"
INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""What is imported is what was installed, not a checkout."""
HEAVY = "torch", "jax", "onnx", "onnxruntime", "mast_train.runs.run"


def install(folder: Path, extra: str, *options: str, **environment: str) -> Path:
    """A fresh virtual environment with a copy of this source installed; returns its bin folder. options: of pip."""
    source = folder / "source"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("benchmarks/results", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    pip = [folder / "env" / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    command = [*pip, *options, f"{source}{extra}"]
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / "env" / "bin"


def run(binary: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(binary), *arguments], cwd=cwd, env=INSTALLED, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """Base package and the serve extra, nothing else."""
    return install(tmp_path_factory.mktemp("robot"), "[serve]")


def test_base_install_acts_without_anything_heavy(robot, tmp_path):
    code = (
        "import sys, mast_runtime, numpy; p = mast_runtime.load(sys.argv[1]); a = p.agent(0); "
        "print(a.backend, a.act(numpy.zeros(p.contract.obs_dim, 'f4'))); "
        f"assert not set({HEAVY!r}) & set(sys.modules)"
    )
    out = run(robot / "python", "-c", code, str(GOLDEN), cwd=tmp_path)
    assert out.returncode == 0 and out.stdout.startswith("native "), out.stdout + out.stderr
    packages = run(robot / "pip", "list", "--format", "json", cwd=tmp_path).stdout
    assert not {"torch", "jax", "onnx", "onnxruntime"} & {package["name"] for package in json.loads(packages)}


def test_base_install_inspects_measures_and_says_what_is_missing(robot, tmp_path):
    assert run(robot / "mast", "inspect", str(GOLDEN), cwd=tmp_path).returncode == 0
    bench = run(robot / "mast", "bench", str(GOLDEN), "--rounds", "1", "--json", cwd=tmp_path)
    assert {row["backend"] for row in json.loads(bench.stdout)["latency"]} == {"native", "reference"}
    train = run(robot / "mast", "train", "--map", "3m", cwd=tmp_path)
    assert train.returncode == 2 and train.stderr.count("\n") == 1 and 'pip install "mast-marl[train]"' in train.stderr
    onnx = run(robot / "mast", "bench", str(GOLDEN), "--backend", "onnx", cwd=tmp_path)
    assert onnx.returncode == 2 and 'pip install "mast-marl[export]"' in onnx.stderr


OWNER = "import importlib.util as u; print(u.find_spec('cli'), u.find_spec('mast_cli').origin)"
"""Who has the name cli, and where the command line lies."""


def test_the_command_line_leaves_the_name_cli_to_others(robot, tmp_path):
    """cli.py of the repository is installed under a name of ours, and is the command."""
    cli, ours = run(robot / "python", "-c", OWNER, cwd=tmp_path).stdout.split()
    assert cli == "None" and Path(ours).parent.name == "site-packages"
    assert Path(ours).read_bytes() == (ROOT / "cli.py").read_bytes()
    assert run(robot / "mast", "--version", cwd=tmp_path).stdout == f"mast {__version__}\n"


def test_doctor_on_a_robot_speaks_of_running_policies(robot, tmp_path):
    text = run(robot / "mast", "doctor", cwd=tmp_path).stdout
    assert "native kernel" in text and 'onnx, onnxruntime: pip install "mast-marl[export]"\n' in text
    assert "torch" not in text and "mast doctor --train" in text
    assert 'pip install "mast-marl[train]"' in run(robot / "mast", "doctor", "--train", cwd=tmp_path).stdout


def test_an_editable_install_runs_the_file_of_the_repository(tmp_path):
    binary = install(tmp_path, "", "--editable", CC="/bin/false", CXX="/bin/false")
    cli, ours = run(binary / "python", "-c", OWNER, cwd=tmp_path).stdout.split()
    assert cli == "None" and Path(ours) == tmp_path / "source" / "cli.py"
    assert run(binary / "mast", "--version", cwd=tmp_path).stdout == f"mast {__version__}\n"
    assert run(binary / "mast", "inspect", str(GOLDEN), cwd=tmp_path).returncode == 0


def test_base_install_serves(robot, tmp_path):
    server = subprocess.Popen(
        [str(robot / "mast"), "serve", str(GOLDEN), "--port", "0"],
        cwd=tmp_path,
        env=INSTALLED,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
        assert json.load(urllib.request.urlopen(f"{url}/v2", timeout=10))["name"]
        modules = Path(f"/proc/{server.pid}/maps").read_text()
        assert "libtorch" not in modules and "jaxlib" not in modules
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_install_without_a_compiler_still_acts(tmp_path):
    binary = install(tmp_path, "", CC="/bin/false", CXX="/bin/false")
    code = (
        "import sys, mast_runtime, numpy; a = mast_runtime.load(sys.argv[1]).agent(0); "
        "print(a.backend, a.act(numpy.zeros(75)))"
    )
    out = run(binary / "python", "-c", code, str(GOLDEN), cwd=tmp_path)
    assert out.returncode == 0 and out.stdout.startswith("reference "), out.stdout + out.stderr
    assert (
        "not"
        in run(binary / "python", "-c", "import mast_runtime; print(mast_runtime.native_status())", cwd=tmp_path).stdout
    )
    packages = json.loads(run(binary / "pip", "list", "--format", "json", cwd=tmp_path).stdout)
    assert {"name": "mast-marl", "version": f"{__version__}+no.kernels"} in packages
