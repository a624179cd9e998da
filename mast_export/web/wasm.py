"""C policies to WebAssembly: by clang with wasm-ld, or by the PyPI package ziglang."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mast_export.c.source import Source, generate
from mast_export.errors import ExportError
from mast_export.verify import Trace
from mast_runtime import Bundle

HOST = Path(__file__).with_name("host.c")
FLAGS = (
    "-std=c11",
    "-O3",
    "-msimd128",
    "-mbulk-memory",
    "-ffast-math",
    "-fno-finite-math-only",
    "-ffreestanding",
    "-nostdlib",
)
"""Fast math lets the sums of dense rows use vectors, in another order; bulk memory stands in for memcpy."""
LINK = ("-Wl,--no-entry", "-Wl,--strip-all")
STACK_FIRST = "-Wl,--stack-first"
"""The stack lies below the data, so that a decision that outgrew it would trap and not overwrite tables; zig's linker
does so by itself and does not know the option."""
STACK_MARGIN = 65_536
"""Bytes of stack for all that is no array."""
TIMEOUT_S = 300


@cache
def find_compiler() -> tuple[str, ...]:
    """The command of a compiler for WebAssembly without a system. Raises ExportError."""
    if find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding")
    else:
        zig = ()
    clang = shutil.which("clang")
    if clang and shutil.which("wasm-ld"):
        known = subprocess.run([clang, "-print-targets"], capture_output=True, text=True, timeout=TIMEOUT_S).stdout
        if "wasm32" in known:
            return clang, "--target=wasm32", STACK_FIRST
    if zig:
        return zig
    raise ExportError("the page needs a compiler for WebAssembly: pip install ziglang (or clang and lld)")


def compiled(bundle: Bundle, k: int, trace: Trace) -> bytes:
    """Agent k's exported C policy and host.c as a module. trace: of that agent alone. Raises ExportError."""
    source = generate(bundle, k, trace)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("policy.h", "policy.c"):
            (folder / name).write_text(source.files[name])
        shutil.copy(HOST, folder)
        program = folder / "policy.wasm"
        command = [
            *find_compiler(),
            *FLAGS,
            *LINK,
            f"-Wl,-z,stack-size={_stack(source)}",
            "-o",
            str(program),
            str(folder / "policy.c"),
            str(folder / "host.c"),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, errors="replace")
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"the compiler for WebAssembly failed ({error})") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise ExportError(f"{command[0]} cannot build the policy for WebAssembly: {lines[0].strip()[:200]}")
        return program.read_bytes()


def _stack(source: Source) -> int:
    """Bytes, in whole units of the stack's alignment. host.c keeps a state meanwhile, which is less than the arrays."""
    return -(-(2 * source.stack_bytes + STACK_MARGIN) // 16) * 16
