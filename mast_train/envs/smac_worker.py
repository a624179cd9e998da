"""One battle of StarCraft II in an interpreter of its own, and the messages to and from it.

SMAC pins protobuf below 3.21, so it lives apart from everything else. Run as a file by that interpreter, which may be
an older one: standard library and numpy only, the syntax of Python 3.8. The parent imports `send` and `receive`.

A message is two lengths (uint32, big-endian), a JSON object, and the bytes of the arrays that its "arrays" describe as
[dtype, shape]. A request names a method of Battle in "call" and its "arguments"; the answer has "error" (one line) or
what the method returned. The messages go through the standard input and output that the process was started with;
whatever SMAC, PySC2 and the game print goes to its standard error.

Facts about SMAC: Samvelyan et al., The StarCraft Multi-Agent Challenge, AAMAS 2019; https://github.com/oxwhirl/smac.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import struct
import sys
from importlib.util import find_spec
from typing import Any, BinaryIO, Dict, List, Tuple  # noqa: UP035

import numpy as np

LENGTHS = struct.Struct(">II")
MAX_BYTES = 1 << 28
"""Of a message: far above any observation. What is longer is no message."""
RETRIES = 3
GAME_FAILURES = ("SC2LaunchError", "ConnectError", "ConnectionError", "ProtocolError", "RequestError")
"""Errors of PySC2's that the game itself may have said more about."""
Message = Tuple[Dict[str, Any], List[np.ndarray]]  # noqa: UP006


class Refused(Exception):
    """What a user can mend, in one line."""


def send(stream: BinaryIO, values: dict[str, Any], arrays: list[np.ndarray] | None = None) -> None:
    """Write one message and flush it. Raises OSError when nobody reads."""
    arrays = [np.ascontiguousarray(array) for array in arrays or []]
    described = [[array.dtype.str, list(array.shape)] for array in arrays]
    head = json.dumps(dict(values, arrays=described)).encode()
    body = b"".join(array.tobytes() for array in arrays)
    stream.write(LENGTHS.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: BinaryIO) -> Message:
    """Read one message. Raises EOFError where it ends early, ValueError for what is none."""
    sizes = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    if max(sizes) > MAX_BYTES:
        raise ValueError(f"a message of {max(sizes)} bytes")
    values = json.loads(_exactly(stream, sizes[0]).decode())
    body, at, arrays = _exactly(stream, sizes[1]), 0, []
    for kind, shape in values.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, dtype=np.dtype(kind), count=count, offset=at)
        arrays.append(array.reshape(shape))
        at += array.nbytes
    return values, arrays


def _exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise EOFError("the stream ended")
    return found


SIZES = ("state_shape", "obs_shape", "n_actions", "n_agents", "episode_limit")
CALLS = ("open", "reset", "step", "save_replay", "probe")


class Battle:
    """One SMAC environment behind a few calls that return JSON values and arrays."""

    def __init__(self) -> None:
        """Does nothing yet: see `open`."""
        self._env: Any = None
        self._builds = self._resets = self._ends = 0
        self._opened: dict[str, Any] = {}

    def open(self, map_name: str, seed: int, options: dict[str, Any]) -> Message:
        """Create the environment; the game itself starts at the first reset. Returns SMAC's get_env_info and versions.

        Raises Refused for a missing or wrong SMAC.
        """
        versions = describe(options.get("game_version"))
        if versions["problem"]:
            raise Refused(versions["problem"])
        self._opened = {"map_name": map_name, "seed": seed, "options": options}
        self._build()
        info = {key: int(self._env.get_env_info()[key]) for key in SIZES}
        try:
            names = obs_names(self._env)
        except AttributeError:  # another SMAC
            names = []
        return {"info": info, "names": names if len(names) == info["obs_shape"] else [], "versions": versions}, []

    def reset(self) -> Message:
        """Start an episode. Raises Refused when the game crashes each time that it is started."""
        if self._resets and not self._ends:
            # Before an episode has ended properly SMAC would start a game beside the one that runs, and count every
            # enemy's health again in the maximum that rewards are divided by.
            self._build()
        for _ in range(RETRIES):
            self._env.reset()
            self._resets += 1
            if not self._env.force_restarts:
                break
            # A game that crashed was started again, but SMAC still knows the units of the one before: it shows those,
            # or kills their namesakes and waits for the rest for ever.
            self._build()
        else:
            raise Refused(f"the game crashed in each of {RETRIES} resets")
        self._scale()
        return {}, self._frame()

    def step(self, actions: list[int]) -> Message:
        """One joint action, each available (SMAC asserts it). No arrays: the game crashed and was restarted."""
        reward, ended, info = self._env.step(actions)
        if "battle_won" not in info:
            self._ends = 0  # the next reset starts anew
            return {"reward": 0.0, "terminated": False, "truncated": True, "won": False}, []
        self._ends += bool(ended)
        truncated = bool(ended and info.get("episode_limit"))
        flags = {"terminated": bool(ended) and not truncated, "truncated": truncated}
        return dict(flags, reward=float(reward), won=bool(ended and info["battle_won"])), self._frame()

    def save_replay(self) -> Message:
        """Write the episodes so far to the replay directory."""
        self._env.save_replay()
        return {}, []

    def probe(self) -> Message:
        """What is installed here: see `describe`."""
        return describe(None), []

    def close(self) -> None:
        """Stop the game, if it was started."""
        if self._env is not None:
            self._env.close()

    def _build(self) -> None:
        """A new environment; the game of the one before is stopped."""
        from smac.env import StarCraft2Env  # pyright: ignore[reportMissingImports]

        self.close()
        # Another seed each time: the game's random stream is fixed by it. Without continuing_episode SMAC does not say
        # that an episode ended at its time limit.
        seed = (self._opened["seed"] + self._builds) % 2**32
        self._env = StarCraft2Env(
            map_name=self._opened["map_name"], seed=seed, continuing_episode=True, **self._opened["options"]
        )
        self._builds, self._resets, self._ends = self._builds + 1, 0, 0

    def _scale(self) -> None:
        """Rewards are divided by the most that an episode can earn. SMAC adds to it each time that it looks for units.

        Units that are created late, or a crash in the first episode, would make every later reward smaller.
        """
        env = self._env
        health = sum(enemy.health_max + enemy.shield_max for enemy in env.enemies.values())
        env.max_reward = env.n_enemies * env.reward_death_value + env.reward_win + health

    def _frame(self) -> list[np.ndarray]:
        """obs [N,O] and state [S] float32, avail_actions [N,A] bool."""
        avail = np.asarray(self._env.get_avail_actions(), dtype=bool)
        # A row without any action would make every choice invalid; action 0 is "no operation".
        avail[~avail.any(axis=1), 0] = True
        obs = np.asarray(self._env.get_obs(), dtype=np.float32)
        return [obs, np.asarray(self._env.get_state(), dtype=np.float32), avail]


def obs_names(env: Any) -> list[str]:
    """Of any agent's inputs, in the order of SMAC's get_obs_agent."""
    every = ("health",) if env.obs_all_health else ()
    kinds = [f"unit type {i}" for i in range(env.unit_type_bits)]
    last = [f"last action {i}" for i in range(env.n_actions)] if env.obs_last_action else []
    place, ally_shield = ("distance", "relative x", "relative y"), ("shield",) * bool(env.shield_bits_ally)
    enemy = ["can attack", *place, *every, *(("shield",) * bool(every and env.shield_bits_enemy)), *kinds]
    ally = ["visible", *place, *every, *(ally_shield if every else ()), *kinds, *last]
    names = [f"can move {way}" for way in ("north", "south", "east", "west")]
    names += [f"pathing {i}" for i in range(env.n_obs_pathing * bool(env.obs_pathing_grid))]
    names += [f"height {i}" for i in range(env.n_obs_height * bool(env.obs_terrain_height))]
    names += [f"enemy {k + 1} {word}" for k in range(env.n_enemies) for word in enemy]
    names += [f"ally {k} {word}" for k in range(1, env.n_agents) for word in ally]
    names += [f"own {word}" for word in (*(("health", *ally_shield) if env.obs_own_health else ()), *kinds)]
    return names


def which_smac() -> str:
    """Which package `smac` is: "smac" (the StarCraft challenge), "other" (PyPI's) or "none". Imports neither."""
    found = find_spec("smac")
    if found is None:
        return "none"
    folders = found.submodule_search_locations or []
    here = any(os.path.isdir(os.path.join(folder, "env", "starcraft2")) for folder in folders)
    return "smac" if here else "other"


def describe(game_version: str | None) -> dict[str, Any]:
    """What is installed here, as text; "problem" is why no battle can be played, in one line, or empty.

    "imported": SMAC and PySC2 can be. "protobuf_code": cpp, or python, which is slow. "game" is what would be started
    (PySC2's own choice), "maps" the SMAC maps that are there, "missing" the others.
    """
    found: dict[str, Any] = {"python": platform.python_version(), "executable": sys.executable, "problem": ""}
    found["kind"] = which_smac()
    for name in ("smac", "pysc2", "protobuf", "numpy"):
        found[name] = _version(name)
    found["protobuf_code"], found["imported"] = "", False
    try:
        if found["kind"] != "smac":
            raise Refused(
                f"there is no SMAC in {sys.executable}"
                if found["kind"] == "none"
                else f"the smac in {sys.executable} is SMAC3, a hyper-parameter optimiser"
            )
        _describe_game(found, game_version)
    except Exception as error:
        found["problem"] = one_line(error)
    return found


def _describe_game(found: dict[str, Any], game_version: str | None) -> None:
    from google.protobuf.internal import api_implementation
    from pysc2 import maps, run_configs  # pyright: ignore[reportMissingImports]
    from smac.env import StarCraft2Env  # noqa: F401  # pyright: ignore[reportMissingImports]
    from smac.env.starcraft2.maps.smac_maps import get_smac_map_registry  # pyright: ignore[reportMissingImports]

    found["protobuf_code"], found["imported"] = api_implementation.Type(), True
    config = run_configs.get(version=game_version)
    folder, version = config.data_dir, config.version
    found["game"] = {"path": folder, "version": version.game_version, "build": version.build_version}
    paths = {name: os.path.join(folder, "Maps", maps.get(name).path) for name in get_smac_map_registry()}
    found["maps"] = [name for name, path in paths.items() if os.path.isfile(path)]
    found["missing"] = [name for name, path in paths.items() if not os.path.isfile(path)]


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def one_line(error: BaseException) -> str:
    """An error in one line: a Refused as it is, another one with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Refused) else f"{type(error).__name__}: {text}"


def answer(battle: Battle, request: dict[str, Any]) -> Message:
    """What one call of `battle` returned, or, if it raised, the error in one line."""
    try:
        if request.get("call") not in CALLS:
            raise Refused("unknown call {!r}".format(request.get("call")))
        return getattr(battle, request["call"])(*request["arguments"])
    except Refused as error:
        return {"error": one_line(error), "game": False}, []
    except Exception as error:
        values = {"error": "a smac environment failed: " + one_line(error)}
        return dict(values, game=type(error).__name__ in GAME_FAILURES), []


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests to one Battle until there are no more, then stop its game."""
    battle = Battle()
    try:
        while True:
            send(answers, *answer(battle, receive(requests)[0]))
    except (EOFError, BrokenPipeError):
        return
    finally:
        battle.close()


def main() -> None:
    """Body of the process. The game inherits descriptors 0 to 2, so messages move to others, which it does not."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # The parent ends its workers with SIGTERM; leaving through SystemExit lets the game be stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(requests, answers)


if __name__ == "__main__":
    del sys.path[0]  # this file's folder, in which another smac.py lies
    main()
