"""Building and running a C export: the host's compiler, and other machines through the PyPI package ziglang."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError

FLAGS = ("-std=c99", "-O2")
TARGETS = {
    "aarch64-linux-musl": "64-bit ARM Linux, Raspberry Pi",
    "arm-linux-musleabihf": "32-bit ARM Linux",
    "riscv64-linux-musl": "RISC-V Linux",
    "wasm32-wasi": "WebAssembly",
}
"""Targets of cross_compile that are tested; any other of `zig targets` may be named."""
TIMEOUT_S = 300


def find_compiler() -> list[str]:
    """The command of the host's C compiler: $CC, cc, gcc or clang; empty when there is none."""
    given = shlex.split(os.environ.get("CC", ""))
    if given and shutil.which(given[0]):
        return given
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), [])


def run_test(
    compiler: list[str],
    folder: Path,
    n_actions: int,
    number: type = np.float32,
    continuous: bool = False,
    outputs: int = 0,
) -> tuple[NDArray, NDArray, NDArray]:
    """Build and run the test in `folder`, which must pass: its actions, q [T,A] and hidden [T,H] (see parse_bits).

    Nothing stays in the folder. Raises ExportError.
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "policy_test")
        build(compiler, folder, program)
        _run([str(program)], "the C policy fails its own test")
        return parse_bits(_run([str(program), "bits"], "the C policy fails"), n_actions, number, continuous, outputs)


def build(compiler: list[str], folder: Path, program: Path, flags: tuple[str, ...] = FLAGS) -> None:
    """Every C file in `folder` and below as `program`, self-tests included. Raises ExportError."""
    sources = sorted(folder.rglob("*.c"))
    includes = [f"-I{path}" for path in sorted({header.parent for header in folder.rglob("*.h")})]
    defines = [f"-D{path.stem.upper()}" for path in sources if path.stem.endswith("_selftest")]
    command = [*compiler, *flags, *includes, *defines, "-o", str(program), *map(str, sources)]
    _run(command, f"{compiler[0]} cannot build the C policy")


def parse_bits(
    text: str, n_actions: int, number: type = np.float32, continuous: bool = False, outputs: int = 0
) -> tuple[NDArray, NDArray, NDArray]:
    """What the test prints when it is given an argument: actions [T] int64, q [T,A] and hidden [T,H].

    number: float32, or int32 of a policy in fixed point. continuous: actions are [T,A] float32, NaN where it refused.
    outputs: numbers in q, 0: A.
    """
    rows = [line.split() for line in text.splitlines()]
    actions: NDArray = np.array([int(row[0]) for row in rows], np.int64)
    words = np.array([[int(word, 16) for word in row[1:]] for row in rows], np.uint32)
    if continuous:
        actions = np.where(actions[:, None] == 0, words[:, :n_actions].view(np.float32), np.float32("nan"))
        words = words[:, n_actions:]
    values = np.ascontiguousarray(words).view(number)
    outputs = outputs or n_actions
    return actions, values[:, :outputs], values[:, outputs:]


def cross_compile(folder: Path, target: str) -> Path:
    """The host test of a C export built for `target` (see TARGETS): `folder`/PREFIX_test-TARGET[.wasm].

    Raises ExportError when ziglang is not installed or cannot build it.
    """
    if find_spec("ziglang") is None:
        raise ExportError(f"--target {target} needs a cross-compiler: pip install ziglang")
    (test,) = folder.rglob("*_test.c")
    program = folder / f"{test.stem}-{target}{'.wasm' if target.startswith('wasm') else ''}"
    partial = program.with_name(f".{program.name}.tmp")
    try:
        build([sys.executable, "-m", "ziglang", "cc", "-target", target], folder, partial, (*FLAGS, "-s"))
        os.replace(partial, program)
    finally:
        partial.unlink(missing_ok=True)
    return program


def _run(command: list[str], what: str) -> str:
    """Its output. Raises ExportError with the first line of what it says, errors first."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"{what} ({error})") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")
        raise ExportError(f"{what}: {telling.strip()[:200]} (exit {done.returncode})")
    return done.stdout
