"""The examples of a robot as a user starts them, and the ROS 2 package's files where no ROS 2 is at hand."""

from __future__ import annotations

import ast
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest
import typer
from bounded import bounded_bundle
from networks import random_bundle

import cli
from mast_runtime import save

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "examples" / "ros2" / "mast_policy"


@pytest.fixture
def policy(tmp_path):
    save(random_bundle(0, 2, obs_dim=4, n_actions=3, hidden=8), tmp_path / "p.mast")
    return tmp_path / "p.mast"


def robot_loop(policy, *options):
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", str(ROOT / "examples" / "robot_loop.py"), str(policy), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_loop_runs_as_a_command_for_a_while_or_until_a_signal(policy):
    out, errors = robot_loop(policy, "--rate", "200", "--seconds", "0.1").communicate(timeout=20)
    assert re.match(r"native|reference", out) and " at 200 a second: 20 decisions" in out and not errors
    endless = robot_loop(policy, "--max-age", "0.2")
    with pytest.raises(subprocess.TimeoutExpired):
        endless.wait(0.7)
    endless.send_signal(signal.SIGTERM)
    out, errors = endless.communicate(timeout=20)
    assert endless.returncode == 0 and " decisions" in out and not errors


def test_the_loop_runs_continuous_actions_and_refuses_a_stop_that_is_none(tmp_path):
    save(bounded_bundle(obs_dim=4, hidden=8), tmp_path / "arm.mast")
    options = "--agent", "2", "--rate", "200", "--seconds", "0.05"
    out, errors = robot_loop(tmp_path / "arm.mast", *options, "--stop-action", "3.5", "0").communicate(timeout=20)
    assert " at 200 a second: 10 decisions" in out and not errors
    refused = robot_loop(tmp_path / "arm.mast", *options, "--stop-action", "0", "0").communicate(timeout=20)[1]
    assert "expected 2 components, one within each of [3, 4] [-1, 1]" in refused


def parameters():
    tree = ast.parse((PACKAGE / "mast_policy" / "node.py").read_text())
    table = next(
        node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "PARAMETERS"
    )
    return ast.literal_eval(table.value)


def test_the_file_of_parameters_has_every_default():
    text = (PACKAGE / "config" / "policy.yaml").read_text()
    given = dict(re.findall(r"^    (\w+): +(\S+)", text, re.M))
    expected = {
        name: str(value).lower() if isinstance(value, bool) else str(value) or '""'
        for name, (value, _) in parameters().items()
    }
    assert given == expected


def test_the_launch_file_names_parameters_that_the_node_has(monkeypatch):
    """Against stand-ins: launch is not on PyPI."""
    made = {}
    names = {
        "launch": ["LaunchDescription"], "launch.actions": ["DeclareLaunchArgument"],
        "launch.substitutions": ["LaunchConfiguration"], "launch_ros": [], "launch_ros.actions": ["Node"],
    }  # fmt: skip

    def stand_in(kind):
        return lambda *args, **options: made.setdefault(kind, []).append((args, options)) or args

    for module, kinds in names.items():
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        for kind in kinds:
            setattr(sys.modules[module], kind, stand_in(kind))
    source = PACKAGE / "launch" / "policy.launch.py"
    space = {"__file__": str(source)}
    exec(compile(source.read_text(), str(source), "exec"), space)
    space["generate_launch_description"]()
    declared = {args[0] for args, _ in made["DeclareLaunchArgument"]}
    used = {args[0] for args, _ in made["LaunchConfiguration"]}
    file, own = made["Node"][0][1]["parameters"]
    assert used == declared == {"robot", file[0], *own} and set(own) <= parameters().keys()
    defaults = next(options["default_value"] for args, options in made["DeclareLaunchArgument"] if args[0] == file[0])
    assert Path(defaults).is_file()


def test_the_package_names_itself_and_what_it_imports():
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    needed = {element.text for element in root.findall("exec_depend")}
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "setup.py")
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, re.M))
    known = {name for name in imported if name not in sys.stdlib_module_names} - {"mast_runtime"}
    assert known <= needed and root.findtext("name") == PACKAGE.name
    assert (PACKAGE / "resource" / PACKAGE.name).exists()


UNITS = sorted((ROOT / "examples" / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "exposure"), [*zip(UNITS, (13, 46), strict=True)], ids=lambda value: getattr(value, "stem", "")
)
def test_systemd_takes_the_units_and_finds_little_exposed(unit, exposure, tmp_path):
    """exposure: at most so many tenths, of systemd-analyze's 100."""
    text = re.sub(r"/opt/mast/bin/\w+", "/bin/true", unit.read_text())
    (tmp_path / unit.name).write_text(re.sub("User=robot", "User=daemon", text))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True)
    assert done.returncode == 0 and unit.name not in done.stderr, done.stderr
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", tmp_path / unit.name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_units_settings_are_those_of_mast_serve():
    given = tomllib.loads((ROOT / "examples" / "systemd" / "serve.toml").read_text())
    serve = typer.main.get_command(cli.app).commands["serve"]
    assert {key.replace("-", "_") for key in given} <= {parameter.name for parameter in serve.params}
    container = (ROOT / "examples" / "systemd" / "Containerfile").read_text()
    known = {f"MAST_SERVE_{parameter.name.upper()}" for parameter in serve.params}
    assert set(re.findall(r"MAST_SERVE_\w+", container)) <= known
