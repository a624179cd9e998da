"""The real game without torch: where StarCraft II and its maps are, and what SMAC makes of them.

Facts about SMAC: Samvelyan et al., The StarCraft Multi-Agent Challenge, AAMAS 2019; https://github.com/oxwhirl/smac.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from mast_train.settings.errors import UserError

GAME_INSTALL = (
    "install StarCraft II for Linux (https://github.com/Blizzard/s2client-proto#downloads) and point SC2PATH at it"
)
MAPS_INSTALL = "mast smac install copies them there"
GAME_VERSIONS = {69232: "4.6.2", 75689: "4.10"}

DIFFICULTIES = tuple("123456789A")

# Agents are numbered by unit type, in the order given here.
ALLIES: dict[str, dict[str, int]] = {
    "3m": {"marine": 3},
    "8m": {"marine": 8},
    "25m": {"marine": 25},
    "5m_vs_6m": {"marine": 5},
    "8m_vs_9m": {"marine": 8},
    "10m_vs_11m": {"marine": 10},
    "27m_vs_30m": {"marine": 27},
    "MMM": {"marauder": 2, "marine": 7, "medivac": 1},
    "MMM2": {"marauder": 2, "marine": 7, "medivac": 1},
    "2s3z": {"stalker": 2, "zealot": 3},
    "3s5z": {"stalker": 3, "zealot": 5},
    "3s5z_vs_3s6z": {"stalker": 3, "zealot": 5},
    "3s_vs_3z": {"stalker": 3},
    "3s_vs_4z": {"stalker": 3},
    "3s_vs_5z": {"stalker": 3},
    "1c3s5z": {"colossus": 1, "stalker": 3, "zealot": 5},
    "2m_vs_1z": {"marine": 2},
    "corridor": {"zealot": 6},
    "6h_vs_8z": {"hydralisk": 6},
    "2s_vs_1sc": {"stalker": 2},
    "so_many_baneling": {"zealot": 7},
    "bane_vs_bane": {"baneling": 4, "zergling": 20},
    "2c_vs_64zg": {"colossus": 2},
}


def game_path() -> Path:
    """Where StarCraft II is expected: SC2PATH, else ~/StarCraftII."""
    return Path(os.environ.get("SC2PATH") or "~/StarCraftII").expanduser()


def game_version(path: Path) -> str | None:
    """The version that would be started from `path` (the highest build), such as "4.10 (Base75689)"; None without one.

    Results of different versions are not comparable.
    """
    builds = [int(found.name[4:]) for found in path.glob("Versions/Base*") if found.name[4:].isdigit()]
    if not builds:
        return None
    return build_name(max(builds))


def build_name(build: int, version: str = "latest") -> str:
    """A build by its version where that is known, such as "4.10 (Base75689)". `version` is PySC2's word for it."""
    known = GAME_VERSIONS.get(build) or (version if version != "latest" else "")
    return f"{known} (Base{build})" if known else f"Base{build}"


def binary_problem(path: Path) -> str:
    """Why the highest build under `path` cannot be started on Linux, or nothing."""
    builds = [found for found in path.glob("Versions/Base*") if found.name[4:].isdigit()]
    binary = max(builds, key=lambda found: int(found.name[4:])) / "SC2_x64"
    if not sys.platform.startswith("linux") or os.access(binary, os.X_OK):
        return ""
    return f"{binary} cannot be executed" if binary.is_file() else f"there is no {binary}"


def maps_path(path: Path) -> Path | None:
    """The directory of SMAC's maps under the game, or None."""
    found = path / "Maps" / "SMAC_Maps"
    return found if any(found.glob("*.SC2Map")) else None


def require_game() -> None:
    """Raise UserError naming the first thing missing: the game, its maps."""
    path = game_path()
    if game_version(path) is None:
        raise UserError(f"StarCraft II was not found at {path} (SC2PATH): {GAME_INSTALL}")
    if maps_path(path) is None:
        raise UserError(f"the SMAC maps were not found in {path / 'Maps' / 'SMAC_Maps'}: {MAPS_INSTALL}")


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """StarCraft2Env's options as it expects them: the difficulty as text. Raises UserError."""
    checked = dict(options)
    if "difficulty" in checked:
        checked["difficulty"] = str(checked["difficulty"])
        if checked["difficulty"] not in DIFFICULTIES:
            raise UserError(
                f"env.options.difficulty = {checked['difficulty']}: expected 1 (very easy) to 9 or A (cheating); "
                "published results use 7"
            )
    version = checked.get("game_version")
    if version is not None and not isinstance(version, str):
        raise UserError(
            f"env.options.game_version = {version}: a number, in which 4.10 and 4.1 are the same; quote it: "
            "--set 'env.options.game_version=\"4.10\"'"
        )
    return checked
