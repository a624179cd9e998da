"""What a machine that runs policies has, what it lacks, and the command that would help."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from mast_runtime.errors import RuntimeFault
from mast_runtime.imports import EVERYTHING, ROBOTS, distributions, importable, install_command, why
from mast_runtime.measure.tables import bare_table

if TYPE_CHECKING:
    from rich.console import Console

KERNEL = "native kernel"
TIMES_SLOWER = {"x86_64": 110, "aarch64": 44, "armv7l": 33}
"""A decision of the numpy reference over the kernel's: benchmarks/results/arm.json, rounded."""

Status = Literal["ok", "warn", "missing"]
Finding = tuple[Status, str]


@dataclass(frozen=True)
class Check:
    """One finding. "warn": usable, with a limit; "missing": cannot be used. `advice` is empty when all is well."""

    name: str
    status: Status
    detail: str
    advice: str = ""


Probe = tuple[str, Callable[[], Finding], str]
"""Name, what finds out, advice."""


def print_checks(checks: Sequence[Check], console: Console, last: str = "") -> None:
    """One row a check, then what to do about each, never broken: it is there to be copied; then `last`.

    A missing kernel comes before all. Printed as it is, so on a console of mast_runtime.console.
    """
    for check in checks:
        if check.name == KERNEL and check.status != "ok":
            console.print(f"{check.detail}. {check.advice}", soft_wrap=True)
    table = bare_table()
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
    if last:
        console.print(last, soft_wrap=True)


def diagnose() -> list[Check]:
    """The checks in the order to show them. Loads the optional packages. Never raises."""
    return [examined(*probe) for probe in RUNTIME]


def examined(name: str, probe: Callable[[], Finding], advice: str, told: type[Exception] = RuntimeFault) -> Check:
    """What a probe finds, advice where it is not all well. Never raises: what fails is a finding.

    told: errors whose text is one for a user.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status, detail = probe()
    except ModuleNotFoundError as error:
        status, detail = "missing", f"not installed ({error})"
    except told as error:
        status, detail = "missing", str(error)
    except (Exception, SystemExit) as error:
        status, detail = "missing", f"broken: {why(error)}"
    return Check(name, status, detail, "" if status == "ok" else advice)


def packages(*modules: str) -> Callable[[], Finding]:
    """A probe that imports every module and reports the version of the distribution it is named after."""

    def probe() -> Finding:
        for module in modules:
            import_module(module)
        return "ok", ", ".join(f"{module} {version(module)}" for module in modules)

    return probe


def _python() -> Finding:
    detail = f"{platform.python_version()} ({sys.executable}), {platform.machine()}"
    return ("ok" if sys.version_info >= (3, 11) else "missing"), detail


def _mast() -> Finding:
    found = distributions()
    detail = " and ".join(f"{name} {number}" for name, number in found.items())
    if len(found) > 1:
        return "warn", f"{detail}: each has files of the other, and what runs is what came last"
    return ("ok", detail) if found else ("warn", "not installed: running from a checkout")


def _native_kernel() -> Finding:
    from mast_runtime import native, native_status

    if not native.missing():
        return "ok", native_status()
    if not importable("numpy"):
        return "missing", f"NO KERNEL and no numpy: no policy can run here ({native.reason()})"
    times = TIMES_SLOWER.get(platform.machine(), min(TIMES_SLOWER.values()))
    return "warn", f"NO KERNEL: a decision takes about {times} times as long ({native.reason()})"


def _compiler() -> Finding:
    for name in [*os.environ.get("CC", "").split()[:1], "cc", "gcc", "clang"]:
        if found := shutil.which(name):
            return "ok", found
    return "missing", "no cc, gcc or clang on PATH"


WHEEL = (
    f"A wheel brings it: pip install --force-reinstall --no-deps --only-binary :all: {ROBOTS} "
    f"(or {EVERYTHING}); so does a C compiler: apt install gcc python3-dev, then install from source again"
)
RUNTIME: tuple[Probe, ...] = (
    ("Python", _python, "use Python 3.11 or newer"),
    ("mast", _mast, f"pip uninstall {ROBOTS} {EVERYTHING}, then install one; in a checkout pip install -e ."),
    ("numpy", packages("numpy"), "pip install numpy (needed only to train, export and measure)"),
    ("safetensors", packages("safetensors"), "pip install safetensors (needed only to train and export)"),
    (KERNEL, _native_kernel, WHEEL),
    ("C compiler", _compiler, "apt install gcc (needed only to build the kernels)"),
    ("serve", packages("uvicorn", "prometheus_client"), install_command("serve")),
    ("onnx", packages("onnx"), install_command("export")),
    ("onnxruntime", packages("onnxruntime"), install_command("export")),
)
