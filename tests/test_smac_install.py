"""Which Python plays battles, and the making of one; what is missing is named in turn."""

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import smac_python
import torch

from mast_train.commands import smac
from mast_train.envs import make_env, smac_process, starcraft
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine: no game, no SMAC, and packages are looked up in tmp_path/site first."""
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(smac_process.VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path


@pytest.fixture
def source(tmp_path):
    """A folder with the parts of SMAC's source that the installation looks at."""
    folder = tmp_path / "source"
    maps = folder / "smac" / "env" / "starcraft2" / "maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    (maps / "3m.SC2Map").write_text("map")
    (folder / "setup.py").touch()
    return folder


@pytest.fixture
def pip(monkeypatch):
    """pip that reaches nothing: the last thing that it is asked for brings the stand-in for SMAC."""
    asked = []
    monkeypatch.setattr(smac, "VENV", ("-m", "venv", "--without-pip"))

    def install(folder: Path, what: list[str], log: Path) -> None:
        asked.append(what)
        if len(asked) == 3:
            smac_python.fill(folder)

    monkeypatch.setattr(smac, "_pip", install)
    return asked


def complaint(**options) -> str:
    with pytest.raises(UserError) as error:
        make_env("smac", "3m", 1, 0, CPU, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def beside_us(folder: Path, *parts: str) -> None:
    folder.joinpath("site", "smac", *parts).mkdir(parents=True)
    (folder / "site" / "smac" / "__init__.py").touch()
    importlib.invalidate_caches()


def test_what_is_missing_is_named_in_turn(machine):
    assert "mast smac install" in complaint()
    beside_us(machine, "env", "starcraft2")
    assert "SC2PATH" in complaint() and str(machine / "game") in complaint()
    (machine / "game" / "Versions" / "Base69232").mkdir(parents=True)
    assert str(machine / "game" / "Maps" / "SMAC_Maps") in complaint()


def test_the_other_package_called_smac_is_recognised(machine):
    beside_us(machine, "facade")
    assert "SMAC3" in complaint() and "mast smac install" in complaint()


def test_a_python_that_cannot_play_is_named(machine, monkeypatch):
    smac_python.lay_out_game(machine / "game", 75689)
    assert "env.options.python = /nowhere: expected a Python" in complaint(python="/nowhere")
    assert "there is no SMAC in" in complaint(python=sys.executable)
    (machine / "text").write_text("no program")
    (machine / "text").chmod(0o755)
    assert "text cannot be started (Exec format error)" in complaint(python=str(machine / "text"))
    assert "stopped with exit code 1" in complaint(python="/bin/false")
    assert "answered nonsense" in complaint(python="/bin/echo")
    monkeypatch.setenv(smac_process.VARIABLE, "/elsewhere")
    assert "MAST_SMAC_PYTHON = /elsewhere" in complaint()


def test_the_python_is_found_in_this_order(machine, monkeypatch):
    made = {name: machine / name for name in ("option", "variable")}
    for path in made.values():
        path.touch()
        path.chmod(0o755)
    beside_us(machine, "env", "starcraft2")
    assert smac_process.find_python() == sys.executable
    installed = smac_process.python_in(machine / "data" / "mast" / "smac")
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert smac_process.find_python() == str(installed)
    monkeypatch.setenv(smac_process.VARIABLE, str(made["variable"]))
    assert smac_process.find_python() == str(made["variable"])
    assert smac_process.find_python(str(made["option"])) == str(made["option"])


def test_game_version_is_the_highest_build(machine):
    game = machine / "game"
    assert starcraft.game_version(game) is None
    for builds, version in ((("69232", "X"), "4.6.2 (Base69232)"), (("75689",), "4.10 (Base75689)")):
        for build in builds:
            (game / "Versions" / f"Base{build}").mkdir(parents=True)
        assert starcraft.game_version(game) == version
    (game / "Versions" / "Base90000").mkdir()
    assert starcraft.game_version(game) == "Base90000"


def test_an_installation_says_what_it_does_and_is_found(machine, source, pip):
    said = []
    smac_python.lay_out_game(machine / "game", 75689)
    (machine / "game" / "Maps" / "SMAC_Maps" / "3m.SC2Map").unlink()
    python = smac.install(None, sys.executable, str(source), said.append)
    assert [line[:3] for line in said] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert str(python) == smac_process.find_python()
    assert "SMAC 1.0.0, PySC2 4.0.0, protobuf 3.20.3 (cpp)" in said[3]
    assert "1 copied to" in said[4] and starcraft.maps_path(machine / "game")
    assert pip[:2] == [list(smac.PACKAGES), ["--no-deps", "pysc2==4.0.0"]] and pip[2][0] == "--no-deps"
    assert [path.name for path in (machine / "data" / "mast").iterdir()] == ["smac"]
    env = make_env("smac", "3m", 1, 0, CPU, {})
    env.reset()
    env.close()


def test_an_archive_is_a_source_and_another_folder_is_named_as_a_setting(machine, source, pip):
    archive = machine / "smac.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in source.rglob("*"):
            packed.write(path, Path("smac-d6aab33") / path.relative_to(source))
    said = []
    python = smac.install(machine / "there", sys.executable, archive.as_uri(), said.append)
    assert said[-1] == f"Use it with --set env.options.python={python}, or MAST_SMAC_PYTHON={python}"
    assert str(machine / "game") in said[4] and "no game" in said[4]


def test_each_step_that_fails_is_one_line_and_leaves_what_was_there(machine, source, pip, monkeypatch):
    def failing(*arguments) -> str:
        with pytest.raises(UserError) as error:
            smac.install(*arguments, lambda line: None)
        assert "\n" not in str(error.value)
        return str(error.value)

    kept = machine / "data" / "mast" / "smac"
    kept.mkdir(parents=True)
    (kept / "pyvenv.cfg").write_text("an earlier one")
    old = machine / "python3.7"
    old.write_text("#!/bin/sh\necho 3 7\n")
    old.chmod(0o755)
    assert "is Python 3.7; 3.8 or later is needed" in failing(None, str(old), None)
    assert "--python nothing-like-it: not found" in failing(None, "nothing-like-it", None)
    assert "cannot be read from /nowhere.zip" in failing(None, sys.executable, "/nowhere.zip")
    assert "not SMAC's source" in failing(None, sys.executable, str(machine / "data"))
    assert "holds something else" in failing(source, sys.executable, None)
    monkeypatch.setattr(smac_python, "FILES", {})
    pip.clear()
    assert "cannot be imported" in failing(None, sys.executable, str(source))
    assert (kept / "pyvenv.cfg").read_text() == "an earlier one" and not kept.with_name("smac.new").exists()


def test_pip_fails_in_one_line(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(UserError) as error:
        smac._run([sys.executable, "-c", "print('ERROR: no such thing\\nbye'); exit(1)"], "pip cannot install it", log)
    assert str(error.value) == f"pip cannot install it: ERROR: no such thing (all of it: {log})"
    assert "bye" in log.read_text()


def test_the_command_line(machine):
    root = Path(smac.__file__).parent.parent.parent
    command = [sys.executable, str(root / "cli.py"), "smac", "install", "--python", "nothing-like-it"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 2 and done.stderr == "error: --python nothing-like-it: not found\n"
