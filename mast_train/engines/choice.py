"""Which engine runs a configuration: the table of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mast_train.settings.errors import UserError

if TYPE_CHECKING:
    import torch

    from mast_train.engines.base import Engine, Parts
    from mast_train.envs.base import EnvSpec
    from mast_train.settings.config import Config


@dataclass(frozen=True)
class Kernel:
    """code: file of this folder, and what makes the engine of some seeds. device, packages: what it needs, "" for any
    device. graphs: whether updates are recorded."""

    code: str
    device: str = ""
    graphs: bool = False
    packages: tuple[str, ...] = ()


KERNELS = {
    "native": Kernel("native_engine:NativeEngine", "cpu"),
    "fused": Kernel("fused_engine:FusedEngine", "cuda", graphs=True, packages=("triton", "cuda.bindings")),
    "graph": Kernel("torch_engine:at_once", "cuda", graphs=True),
    "torch": Kernel("torch_engine:in_turn"),
}
"""By the setting `kernel`; "auto" is the first that runs. Importing the table loads no torch."""


def make_engine(
    config: Config, spec: EnvSpec, device: torch.device, parts: Sequence[Parts], in_torch: str = ""
) -> tuple[Engine, bool]:
    """The engine, and whether its updates are recorded as CUDA graphs. in_torch: what the algorithm has that only the
    kernel torch runs, "" for nothing. Raises UserError where it cannot run."""
    kernel = KERNELS[kernel_name(config.kernel, device, in_torch or _in_torch(config))]
    file, _, make = kernel.code.partition(":")
    return getattr(import_module(f"mast_train.engines.{file}"), make)(config, spec, parts), kernel.graphs


def kernel_name(wanted: str, device: torch.device, in_torch: str = "") -> str:
    """The row of KERNELS that the setting `kernel` stands for on a device. in_torch: as of make_engine. Raises
    UserError where it cannot run."""
    if in_torch:
        if wanted not in ("auto", "torch"):
            raise UserError(f"kernel {wanted!r} does not run {in_torch}; use kernel = 'torch'")
        return "torch"
    if wanted == "auto":
        return next(name for name in KERNELS if not _missing(name, device))
    if missing := _missing(wanted, device):
        others = ", ".join(repr(name) for name in KERNELS if name != wanted and not _missing(name, device))
        raise UserError(f"kernel {wanted!r} {missing}; use kernel = {others}")
    return wanted


def _in_torch(config: Config) -> str:
    """What of the settings only the kernel torch runs."""
    if not config.net.recurrent:
        return "agents without a memory (net.recurrent = false)"
    return "pieces of episodes (replay.segment)" if config.replay.segment else ""


def _missing(name: str, device: torch.device) -> str:
    """Why a kernel cannot run on a device; "" when it can."""
    if KERNELS[name].device == "cuda" and device.type != "cuda":
        return "needs a CUDA GPU (--device cuda)"
    for package in KERNELS[name].packages:
        if not _installed(package):
            return f"needs the package {package}, which comes with torch's CUDA builds"
    if KERNELS[name].device != "cpu":
        return ""
    from mast_train.engines import native

    if not (device.type == "cpu" and native.available()):
        return f"needs the C extension and the CPU; {native.status()}"
    return ""


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
