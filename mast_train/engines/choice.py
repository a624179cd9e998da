"""Which engine runs a configuration: the table of kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from mast_train.engines import native
from mast_train.engines.base import Engine, Parts
from mast_train.engines.native_engine import NativeEngine
from mast_train.engines.torch_engine import TorchEngine
from mast_train.envs.base import EnvSpec
from mast_train.settings.config import Config
from mast_train.settings.errors import UserError


@dataclass(frozen=True)
class Kernel:
    """make: the engine of some seeds. device, packages: what it needs, "" for any device. graphs: whether updates are
    recorded."""

    make: Callable[[Config, EnvSpec, Sequence[Parts]], Engine]
    device: str = ""
    graphs: bool = False
    packages: tuple[str, ...] = ()


def _torch(config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> Engine:
    return TorchEngine(config, spec, parts, at_once=False)


def _fused(config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> Engine:
    from mast_train.engines.fused_engine import FusedEngine  # needs Triton, which comes with torch on a GPU

    return FusedEngine(config, spec, parts)


def _graph(config: Config, spec: EnvSpec, parts: Sequence[Parts]) -> Engine:
    return TorchEngine(config, spec, parts, at_once=True)


KERNELS = {
    "native": Kernel(NativeEngine, "cpu"),
    "fused": Kernel(_fused, "cuda", graphs=True, packages=("triton", "cuda.bindings")),
    "graph": Kernel(_graph, "cuda", graphs=True),
    "torch": Kernel(_torch),
}
"""By the setting `kernel`; "auto" is the first that runs."""


def make_engine(config: Config, spec: EnvSpec, device: torch.device, parts: Sequence[Parts]) -> tuple[Engine, bool]:
    """The engine, and whether its updates are recorded as CUDA graphs. Raises UserError where it cannot run."""
    kernel = KERNELS[kernel_name(config.kernel, device)]
    return kernel.make(config, spec, parts), kernel.graphs


def kernel_name(wanted: str, device: torch.device) -> str:
    """The row of KERNELS that the setting `kernel` stands for on a device. Raises UserError where it cannot run."""
    if wanted == "auto":
        return next(name for name in KERNELS if not _missing(name, device))
    if missing := _missing(wanted, device):
        others = ", ".join(repr(name) for name in KERNELS if name != wanted and not _missing(name, device))
        raise UserError(f"kernel {wanted!r} {missing}; use kernel = {others}")
    return wanted


def _missing(name: str, device: torch.device) -> str:
    """Why a kernel cannot run on a device; "" when it can."""
    if KERNELS[name].device == "cuda" and device.type != "cuda":
        return "needs a CUDA GPU (--device cuda)"
    for package in KERNELS[name].packages:
        if not _installed(package):
            return f"needs the package {package}, which comes with torch's CUDA builds"
    if KERNELS[name].device == "cpu" and not (device.type == "cpu" and native.available()):
        return f"needs the C extension and the CPU; {native.status()}"
    return ""


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
