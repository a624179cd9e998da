"""The table of algorithms. Adding one is a file in this folder and a line here (docs/architecture.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mast_train.algorithms.base import Algorithm  # imports torch, which settings can do without

ALGORITHMS = {
    "qmix": "qmix:QMIX",
    "vdn": "vdn:VDN",
    "iql": "iql:IQL",
    "owqmix": "wqmix:OWQMIX",
    "cwqmix": "wqmix:CWQMIX",
    "res": "res:RES",
    "facmac": "facmac:FACMAC",
    "comix": "comix:COMIX",
}
"""Name -> file and class."""


def algorithm(name: str) -> type[Algorithm]:
    """The algorithm of a row of the table. Raises KeyError."""
    file, _, found = ALGORITHMS[name].partition(":")
    return getattr(import_module(f"{__name__}.{file}"), found)
