"""SMAC's own code on the stand-in for the game's binary: where it is, what plays it, what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mast_train.envs import smac_process
from mast_train.envs.base import Transition
from mast_train.envs.smac import SmacEnv
from mast_train.settings.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
STOP, EAST, FIRST_ATTACK = 1, 4, 6
WHY = "needs SMAC: mast smac install, or MAST_SMAC_PYTHON"


def smac_python() -> str:
    """The interpreter that has SMAC, or the test that asks is skipped."""
    try:
        python = smac_process.find_python()
    except UserError:
        pytest.skip(WHY)
    found = smac_process.probe(python)
    if not found["imported"]:
        pytest.skip(f"{WHY} ({found['problem']})")
    return python


def focus_fire(avail: torch.Tensor) -> torch.Tensor:
    """avail [E,N,A] -> actions [E,N]: the first enemy in range, else east, else whatever there is."""
    enemies, anything = avail[..., FIRST_ATTACK:], avail.float().argmax(-1)
    other = torch.where(avail[..., EAST], EAST, anything)
    return torch.where(enemies.any(-1), enemies.float().argmax(-1) + FIRST_ATTACK, other)


def stand_still(avail: torch.Tensor) -> torch.Tensor:
    """The same, without a shot: stop, or nothing for the dead."""
    return torch.where(avail[..., STOP], STOP, 0)


def episode(env: SmacEnv, choose=focus_fire) -> list[Transition]:
    """One episode of every battle, from reset to the last end."""
    avail, steps = env.reset().avail_actions, []
    while not steps or not (steps[-1].terminated | steps[-1].truncated).all():
        steps.append(env.step(choose(avail)))
        avail = steps[-1].next.avail_actions
    return steps


def games(folder: Path) -> list[int]:
    """The process ids of every game that was started from this SC2PATH."""
    return [int(path.name) for path in (folder / "games").glob("*")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nothing_left(pids: list[int], patience_s: float = 20.0) -> bool:
    """Whether none of these processes is there any more, or will soon not be."""
    until = time.monotonic() + patience_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(alive, pids))


def mast(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command line, its output as text."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    """Its output once it has ended as expected."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return out


def interrupted_after(process: subprocess.Popen[str], metrics: Path, rows: int, number: int = signal.SIGINT) -> None:
    """Send the signal once so many lines of metrics are written."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= rows:
            process.send_signal(number)
            return
        time.sleep(0.05)
    raise AssertionError(f"{metrics} never had {rows} lines: {process.communicate(timeout=10)}")


SIZES = """
import json
from smac.env import StarCraft2Env
from smac.env.starcraft2.maps.smac_maps import get_smac_map_registry

print(json.dumps({name: StarCraft2Env(map_name=name).get_env_info() for name in get_smac_map_registry()}))
"""


def all_sizes(python: str) -> dict[str, dict]:
    """Of every map of the installed SMAC: its get_env_info."""
    done = subprocess.run([python, "-E", "-c", SIZES], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
