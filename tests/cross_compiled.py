"""Triton kernels compiled for sm_90 on a machine without a GPU: registers, spills and shared memory."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Resources:
    registers: int
    spilled_bytes: int
    shared_bytes: int


def resources(kernel, flags: dict, warps: int, stages: int, channel_major: bool = True) -> Resources:
    """Of a kernel of mast_train.engines.fused for the constants `flags`; its strides as the layout makes them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {"gates", "states", "saved", "weight", "bias", "upstream", "grads", "passed"}
    signature, constants = {}, dict(flags)
    for name in kernel.arg_names:
        if name in flags:
            signature[name] = "constexpr"
        elif name.endswith("_p" if channel_major else "_c"):
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "*fp32" if name in pointers else "*i32" if name in ("lengths", "begins") else "i32"
    attributes = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or (name.endswith(("_g", "_c", "_p")) and name not in constants)
    }
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(built.asm["ptx"])
        target = re.search(r"\.target (\S+)", built.asm["ptx"])[1].rstrip(",")
        command = ["ptxas", "-v", f"-arch={target}", str(path), "-o", str(path.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    return Resources(int(registers[1]), int(spilled[1]), built.metadata.shared)
