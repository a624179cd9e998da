"""Packages that are installed and cannot be imported: which, and why, in a line. And what installs them."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module

MAX_CHARACTERS = 160
EVERYTHING, ROBOTS = "mast-marl", "mast-runtime"
"""The two distributions that hold this package."""
ROBOTS_EXTRAS = ("export", "reference", "serve", "tables")
"""Of mast-runtime."""


def importable(*packages: str) -> bool:
    """Whether all of them are installed and can be imported; they then are."""
    try:
        for package in packages:
            import_module(package)
    except Exception:
        return False
    return True


def broken_package(error: BaseException, packages: Collection[str]) -> str | None:
    """The outermost of these packages whose own code was being imported when `error` was raised, or None."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name in packages:
            return name
        trace = trace.tb_next
    return None


def why(error: BaseException) -> str:
    """The first line of an error, with its type; and what to do where SMAC's protobuf is the reason."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {text}"
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 3] + "..."
    found = _version("protobuf")
    if found.startswith(("2.", "3.")):
        cure = "pip install --upgrade protobuf"
        if _version("smac"):
            cure = f"SMAC wants it so: pip uninstall smac pysc2, {cure}; mast smac install gives it a Python of its own"
        text += f" (protobuf {found} is old; {cure})"
    return text


def distributions() -> dict[str, str]:
    """Those of ours that are installed, with their versions: one, none in a checkout, and by mistake both."""
    return {name: found for name in (EVERYTHING, ROBOTS) if (found := _version(name))}


def install_command(extra: str = "", everything: bool = False) -> str:
    """What to type for an extra of the distribution that is here; of mast-marl where that one has it not.

    everything: what is missing is no package of others but the rest of ours.
    """
    robot = ROBOTS in distributions()
    name = ROBOTS if robot and not everything and extra in ("", *ROBOTS_EXTRAS) else EVERYTHING
    wanted = f'"{name}[{extra}]"' if extra else name
    return f"pip uninstall {ROBOTS}, then pip install {wanted}" if robot and name != ROBOTS else f"pip install {wanted}"


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # for mistakes only: its import takes longer than ours

    try:
        return version(name)
    except PackageNotFoundError:
        return ""
