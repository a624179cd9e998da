"""What is installed here, what is missing, and the command that would help. Importing this module loads no torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from rich.console import Console
from rich.table import Table

from mast_train.envs import smax_jax, starcraft
from mast_train.settings.errors import UserError

TRAIN = 'pip install "mast-marl[train]"'
EXPORT = 'pip install "mast-marl[export]"'
SERVE = 'pip install "mast-marl[serve]"'
BASE = "pip install mast-marl"
JAX_GPU = 'pip install "jax[cuda13]" (or cuda12, to match the driver)'
SMAC = (
    f"for the real game: pip uninstall smac, then {starcraft.SMAC_INSTALL}, in an environment of its own "
    "(it needs protobuf < 3.21, which onnx does not accept)"
)
TORCH_GPU = "for a GPU, choose a CUDA build at https://pytorch.org/get-started/locally"

Status = Literal["ok", "warn", "missing"]
Finding = tuple[Status, str]


@dataclass(frozen=True)
class Check:
    """One finding. "warn": usable, with a limit; "missing": cannot be used. `advice` is empty when all is well."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """One row a check, then what to do about each, never broken: it is there to be copied.

    Printed as it is, so on a console of mast_runtime.console.
    """
    table = Table(box=None)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "ok", "warn": "!", "missing": "-"}
    advice: dict[str, list[str]] = {}
    for check in checks:
        table.add_row(marks[check.status], check.name, check.detail)
        if check.advice:
            advice.setdefault(check.advice, []).append(check.name)
    console.print(table)
    for words, names in advice.items():
        console.print(f"{', '.join(names)}: {words}", soft_wrap=True)
    if not any(check.name == TRAINING[0][0] for check in checks):
        console.print("This machine runs policies. What training needs: mast doctor --train", soft_wrap=True)


def diagnose(training: bool = False) -> list[Check]:
    """The checks in the order to show them: of running policies, and of training if asked for or where torch is.

    Loads the optional packages, torch and JAX among them: some seconds. Never raises: a package that fails while it is
    imported is a finding.
    """
    probes = RUNTIME + (TRAINING if training or find_spec("torch") else ())
    return [_check(name, probe, advice) for name, probe, advice in probes]


def _check(name: str, probe: Callable[[], Finding], advice: str) -> Check:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status, detail = probe()
    except ModuleNotFoundError as error:
        status, detail = "missing", f"not installed ({error})"
    except UserError as error:
        status, detail = "missing", str(error)
    except (Exception, SystemExit) as error:
        status, detail = "missing", f"broken: {type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name, status, detail, "" if status == "ok" else advice)


def _packages(*modules: str) -> Callable[[], Finding]:
    """A probe that imports every module and reports the version of the distribution it is named after."""

    def probe() -> Finding:
        for module in modules:
            import_module(module)
        return "ok", ", ".join(f"{module} {version(module)}" for module in modules)

    return probe


def _mamujoco() -> Finding:
    mujoco = _packages("mujoco")()[1]  # importing gymnasium-robotics prints warnings
    return "ok", f"{mujoco}, gymnasium-robotics {version('gymnasium-robotics')}"


def _python() -> Finding:
    detail = f"{platform.python_version()} ({sys.executable}), {platform.machine()}"
    return ("ok" if sys.version_info >= (3, 11) else "missing"), detail


def _mast() -> Finding:
    try:
        return "ok", f"mast-marl {version('mast-marl')}"
    except PackageNotFoundError:
        return "warn", "not installed: running from a checkout"


def _torch_gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return "warn", "torch sees no GPU: training runs on the CPU"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}"


def _jax_devices() -> Finding:
    jax = smax_jax.import_jax()
    devices = jax.devices()
    detail = ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in devices)
    if all(device.platform == "cpu" for device in devices) and _torch_gpu()[0] == "ok":
        return "warn", f"{detail}: JAX does not see torch's GPU, so SMAX runs on the CPU and steps are copied"
    return "ok", detail


def _jaxmarl() -> Finding:
    smax_jax.import_jaxmarl()
    import_module("six")
    return "ok", f"jaxmarl {version('jaxmarl')}, six {version('six')}"


def _vmas() -> Finding:
    from mast_train.envs.vmas import import_vmas

    import_vmas()
    return "ok", f"vmas {version('vmas')}"


def _native_kernel() -> Finding:
    from mast_runtime import native_status

    detail = native_status()
    return ("warn" if "not built" in detail else "ok"), detail


def _training_kernel() -> Finding:
    from mast_train.engines.native import available, status

    return ("ok" if available() else "warn"), status()


def _compiler() -> Finding:
    for name in [*os.environ.get("CC", "").split()[:1], "cc", "gcc", "clang"]:
        if found := shutil.which(name):
            return "ok", found
    return "missing", "no cc, gcc or clang on PATH"


def _smac() -> Finding:
    kind = starcraft.which_smac()
    if kind == "other":
        return "missing", f"smac {version('smac')} is SMAC3, a hyper-parameter optimiser, not the StarCraft challenge"
    if kind == "none":
        return "missing", "not installed"
    return "ok", f"SMAC {version('smac')}"


def _starcraft() -> Finding:
    path = starcraft.game_path()
    found = starcraft.game_version(path)
    return ("ok", f"{found} at {path}") if found else ("missing", f"not found at {path} (SC2PATH)")


def _smac_maps() -> Finding:
    path = starcraft.game_path()
    found = starcraft.maps_path(path)
    return ("ok", str(found)) if found else ("missing", f"not found in {path / 'Maps' / 'SMAC_Maps'}")


Probe = tuple[str, Callable[[], Finding], str]
"""Name, what finds out, advice."""
RUNTIME: tuple[Probe, ...] = (
    ("Python", _python, "use Python 3.11 or newer"),
    ("mast", _mast, "pip install -e . in the checkout"),
    ("numpy", _packages("numpy"), BASE),
    ("safetensors", _packages("safetensors"), BASE),
    ("native kernel", _native_kernel, "install a C compiler, then pip install --force-reinstall mast-marl"),
    ("C compiler", _compiler, "apt install gcc (needed only to build the kernels)"),
    ("serve", _packages("starlette", "uvicorn", "prometheus_client"), SERVE),
    ("onnx", _packages("onnx"), EXPORT),
    ("onnxruntime", _packages("onnxruntime"), EXPORT),
)
TRAINING: tuple[Probe, ...] = (
    ("torch", _packages("torch"), TRAIN),
    ("training kernel", _training_kernel, "install a C compiler, then pip install --force-reinstall mast-marl"),
    ("torch GPU", _torch_gpu, TORCH_GPU),
    ("jax", _packages("jax", "jaxlib"), TRAIN),
    ("jax devices", _jax_devices, JAX_GPU),
    ("jaxmarl", _jaxmarl, TRAIN),
    ("vmas", _vmas, 'pip install "mast-marl[vmas]" (needed only for --env vmas)'),
    ("mamujoco", _mamujoco, 'pip install "mast-marl[mamujoco]" (needed only for --env mamujoco)'),
    ("pettingzoo", _packages("pettingzoo"), 'pip install "mast-marl[pettingzoo]" (needed only for --env pettingzoo)'),
    ("smac", _smac, SMAC),
    ("StarCraft II", _starcraft, f"for the real game: {starcraft.GAME_INSTALL}"),
    ("SMAC maps", _smac_maps, f"for the real game: {starcraft.MAPS_INSTALL}"),
)
