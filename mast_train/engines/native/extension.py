"""The compiled extension: whether it is there, and on which instruction set it runs."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

try:
    _train: Any = import_module("mast_train.engines.native._train")
    _missing = ""
except ImportError as error:
    _train, _missing = None, str(error)


def available() -> bool:
    """Whether the extension was built; `status` says why not."""
    return _train is not None


def status() -> str:
    """One line: the instruction set in use ("native training: avx512"), or why there is none."""
    if _train is None:
        return f"native training: not built ({_missing}); install a C compiler and reinstall mast-marl"
    return f"native training: {check_level(None)}"


def levels() -> tuple[str, ...]:
    """Instruction sets whose kernels run here, best first; empty when the extension is not built."""
    return () if _train is None else _train.levels()


def extension() -> Any:
    """The compiled module. Raises ValueError when it is not built."""
    if _train is None:
        raise ValueError(status())
    return _train


def check_level(level: str | None) -> str:
    """The level itself, or MAST_NATIVE_LEVEL, or the best. Raises ValueError for one that does not run here."""
    level = level or os.environ.get("MAST_NATIVE_LEVEL") or extension().levels()[0]
    if level not in levels():
        raise ValueError(f"native level {level!r}: this machine runs {', '.join(levels()) or 'none'}")
    return level
