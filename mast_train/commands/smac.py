"""`mast smac install`: a Python of its own for SMAC, whose protobuf below 3.21 can live beside little else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mast_train.envs import smac_process, starcraft
from mast_train.settings.errors import UserError, reason

COMMIT = "d6aab33f76abc3849c50463a8592a84f59a5ef84"
SOURCE = f"https://github.com/oxwhirl/smac/archive/{COMMIT}.zip"
PACKAGES = (
    "protobuf==3.20.3",
    "s2clientprotocol==5.0.17.98310.0",
    "numpy",
    "absl-py",
    "portpicker",
    "websocket-client",
)
"""What SMAC and PySC2 import to play; the rest of what PySC2 lists is for replays and videos, 200 MB of it."""
PYSC2 = "pysc2==4.0.0"
VENV = ("-m", "venv")
PYTHONS = ("python3.10", "python3.9", "python3.8")
"""Preferred: for these protobuf 3.20 has wheels with compiled code. Later ones decode every observation in Python."""
OLDEST, NEWEST_COMPILED = (3, 8), (3, 10)
RECORD, MAPS = "mast-smac.json", "SMAC_Maps"
Say = Callable[[str], None]


class Found(NamedTuple):
    """An interpreter that can make a virtual environment."""

    path: str
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]} ({self.path})"


def install(folder: Path | None, python: str | None, source: str | None, say: Say) -> Path:
    """Make the environment in `folder` (smac_process.default_folder) and say each step; returns its interpreter.

    python: to make it of. source: SMAC's source as a folder, a zip file or a URL of one; without it, a pinned commit
    from GitHub. An environment that is there is replaced when the new one works. Raises UserError.
    """
    folder = (folder or smac_process.default_folder()).expanduser().absolute()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise UserError(f"{folder}: holds something else than a Python environment; name another one with --folder")
    base = _choose(python)
    say(f"1/5 python    {base}{_slow(base)}")
    new, log = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + "-install.log")
    new.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    shutil.rmtree(new, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            unpacked = _source(source or SOURCE, Path(scratch))
            say(f"2/5 source    {source or f'SMAC (oxwhirl/smac) at commit {COMMIT[:7]}'}")
            _run([base.path, *VENV, str(new)], "cannot make an environment", log)
            _pip(new, [*PACKAGES], log)
            _pip(new, ["--no-deps", PYSC2], log)
            _pip(new, ["--no-deps", str(unpacked)], log)
            shutil.copytree(unpacked / "smac/env/starcraft2/maps/SMAC_Maps", new / MAPS)
        say(f"3/5 packages  SMAC, {', '.join([PYSC2, *PACKAGES])}")
        found = smac_process.probe(str(smac_process.python_in(new)))
        if not found["imported"]:
            raise UserError(f"SMAC was installed but cannot be imported: {found['problem']}")
        (new / RECORD).write_text(json.dumps({"source": source or SOURCE}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    words = f"SMAC {found['smac']}, PySC2 {found['pysc2']}, protobuf {found['protobuf']} ({found['protobuf_code']})"
    say(f"4/5 check     {words} in {folder}")
    say(f"5/5 maps      {_maps(folder)}")
    path = smac_process.python_in(folder)
    if folder != smac_process.default_folder():
        say(f"Use it with --set env.options.python={path}, or {smac_process.VARIABLE}={path}")
    log.unlink(missing_ok=True)
    return path


def _choose(python: str | None) -> Found:
    """The interpreter asked for, or the first that works. Raises UserError."""
    if python is not None:
        found = _look(python)
        if isinstance(found, str):
            raise UserError(f"--python {python}: {found}")
        return found
    for name in (*PYTHONS, sys.executable):
        found = _look(name)
        if isinstance(found, Found):
            return found
    raise UserError(
        f"no Python here can make an environment ({sys.executable}: {_look(sys.executable)}); "
        "on Debian and Ubuntu: apt install python3-venv"
    )


def _look(name: str) -> Found | str:
    """An interpreter by name or path, or why it cannot be used."""
    path = shutil.which(os.path.expanduser(name))
    if path is None:
        return "not found"
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-E", "-c", code], capture_output=True, text=True, timeout=60)
        version = tuple(int(part) for part in done.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"cannot be run ({error})"
    if done.returncode or len(version) != 2:
        return _last_line(done.stderr) or "is no Python with venv and ensurepip"
    if version < OLDEST:
        return f"is Python {version[0]}.{version[1]}; 3.8 or later is needed"
    return Found(path, (version[0], version[1]))


def _slow(base: Found) -> str:
    if base.version <= NEWEST_COMPILED:
        return ""
    return "; protobuf 3.20 has compiled code up to 3.10 only, so steps take longer (--python names another one)"


def _pip(folder: Path, what: list[str], log: Path) -> None:
    python = str(smac_process.python_in(folder))
    command = [python, "-E", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *what]
    _run(command, f"pip cannot install {what[-1] if len(what) < 3 else 'the packages'}", log)


def _run(command: list[str], failing: str, log: Path) -> None:
    """Raises UserError with the last line of what the command said that is an error, or the last one."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    with log.open("a", encoding="utf-8") as file:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        except OSError as error:
            raise UserError(f"{failing}: {reason(error)}") from None
        file.write(f"$ {' '.join(command)}\n{done.stdout}\n")
    if done.returncode:
        errors = [line for line in done.stdout.split("\n") if line.lower().lstrip().startswith("error")]
        raise UserError(f"{failing}: {_last_line(errors[-1] if errors else done.stdout)} (all of it: {log})")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _source(given: str, scratch: Path) -> Path:
    """SMAC's source as a folder. Raises UserError."""
    try:
        archive = scratch / "smac.zip"
        if "://" in given:
            with urllib.request.urlopen(given, timeout=60) as answer:
                archive.write_bytes(answer.read())
        elif Path(given).expanduser().is_dir():
            # A copy: a build leaves files in the source.
            shutil.copytree(Path(given).expanduser(), scratch / "source", ignore=shutil.ignore_patterns(".git"))
            archive = None
        else:
            archive = Path(given).expanduser()
        if archive is not None:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(scratch / "source")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        said = getattr(error, "reason", None) or reason(error)
        raise UserError(
            f"SMAC's source cannot be read from {given}: {said}; --source takes a folder, a zip file or a URL"
        ) from None
    roots = [scratch / "source", *(scratch / "source").iterdir()]
    for root in roots:
        if (root / "setup.py").is_file() and (root / "smac/env/starcraft2/maps/SMAC_Maps").is_dir():
            return root
    raise UserError(f"{given}: not SMAC's source; expected setup.py and smac/env/starcraft2 (github.com/oxwhirl/smac)")


def _maps(folder: Path) -> str:
    """Copy the maps to the game, where there is one without them; what was done, in words."""
    game, kept = starcraft.game_path(), folder / MAPS
    if starcraft.game_version(game) is None:
        return f"kept in {kept}; no game at {game} yet (SC2PATH): {starcraft.GAME_INSTALL}"
    there = game / "Maps" / MAPS
    if starcraft.maps_path(game) is not None:
        return f"already in {there}"
    try:
        shutil.copytree(kept, there, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"the maps cannot be copied to {there}: {reason(error)}; they are in {kept}") from None
    return f"{len(list(kept.glob('*.SC2Map')))} copied to {there}"
