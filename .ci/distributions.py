"""The two distributions that are made of this repository, and what a wheel of each must hold.

mast-marl is everything. mast-runtime is what a robot runs: mast_runtime alone, and no dependencies. Both install the
package mast_runtime and the command `mast`: a machine has one or the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / ".ci" / "mast-runtime"
"""The files of the robot's distribution that are not the repository's."""


class Distribution(NamedTuple):
    """kernels: files that every wheel has. tops: what lies at its top. targets: platform tags that it is built for.

    c_sources: whether the wheel has the kernels' C files, of which `mast export` makes pages and libraries.
    """

    name: str
    kernels: tuple[str, ...]
    tops: frozenset[str]
    targets: tuple[str, ...]
    c_sources: bool


KERNEL, TRAINING = "mast_runtime/native/_native.abi3.so", "mast_train/engines/native/_train.abi3.so"
EVERYWHERE = (
    "manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "manylinux_2_17_armv7l", "musllinux_1_2_x86_64",
    "musllinux_1_2_aarch64", "macosx_11_0_arm64", "macosx_11_0_x86_64",
)  # fmt: skip
WITH_TORCH = ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "macosx_11_0_arm64")
"""Where torch has wheels."""
DISTRIBUTIONS = (
    Distribution("mast-runtime", (KERNEL,), frozenset({"mast_runtime"}), EVERYWHERE, False),
    Distribution(
        "mast-marl", (KERNEL, TRAINING), frozenset({"mast_cli.py", "mast_export", "mast_runtime", "mast_train"}),
        WITH_TORCH, True,
    ),
)  # fmt: skip


def run(*command: object, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """Its output; what it says on standard error is shown. Ends the program when it fails."""
    given = {name: value for name, value in (environment or os.environ).items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=given, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def source(distribution: Distribution, scratch: Path) -> Path:
    """The folder that it is built from: the repository, or in `scratch` the robot's part of it."""
    if distribution.name == "mast-marl":
        return ROOT
    folder = scratch / distribution.name
    without = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(ROOT / "mast_runtime", folder / "mast_runtime", ignore=without)
    for path in (ROOT / "setup.py", ROOT / "LICENSE", *sorted(RUNTIME.iterdir())):
        shutil.copy(path, folder)
    return folder


def contents_problems(distribution: Distribution, names: list[str]) -> list[str]:
    """What is wrong with the list of a wheel's files; empty when nothing is."""
    found = [f"{kernel} is missing" for kernel in distribution.kernels if kernel not in names]
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    if tops != distribution.tops:
        found.append(f"at the top {', '.join(sorted(tops))}, expected {', '.join(sorted(distribution.tops))}")
    c_files = [name for name in names if name.endswith((".c", ".h", ".def"))]
    if bool(c_files) != distribution.c_sources:
        found.append(f"{len(c_files)} C files, expected {'some' if distribution.c_sources else 'none'}")
    return found


def check_contents(distribution: Distribution, wheel: Path) -> None:
    """Ends the program where the wheel lacks a kernel, or has what is not its own."""
    with zipfile.ZipFile(wheel) as archive:
        found = contents_problems(distribution, archive.namelist())
    if found:
        sys.exit(f"{wheel.name}: {'; '.join(found)}")
