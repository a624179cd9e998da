"""What a machine lacks is said in a line that installs it: of the distribution that is there."""

from __future__ import annotations

import io
import json
import platform
import sys
import warnings
from pathlib import Path

import pytest

import cli
from mast_runtime import commands, imports, native
from mast_runtime.backends import find_backend
from mast_runtime.console import new_console
from mast_runtime.errors import SlowWarning
from mast_runtime.imports import install_command
from mast_runtime.measure import doctor
from mast_runtime.shell import _format_warning

ROOT = Path(__file__).resolve().parent.parent
ARM = json.loads((ROOT / "benchmarks" / "results" / "arm.json").read_text())


@pytest.fixture
def installed(monkeypatch):
    """Which of our distributions are here."""
    return lambda *names: monkeypatch.setattr(imports, "_version", lambda name: "1.2" if name in names else "")


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(native, "_import_error", "No module named '_native'")


def test_the_command_that_installs_is_of_the_distribution_that_is_here(installed):
    for names in ((), ("mast-marl",)):
        installed(*names)
        assert install_command() == install_command(everything=True) == "pip install mast-marl"
        assert install_command("serve") == 'pip install "mast-marl[serve]"'
    installed("mast-runtime")
    assert install_command() == "pip install mast-runtime"
    assert install_command("serve") == 'pip install "mast-runtime[serve]"'
    assert install_command("train") == 'pip uninstall mast-runtime, then pip install "mast-marl[train]"'
    assert install_command(everything=True) == "pip uninstall mast-runtime, then pip install mast-marl"


def test_the_extras_of_the_robot_are_those_of_its_distribution():
    import tomllib

    project = tomllib.loads((ROOT / ".ci" / "mast-runtime" / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(imports.ROBOTS_EXTRAS)
    module, _, function = project["scripts"]["mast"].partition(":")
    assert module == commands.__name__ and function == commands.main.__name__


def test_every_command_is_the_robots_or_is_said_to_be_elsewhere(monkeypatch, capsys, installed):
    everything = {command.name for command in cli.app.registered_commands} | {
        group.name for group in cli.app.registered_groups
    }
    assert {function.__name__ for function in commands.COMMANDS} | set(commands.ELSEWHERE) == everything
    installed("mast-runtime")
    monkeypatch.setattr(sys, "argv", ["mast", "train", "--map", "3m"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: mast train needs mast-marl; pip uninstall mast-runtime, then pip install mast-marl\n"
    )


def first_line() -> str:
    console = new_console(file=io.StringIO(), width=200)
    doctor.print_checks(doctor.diagnose(), console)
    return console.file.getvalue().splitlines()[0]


def test_the_doctor_begins_with_what_a_missing_kernel_costs(no_kernel, monkeypatch):
    times = doctor.TIMES_SLOWER["aarch64"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    line = first_line()
    assert line.startswith(f"NO KERNEL: a decision takes about {times} times as long (No module named '_native'). ")
    assert "--only-binary :all: mast-runtime" in line and "apt install gcc python3-dev" in line
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert first_line().startswith("NO KERNEL and no numpy: no policy can run here")


def test_with_a_kernel_the_doctor_begins_with_its_table():
    assert "KERNEL" not in first_line()


@pytest.mark.parametrize("system", ARM)
def test_what_a_missing_kernel_costs_was_measured(system):
    """Within a third: an emulator on a busy machine measures no better."""
    machine = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}[system]
    measured = ARM[system]["decisions"]["over_kernel"]["reference"]
    assert doctor.TIMES_SLOWER[machine] == pytest.approx(measured, rel=1 / 3)


@pytest.mark.parametrize("system", ARM)
def test_the_systems_were_tried_without_numpy_and_passed(system):
    row = ARM[system]
    assert row["numpy"] is False and row["native"].startswith("native: ")
    assert row["bits"] == (32 if system == "armhf" else 64)
    assert row["selftest"] and all(
        text.split(": ")[1].split(" of ")[0] == text.split(" of ")[1] for text in row["selftest"]
    )


def test_both_distributions_at_once_are_noticed(installed):
    installed("mast-marl", "mast-runtime")
    (check,) = [check for check in doctor.diagnose() if check.name == "mast"]
    assert check.status == "warn" and check.detail.startswith("mast-marl 1.2 and mast-runtime 1.2: ")
    assert check.advice.startswith("pip uninstall mast-runtime mast-marl, then ")
    installed("mast-runtime")
    assert ("mast", "ok", "mast-runtime 1.2") in [(x.name, x.status, x.detail) for x in doctor.diagnose()]


def test_deciding_without_a_kernel_warns(no_kernel):
    with pytest.warns(SlowWarning, match="no compiled kernel here, and reference takes tens of times as long"):
        assert find_backend("auto")[0] == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_backend("reference")[0] == "reference"  # asked for


def test_our_warning_is_a_line_and_others_are_whole():
    assert _format_warning("slow", SlowWarning, "file.py", 3) == "warning: slow\n"
    assert "file.py:3: UserWarning: theirs" in _format_warning("theirs", UserWarning, "file.py", 3)
