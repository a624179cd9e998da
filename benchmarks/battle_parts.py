"""Plays one battle in the interpreter that has SMAC; prints the processor seconds of each part of a step, as JSON.

    PYTHON -E benchmarks/battle_parts.py mast_train/envs 3m 100

For battles.py. A part is without what it calls that is another part. The syntax of Python 3.8.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

SPENT: dict[str, float] = {}
STACK: list[list[Any]] = []


def timed(owner: Any, name: str, part: str) -> None:
    """Count the time of owner.name as that of `part`."""
    function = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        now = time.process_time()
        if STACK:
            SPENT[STACK[-1][0]] = SPENT.get(STACK[-1][0], 0) + now - STACK[-1][1]
        STACK.append([part, now])
        try:
            return function(*args, **kwargs)
        finally:
            now = time.process_time()
            SPENT[part] = SPENT.get(part, 0) + now - STACK.pop()[1]
            if STACK:
                STACK[-1][1] = now

    setattr(owner, name, wrapped)


def watch() -> None:
    """Take SMAC and PySC2 apart."""
    import smac.env.starcraft2.starcraft2 as starcraft2  # pyright: ignore[reportMissingImports]
    import websocket  # pyright: ignore[reportMissingImports]
    from pysc2.lib import protocol  # pyright: ignore[reportMissingImports]

    for name in ("_read", "_write"):
        timed(protocol.StarcraftProtocol, name, "protobuf")  # what is left of them without the socket
    for name in ("send", "recv"):
        timed(websocket.WebSocket, name, "socket")
    timed(starcraft2, "deepcopy", "copies")
    for name in ("get_obs", "get_state", "get_avail_actions", "get_avail_agent_actions"):
        timed(starcraft2.StarCraft2Env, name, "features")


def processor_s() -> float:
    """Processor time of the stand-in's process, from its start."""
    games = sorted(Path(os.environ["SC2PATH"], "games").iterdir(), key=lambda path: path.stat().st_mtime)
    fields = Path("/proc", games[-1].name, "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="that of smac_worker.py")
    parser.add_argument("map")
    parser.add_argument("steps", type=int)
    given = parser.parse_args()
    sys.path.insert(0, given.folder)
    import smac_worker  # pyright: ignore[reportMissingImports]

    del sys.path[0]  # another smac.py lies there
    watch()
    timed(smac_worker.Battle, "step", "rest")
    battle, chosen = smac_worker.Battle(), random.Random(0)
    battle.open(given.map, 0, {})
    avail = battle.reset()[1][2]
    SPENT.clear()
    started = processor_s()
    for _ in range(given.steps):
        actions = [chosen.choice([a for a, there in enumerate(row) if there]) for row in avail]
        values, arrays = battle.step(actions)
        kept = dict(SPENT)
        avail = battle.reset()[1][2] if values["terminated"] or values["truncated"] else arrays[2]
        SPENT.clear()
        SPENT.update(kept)
    SPENT["game"] = processor_s() - started
    battle.close()
    print(json.dumps(SPENT))


if __name__ == "__main__":
    main()
