"""The real game without torch: where StarCraft II and SMAC are installed, and one battle in a process of its own.

Facts about SMAC: Samvelyan et al., The StarCraft Multi-Agent Challenge, AAMAS 2019; https://github.com/oxwhirl/smac.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mast_train.envs.frame import Frame
from mast_train.settings.errors import UserError

SMAC_INSTALL = "pip install git+https://github.com/oxwhirl/smac.git"
GAME_INSTALL = (
    "install StarCraft II for Linux (https://github.com/Blizzard/s2client-proto#downloads) and point SC2PATH at it"
)
MAPS_INSTALL = "copy SMAC_Maps from the SMAC repository (smac/env/starcraft2/maps) into $SC2PATH/Maps"
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

EnvFactory = Callable[[str, int, dict[str, Any]], Any]
Request = tuple[str, tuple[Any, ...]]


class Outcome(NamedTuple):
    """One step. `frame` is None when the game crashed and was restarted: there is no observation to show."""

    frame: Frame | None
    reward: float
    terminated: bool
    truncated: bool
    won: bool


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
    name = f"Base{max(builds)}"
    return f"{GAME_VERSIONS[max(builds)]} ({name})" if max(builds) in GAME_VERSIONS else name


def maps_path(path: Path) -> Path | None:
    """The directory of SMAC's maps under the game, or None."""
    found = path / "Maps" / "SMAC_Maps"
    return found if any(found.glob("*.SC2Map")) else None


def which_smac() -> str:
    """Which package `smac` is: "smac" (the StarCraft challenge), "other" (PyPI's) or "none". Imports neither."""
    found = find_spec("smac")
    if found is None:
        return "none"
    folders = found.submodule_search_locations or []
    return "smac" if any((Path(folder) / "env" / "starcraft2").is_dir() for folder in folders) else "other"


def require_game() -> None:
    """Raise UserError naming the first thing missing: SMAC, the game, its maps."""
    smac, path = which_smac(), game_path()
    if smac == "other":
        raise UserError(
            "the installed 'smac' is SMAC3, a hyper-parameter optimiser (PyPI's package of that name), not the "
            f"StarCraft challenge: pip uninstall smac, then {SMAC_INSTALL}"
        )
    if smac == "none":
        raise UserError(f"the smac environment needs SMAC, which is not installed: {SMAC_INSTALL}")
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


def launch(map_name: str, seed: int, options: dict[str, Any]) -> Any:
    """A `smac.env.StarCraft2Env`; the game itself starts at the first reset. Raises UserError when one is missing."""
    require_game()
    from smac.env import StarCraft2Env  # pyright: ignore[reportMissingImports]

    # Without continuing_episode SMAC does not say that an episode ended at its time limit.
    return StarCraft2Env(map_name=map_name, seed=seed, continuing_episode=True, **options)


class Battle:
    """One SMAC environment behind a few calls that return arrays."""

    def __init__(self, env_factory: EnvFactory, map_name: str, seed: int, options: dict[str, Any]) -> None:
        """Does nothing yet: see `open`."""
        self._arguments = (map_name, seed, options)
        self._factory = env_factory
        self._env: Any = None
        self._resets = self._ends = 0

    def open(self) -> dict[str, int]:
        """Create the environment and return SMAC's get_env_info."""
        self._env = self._factory(*self._arguments)
        return self._env.get_env_info()

    def reset(self) -> Frame:
        """Start an episode."""
        if self._resets and not self._ends:
            # Until an episode has ended properly, SMAC's reset starts another game beside the one that is running.
            self._env.close()
        self._env.reset()
        self._resets += 1
        return self._frame()

    def step(self, actions: list[int]) -> Outcome:
        """One joint action, each available (SMAC asserts it)."""
        reward, ended, info = self._env.step(actions)
        if "battle_won" not in info:
            return Outcome(None, 0.0, False, True, False)
        self._ends += bool(ended)
        truncated = bool(ended and info.get("episode_limit"))
        won = bool(ended and info["battle_won"])
        return Outcome(self._frame(), float(reward), bool(ended) and not truncated, truncated, won)

    def save_replay(self) -> None:
        """Write the episodes so far to the replay directory."""
        self._env.save_replay()

    def close(self) -> None:
        """Stop the game, if it was started."""
        if self._env is not None:
            self._env.close()

    def _frame(self) -> Frame:
        avail = np.asarray(self._env.get_avail_actions(), dtype=bool)
        # A row without any action would make every choice invalid; action 0 is "no operation".
        avail[~avail.any(axis=1), 0] = True
        obs = np.asarray(self._env.get_obs(), dtype=np.float32)
        return Frame(obs, np.asarray(self._env.get_state(), dtype=np.float32), avail)


def answer(battle: Battle, request: Request) -> Any:
    """What one method of `battle` returns, or, if it raises, the error as a UserError (returned, to cross a pipe)."""
    method, arguments = request
    try:
        return getattr(battle, method)(*arguments)
    except UserError as error:
        return error
    except Exception as error:
        return UserError(f"a smac environment failed: {type(error).__name__}: {' '.join(str(error).split())}")


def serve(pipe: Connection, *arguments: Any) -> None:
    """Body of a worker process: answer requests to Battle(*arguments) until the pipe is closed, then stop the game."""
    # The parent ends its workers with SIGTERM; leaving through SystemExit lets the game be stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    battle = Battle(*arguments)
    try:
        while True:
            pipe.send(answer(battle, pipe.recv()))
    except (EOFError, BrokenPipeError):
        return
    finally:
        battle.close()
