"""A C export on an emulated Cortex-M (benchmarks/cortex_m): what a decision takes there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CORTEX = Path(__file__).parent / "cortex_m"


def on_chip(folder: Path, chip: str, integers: bool = False) -> dict[str, int]:
    """Instructions, stack, state and flash of the policy in `folder`. Ends the program where it acts otherwise."""
    for old in folder.glob(f"{chip}.*"):
        old.unlink()
    flags = "CFLAGS=-O2 -DINTEGERS" if integers else "CFLAGS=-O2"
    said = _make("run", folder, chip, flags)
    found = {name: int(number) for name, number in re.findall(r"^([a-z ]+): (\d+)$", said, re.MULTILINE)}
    entry = "policy_act_i16" if integers else "policy_act"
    flash = _make("flash", folder, chip, flags, f"ENTRY={entry}").splitlines()[-1].split()
    return {
        "instructions": found["instructions per step"],
        "flash_bytes": int(flash[0]) + int(flash[1]),
        "state_bytes": found["bytes of state"],
        "stack_bytes": found["bytes of stack"],
    }


def _make(goal: str, folder: Path, chip: str, *more: str) -> str:
    command = ["make", "-s", "-C", str(CORTEX), goal, f"POLICY={folder}", f"CHIP={chip}", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-500:]}")
    return done.stdout
