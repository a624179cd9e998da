"""How many processes a sweep has at once, and how many cells each trains, where nobody says."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

from mast_train.envs import ENVS
from mast_train.sweeps.sweep import Sweep

ON_A_GPU = 64
"""Cells of a process that fills a card (docs/gpu.md)."""


@dataclass(frozen=True)
class Width:
    """jobs: processes at once. together: the most cells of one. divided: nobody chose `together`, so that each of
    `jobs` processes gets its share of the cells before any gets as many."""

    jobs: int
    together: int = 1
    divided: bool = False

    def most(self, cells: int) -> int:
        """The most cells of one process while this many are left."""
        return min(self.together, max(1, -(-cells // self.jobs))) if self.divided else self.together


def width_of(sweep: Sweep, jobs: int | None = None, together: int | None = None) -> Width:
    """As given, or as the sweep says, or by the machine.

    One process a core, by the threads of the cell that takes most, of one cell. One process in all, of as many cells as
    fill a GPU, where every cell trains on one in an environment that is one program there.
    """
    jobs, together = jobs or sweep.jobs, together or sweep.together
    fills = all(_fills_a_gpu(group.config.env.name, group.config.device) for group in sweep.groups)
    if jobs is None:
        jobs = 1 if fills else max(1, _cores() // max(group.config.threads for group in sweep.groups))
    if together is None and fills:
        return Width(jobs, ON_A_GPU, divided=True)
    return Width(jobs, together or 1)


def _fills_a_gpu(env: str, device: str) -> bool:
    return env in ENVS and ENVS[env].one_program and (device == "cuda" or (device == "auto" and has_gpu()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu() -> bool:
    """Whether the device "auto" is a GPU here. Loads torch only where NVIDIA's driver is."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
