"""The CUDA source run on a CPU: a stand-in for `nvrtc.kernel` that compiles it with g++ under cuda_emulation.h."""

from __future__ import annotations

import ctypes
import re
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

HEADER = Path(__file__).with_name("cuda_emulation.h")
OUTCOMES = {1: "some threads of a block ended before a barrier", 2: "trapped", 3: "wrote beyond its shared memory"}


class Emulated:
    """A function of the source; called like `nvrtc.Kernel`."""

    falling = False
    """Whether the threads of a block run in falling order between barriers."""

    def __init__(self, function) -> None:
        self.function = function

    def __call__(self, grid, threads, shared, arguments) -> None:
        values = [
            argument.data_ptr() if isinstance(argument, torch.Tensor) else argument or 0 for argument in arguments
        ]
        packed, sizes = (ctypes.c_longlong * len(values))(*values), (ctypes.c_int * 2)(*grid)
        outcome = self.function(len(values), packed, sizes, threads, shared, Emulated.falling)
        if outcome:
            raise RuntimeError(OUTCOMES.get(outcome, "called with the wrong number of arguments"))


@cache
def _library(path: Path, defines: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    library = Path(mkdtemp()) / "kernels.so"
    names = re.findall(r'extern "C" __global__ void[\w\s]*?(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(', path.read_text())
    runs = "".join(f"RUN({name})\n" for name in names)
    source = f'#include "{HEADER}"\n#include "{path}"\n{runs}'
    flags = [f"-D{name}={value}" for name, value in defines]
    command = ["g++", "-x", "c++", "-", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wno-unknown-pragmas", *flags]
    subprocess.run([*command, "-o", str(library)], input=source, text=True, check=True)
    return ctypes.CDLL(str(library))


def kernel(path: Path, name: str, defines: tuple[tuple[str, int], ...], wide: frozenset[int], device: int) -> Emulated:
    return Emulated(getattr(_library(path, defines), f"run_{name}"))
