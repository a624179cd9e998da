"""The machine that a measurement was taken on, and whether it was quiet."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mast_runtime.native import status

PACKAGES = ("mast-marl", "mast-runtime", "numpy", "safetensors", "onnxruntime", "ai-edge-litert", "openvino")


@dataclass(frozen=True)
class Machine:
    """What a figure depends on. load_average: runnable processes over the last minute, None where unknown."""

    cpu: str
    cores: int
    os: str
    python: str
    versions: dict[str, str]
    native: str
    load_average: float | None

    @property
    def warning(self) -> str:
        """A line when more than half of the cores were already busy, else empty. Read before measuring."""
        if self.load_average is None or self.load_average <= self.cores / 2:
            return ""
        return (
            f"the machine was busy before the measurement began (load average {self.load_average:.1f}, "
            f"{self.cores} cores): trust the ratios, not the times"
        )


def describe_machine() -> Machine:
    """This machine, now."""
    return Machine(
        _cpu_model(),
        os.cpu_count() or 1,
        platform.platform(),
        platform.python_version(),
        {name: found for name in PACKAGES if (found := _version(name))},
        status(),
        os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
