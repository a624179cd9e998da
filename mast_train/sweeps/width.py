"""How many processes a sweep has at once, and how many cells each trains, where nobody says."""

from __future__ import annotations

import ctypes
import os

from mast_train.envs import ENVS
from mast_train.sweeps.sweep import Sweep

ON_A_GPU = 64
"""Cells of a process that fills a card (docs/gpu.md)."""


def default_jobs(sweep: Sweep) -> int:
    """One process a core, by the threads of the cell that takes most; one in all where cells train on a GPU."""
    if sweep.jobs or _on_gpu(sweep):
        return sweep.jobs or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(group.config.threads for group in sweep.groups))


def default_together(sweep: Sweep) -> int:
    """One cell a process; on a GPU as many as fill it, but of environments that are processes of their own."""
    costly = any(ENVS[group.config.env.name].costly for group in sweep.groups if group.config.env.name in ENVS)
    return sweep.together or (ON_A_GPU if _on_gpu(sweep) and not costly else 1)


def _on_gpu(sweep: Sweep) -> bool:
    devices = {group.config.device for group in sweep.groups}
    return "cuda" in devices or ("auto" in devices and has_gpu())


def has_gpu() -> bool:
    """Whether the device "auto" is a GPU here. Loads torch only where NVIDIA's driver is."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
