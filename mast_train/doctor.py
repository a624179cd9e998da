"""What is installed here, what is missing, and the command that would help. Importing this module loads no torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from mast_train.envs import starcraft
from mast_train.errors import UserError

TRAIN = 'pip install "mast-marl[train]"'
EXPORT = 'pip install "mast-marl[export]"'
SERVE = 'pip install "mast-marl[serve]"'
Status = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """One finding. `warn`: works, with a limit; `missing`: a feature cannot be used. `advice` is empty when ok."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def diagnose() -> list[Check]:
    """Every check, in the order to show them. Never raises: a package that breaks on import is reported as missing.

    Loads torch, JAX and the other optional packages, which takes some seconds.
    """
    checks = [_guarded(name, advice, probe) for name, (probe, advice) in PROBES.items()]
    return [Check(check.name, check.status, check.detail, check.advice if check.status != "ok" else "") for check in checks]


Finding = tuple[Status, str]


def _guarded(name: str, advice: str, probe: Callable[[], Finding]) -> Check:
    try:
        status, detail = probe()
    except ModuleNotFoundError as error:
        status, detail = "missing", f"not installed ({error})" if error.name != name else "not installed"
    except UserError as error:
        status, detail = "missing", str(error)
    except Exception as error:
        text = " ".join(str(error).split())
        status, detail = "missing", f"installed but broken: {type(error).__name__}: {text}"
    return Check(name, status, detail, advice)


def _package(*modules: str) -> Callable[[], Finding]:
    """A probe that imports `modules` and reports the versions of the distributions of those names."""

    def probe() -> Finding:
        for module in modules:
            import_module(module)
        return "ok", ", ".join(_version(module) for module in modules)

    return probe
