"""An interpreter in which `smac` is tests/smac_stand_in.py, quickly made: for tests of the worker's protocol."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
FILES = {
    "smac/__init__.py": "",
    "smac/env/starcraft2/__init__.py": "",
    "smac/env/starcraft2/maps/__init__.py": "",
    "smac/env/starcraft2/maps/smac_maps.py": "def get_smac_map_registry():\n    return {'3m': {}, '8m': {}}\n",
    "pysc2/__init__.py": "",
    "pysc2/maps.py": "def get(name):\n    return type('Map', (), {'path': f'SMAC_Maps/{name}.SC2Map'})\n",
    "pysc2/run_configs.py": """
import os
from types import SimpleNamespace


def get(version=None):
    known = {None: ("latest", 75689), "4.10": ("4.10.0", 75689), "4.6.2": ("4.6.2", 69232)}
    if version not in known:
        raise ValueError(f"Unknown game version: {version}. Known versions: ['4.10.0', '4.6.2'].")
    name, build = known[version]
    return SimpleNamespace(
        data_dir=os.environ["SC2PATH"], version=SimpleNamespace(game_version=name, build_version=build)
    )
""",
    "google/protobuf/internal/api_implementation.py": "def Type():\n    return 'cpp'\n",
}
VERSIONS = {"SMAC": "1.0.0", "pysc2": "4.0.0", "protobuf": "3.20.3", "numpy": numpy.__version__}


def make(folder: Path) -> Path:
    """A virtual environment in `folder` with the stand-in; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    fill(folder)
    return folder / "bin" / "python"


def fill(folder: Path) -> None:
    """Put the stand-in, and our numpy, into a virtual environment."""
    (site,) = folder.glob("lib/python3*/site-packages")
    for name, text in FILES.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if FILES:
        shutil.copy(HERE / "smac_stand_in.py", site / "smac" / "env" / "__init__.py")
    for name in ("numpy", "numpy.libs"):
        source = Path(numpy.__file__).parent.parent / name
        if source.is_dir():
            (site / name).symlink_to(source)
    for name, version in VERSIONS.items():
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def lay_out_game(folder: Path, *builds: int) -> Path:
    """The folders of a game, and one of SMAC's maps."""
    for build in builds:
        (folder / "Versions" / f"Base{build}").mkdir(parents=True)
    maps = folder / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    (maps / "3m.SC2Map").touch()
    return folder
