"""Training of ultra-sparse multi-agent Q-learners. From Python: `from mast_train import api` (docs/python.md)."""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """`api`, imported when it is first asked for: it needs torch, which settings and reports do without."""
    if name == "api":
        return import_module("mast_train.commands.api")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
