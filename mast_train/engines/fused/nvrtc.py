"""CUDA C++ compiled at run time (NVRTC) and launched on torch's stream.

Both come with torch's CUDA builds (`cuda-bindings`, `nvidia-cuda-nvrtc`); no compiler has to be installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

Value = torch.Tensor | int | None


class Kernel:
    """A function of a compiled module. Call it with tensors (their addresses), None (a null pointer) and ints.

    `wide`: the arguments that are 64-bit integers, by position; other ints are 32 bits.
    """

    def __init__(self, function: object, wide: frozenset[int]) -> None:
        self.function, self.wide = function, wide
        self.shared = 0

    def __call__(self, grid: tuple[int, int], threads: int, shared: int, arguments: Sequence[Value]) -> None:
        """Launches on the current stream of the current device; recordable in a graph."""
        from cuda.bindings import driver

        if shared > self.shared:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _check(driver.cuFuncSetAttribute(self.function, attribute, shared))
            self.shared = shared
        values, kinds = [], []
        for number, argument in enumerate(arguments):
            if argument is None or isinstance(argument, torch.Tensor):
                values.append(0 if argument is None else argument.data_ptr())
                kinds.append(ctypes.c_void_p)
            else:
                values.append(argument)
                kinds.append(ctypes.c_longlong if number in self.wide else ctypes.c_int)
        stream = torch.cuda.current_stream().cuda_stream
        _check(
            driver.cuLaunchKernel(
                self.function, *grid, 1, threads, 1, 1, shared, stream, (tuple(values), tuple(kinds)), 0
            )
        )


@cache
def kernel(path: Path, name: str, defines: tuple[tuple[str, int], ...], wide: frozenset[int], device: int) -> Kernel:
    """The function `name` of the source at `path` for a device, compiled once a process."""
    from cuda.bindings import driver

    major, minor = torch.cuda.get_device_capability(device)
    with torch.cuda.device(device):
        torch.cuda.synchronize()  # makes the device's context current
        module = _module(path, defines, f"sm_{major}{minor}", device)
        return Kernel(_check(driver.cuModuleGetFunction(module, name.encode())), wide)


@cache
def _module(path: Path, defines: tuple[tuple[str, int], ...], target: str, device: int) -> object:
    from cuda.bindings import driver

    return _check(driver.cuModuleLoadData(compiled(path, defines, target)))


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block of the device may have."""
    from cuda.bindings import driver

    torch.cuda.init()
    number = torch.cuda.current_device() if device.index is None else device.index
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return _check(driver.cuDeviceGetAttribute(attribute, _check(driver.cuDeviceGet(number))))


def compiled(path: Path, defines: tuple[tuple[str, int], ...], target: str) -> bytes:
    """Machine code of the source at `path` for a target like "sm_90"; raises RuntimeError with the compiler's words."""
    from cuda.bindings import nvrtc

    options = [f"--gpu-architecture={target}", *(f"-D{name}={value}" for name, value in defines)]
    program = _check(nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 0, [], []))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])[0]
    if failed != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_check(nvrtc.nvrtcGetProgramLogSize(program)))
        _check(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"{path.name} does not compile for {target}: {log.decode(errors='replace').strip()}")
    code = bytearray(_check(nvrtc.nvrtcGetCUBINSize(program)))
    _check(nvrtc.nvrtcGetCUBIN(program, code))
    _check(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code)


def _check(result: tuple) -> Any:
    """The value of a call of cuda.bindings, (status, value...); raises RuntimeError when it failed."""
    status, *values = result
    if int(status):
        raise RuntimeError(f"CUDA says {status.name}")
    return values[0] if values else None
