"""The doctor reports, and never raises."""

import io
import json
import subprocess
import sys

import pytest
import smac_python
from typer.testing import CliRunner

from cli import app
from mast_runtime.console import new_console
from mast_runtime.measure import doctor as runtime
from mast_runtime.measure.doctor import Check
from mast_train.commands import doctor
from mast_train.envs import starcraft


def test_importing_the_doctor_loads_nothing_heavy():
    code = (
        "import sys, mast_train.commands.doctor; "
        "print([m for m in ('torch', 'jax', 'onnx', 'smac') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in runtime.diagnose() + doctor.diagnose_training()}


def test_every_check_has_a_finding_and_the_bad_ones_advice(checks):
    assert list(checks) == [name for name, _, _ in runtime.RUNTIME + doctor.TRAINING]
    for check in checks.values():
        assert check.status in ("ok", "warn", "missing")
        assert check.detail and "\n" not in check.detail
        assert bool(check.advice) == (check.status != "ok")


def test_what_these_tests_run_on_is_found(checks):
    for name in ("Python", "numpy", "safetensors", "torch", "jax", "jaxmarl"):
        assert checks[name].status == "ok"
    assert checks["numpy"].detail.startswith("numpy ")
    assert "six" in checks["jaxmarl"].detail


def run(name: str) -> Check:
    return next(check for check in runtime.diagnose() + doctor.diagnose_training() if check.name == name)


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    check = run("serve")
    assert check.status == "missing" and "uvicorn" in check.detail
    assert check.advice == 'pip install "mast-marl[serve]"'


@pytest.mark.parametrize("error", ["RuntimeError('no\\ndriver')", "ImportError('libcuda.so')", "SystemExit(1)"])
def test_a_broken_package_is_a_finding(tmp_path, monkeypatch, error):
    (tmp_path / "onnxruntime.py").write_text(f"raise {error}")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    check = run("onnxruntime")
    assert check.status == "missing" and check.detail.startswith("broken: ") and "\n" not in check.detail
    assert check.advice


def test_the_game_its_binary_and_its_maps(tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    assert run("StarCraft II").status == run("SMAC maps").status == "missing"
    assert str(tmp_path) in run("StarCraft II").detail and "SC2PATH" in run("StarCraft II").advice
    smac_python.lay_out_game(tmp_path, 75689, 69232)
    assert run("StarCraft II").status == "missing" and "there is no" in run("StarCraft II").detail
    binary = tmp_path / "Versions" / "Base75689" / "SC2_x64"
    binary.touch()
    assert "cannot be executed" in run("StarCraft II").detail
    binary.chmod(0o755)
    assert run("StarCraft II").status == "ok" and run("StarCraft II").detail.startswith("4.10 (Base75689)")
    assert run("SMAC maps").status == "warn" and "2c_vs_64zg" in run("SMAC maps").detail
    for name in starcraft.ALLIES:
        (tmp_path / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    assert run("SMAC maps").status == "ok" and "all 23" in run("SMAC maps").detail


def test_smac_is_looked_at_in_its_own_python(tmp_path, monkeypatch):
    monkeypatch.setenv("SC2PATH", str(smac_python.lay_out_game(tmp_path / "game", 75689)))
    monkeypatch.setenv("MAST_SMAC_PYTHON", str(smac_python.make(tmp_path / "python")))
    check = run("smac")
    assert check.status == "ok" and "SMAC 1.0.0, PySC2 4.0.0, protobuf 3.20.3 (cpp), Python 3." in check.detail
    assert str(tmp_path / "python") in check.detail
    (site,) = tmp_path.glob("python/lib/python3*/site-packages")
    (site / "google/protobuf/internal/api_implementation.py").write_text("def Type():\n    return 'python'\n")
    assert run("smac").status == "warn" and "steps take longer" in run("smac").detail
    (site / "pysc2" / "maps.py").write_text("import websocket_that_is_not_there")
    check = run("smac")
    assert (
        check.status == "missing" and "websocket_that_is_not_there" in check.detail and "smac install" in check.advice
    )
    monkeypatch.setenv("MAST_SMAC_PYTHON", "/nowhere/python")
    assert "MAST_SMAC_PYTHON = /nowhere/python" in run("smac").detail


def test_a_smac_beside_us_is_named(tmp_path, monkeypatch):
    assert run("protobuf").status == "ok"
    (tmp_path / "smac" / "env" / "starcraft2").mkdir(parents=True)
    (tmp_path / "smac" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "version", lambda name: "3.20.3")
    check = run("protobuf")
    assert check.status == "warn" and "protobuf 3.20.3" in check.detail and "pip uninstall smac" in check.advice


@pytest.mark.parametrize(("error", "status"), [("No module named '_native'", "warn"), ("", "ok")])
def test_the_native_kernel(monkeypatch, error, status):
    from mast_runtime import native

    monkeypatch.setattr(native, "_import_error", error)
    assert run("native kernel").status == status


def test_without_torch_the_runtime_comes_first_and_training_only_if_asked(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    names, training = ({x[0] for x in probes} for probes in (runtime.RUNTIME, doctor.TRAINING))
    for arguments, expected in ((["--json"], names), (["--json", "--train"], names | training)):
        found = json.loads(CliRunner().invoke(app, ["doctor", *arguments]).stdout)
        assert {check["name"] for check in found} == expected
    assert "mast doctor --train" in CliRunner().invoke(app, ["doctor"]).stdout
    assert "mast doctor --train" not in CliRunner().invoke(app, ["doctor", "--train"]).stdout


def shown(checks: list[Check]) -> str:
    console = new_console(file=io.StringIO(), width=200)
    runtime.print_checks(checks, console)
    return console.file.getvalue()


def test_advice_is_printed_as_it_is():
    text = shown([Check("torch [cpu]", "missing", "not found in [/opt]", 'pip install "mast-marl[train]"')])
    assert 'torch [cpu]: pip install "mast-marl[train]"\n' in text and "[/opt]" in text
