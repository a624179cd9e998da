"""Lays out the stand-in as PySC2 expects a game: $SC2PATH/Versions/BaseN/SC2_x64 and $SC2PATH/Maps/SMAC_Maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stand_in.units import KINDS

TEAMS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "3m": ({"marine": 3}, {"marine": 3}),
    "8m": ({"marine": 8}, {"marine": 8}),
    "2s3z": ({"stalker": 2, "zealot": 3}, {"stalker": 2, "zealot": 3}),
    "3s5z": ({"stalker": 3, "zealot": 5}, {"stalker": 3, "zealot": 5}),
    "2c_vs_64zg": ({"colossus": 2}, {"zergling": 64}),
}
"""Maps that have only units of the stand-in: the agents' team and the computer's."""
SIZE, PLAYABLE = 32, (0, 4, 32, 28)
BUILD = 75689
START = """#!{python} -E
import sys

sys.path.insert(0, {folder!r})
from stand_in.binary import main

main({executable!r})
"""


def install(folder: Path, python: str, build: int = BUILD, maps: dict[str, Any] | None = None, **script: Any) -> Path:
    """A game in `folder` that `python` runs, with s2clientprotocol; script: see stand_in.binary. Returns the folder."""
    for name, (allies, enemies) in TEAMS.items():
        assert set(allies) | set(enemies) <= set(KINDS)
        path = folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map"
        path.parent.mkdir(parents=True, exist_ok=True)
        battle = {"size": [SIZE, SIZE], "playable": list(PLAYABLE), "walls": [], "teams": [allies, enemies]}
        path.write_text(json.dumps({**battle, **(maps or {})}))
    executable = folder / "Versions" / f"Base{build}" / "SC2_x64"
    executable.parent.mkdir(parents=True, exist_ok=True)
    tests = str(Path(__file__).resolve().parent.parent)
    executable.write_text(START.format(python=python, folder=tests, executable=str(executable)))
    executable.chmod(0o755)
    (folder / "script.json").write_text(json.dumps(script))
    return folder
