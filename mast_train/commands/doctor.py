"""What training needs and has here, and the command that would help. Importing this module loads no torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from mast_runtime.measure.doctor import Check, Finding, Probe, examined, packages
from mast_train.envs import smac_process, smax_jax, starcraft
from mast_train.envs.smac_worker import which_smac
from mast_train.settings.errors import UserError

TRAIN = 'pip install "mast-marl[train]"'
JAX_GPU = 'pip install "jax[cuda13]" (or cuda12, to match the driver)'
SMAC = f"for the real game: {smac_process.INSTALL} makes a Python of its own for SMAC"
SMAC_HERE = (
    "pip uninstall smac pysc2, then pip install --upgrade protobuf; "
    f"{smac_process.INSTALL} gives SMAC a Python of its own"
)
TORCH_GPU = "for a GPU, choose a CUDA build at https://pytorch.org/get-started/locally"


def diagnose_training() -> list[Check]:
    """The checks of training in the order to show them; those of running are mast_runtime.measure.doctor's.

    Loads torch and JAX: some seconds. Never raises: a package that fails while it is imported is a finding.
    """
    _battles.cache_clear()
    return [examined(*probe, UserError) for probe in TRAINING]


def _mamujoco() -> Finding:
    mujoco = packages("mujoco")()[1]  # importing gymnasium-robotics prints warnings
    return "ok", f"{mujoco}, gymnasium-robotics {version('gymnasium-robotics')}"


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


def _training_kernel() -> Finding:
    from mast_train.engines.native import available, status

    return ("ok" if available() else "warn"), status()


@cache
def _battles() -> dict[str, Any]:
    """What the interpreter that plays battles says of itself; raises UserError."""
    return smac_process.probe(smac_process.find_python())


def _smac() -> Finding:
    found = _battles()
    where = f"Python {found['python']} ({found['executable']})"
    if not found["imported"]:
        return "missing", f"{where}: {found['problem']}"
    code = found["protobuf_code"]
    detail = f"SMAC {found['smac']}, PySC2 {found['pysc2']}, protobuf {found['protobuf']} ({code}), {where}"
    if code == "python":
        return "warn", f"{detail}: protobuf without compiled code, so steps take longer; a Python up to 3.10 has it"
    return "ok", detail


def _smac_here() -> Finding:
    """SMAC beside us needs a protobuf that nothing else here accepts."""
    installed = (
        f"protobuf {version('protobuf')}" if find_spec("google") and find_spec("google.protobuf") else "not installed"
    )
    if which_smac() != "smac":
        return "ok", installed
    return (
        "warn",
        f"{installed}, and SMAC, which wants one below 3.21: tensorboard, onnx and onnxruntime do not take that",
    )


def _starcraft() -> Finding:
    path = starcraft.game_path()
    found = starcraft.game_version(path)
    if found is None:
        return "missing", f"not found at {path} (SC2PATH)"
    problem = starcraft.binary_problem(path)
    return ("missing", f"{found} at {path}: {problem}") if problem else ("ok", f"{found} at {path}")


def _smac_maps() -> Finding:
    path = starcraft.game_path()
    folder = starcraft.maps_path(path)
    if folder is None:
        return "missing", f"not found in {path / 'Maps' / 'SMAC_Maps'}"
    absent = [name for name in starcraft.ALLIES if not (folder / f"{name}.SC2Map").is_file()]
    if absent:
        return "warn", f"{folder}, without {', '.join(absent)}"
    return "ok", f"{folder}, all {len(starcraft.ALLIES)}"


TRAINING: tuple[Probe, ...] = (
    ("torch", packages("torch"), TRAIN),
    ("training kernel", _training_kernel, "install a C compiler, then pip install --force-reinstall mast-marl"),
    ("torch GPU", _torch_gpu, TORCH_GPU),
    ("jax", packages("jax", "jaxlib"), TRAIN),
    ("jax devices", _jax_devices, JAX_GPU),
    ("jaxmarl", _jaxmarl, TRAIN),
    ("vmas", _vmas, 'pip install "mast-marl[vmas]" (needed only for --env vmas)'),
    ("mamujoco", _mamujoco, 'pip install "mast-marl[mamujoco]" (needed only for --env mamujoco)'),
    (
        "pettingzoo",
        packages("pettingzoo"),
        'pip install "mast-marl[pettingzoo]" (needed only for --env pettingzoo and aec)',
    ),
    ("smac", _smac, SMAC),
    ("protobuf", _smac_here, SMAC_HERE),
    ("StarCraft II", _starcraft, f"for the real game: {starcraft.GAME_INSTALL}"),
    ("SMAC maps", _smac_maps, f"for the real game: {starcraft.MAPS_INSTALL}"),
)
