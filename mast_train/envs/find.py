"""A user's environment by name: MODULE:FACTORY or FILE.py:FACTORY to what makes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from mast_train.envs import install
from mast_train.envs.door import located
from mast_train.settings.errors import UserError, suggest

_FOLDERS: set[Path] = set()
"""Of the environment files loaded in this process: what they import beside them comes from there."""


def load_factory(name: str, kind: str = "pettingzoo") -> Callable[..., Any]:
    """The callable that MODULE:FACTORY or FILE.py:FACTORY names. kind: how it is asked for, --env KIND:...

    A file finds the modules beside it, as when Python runs it; a module is also looked for in the current folder.
    Raises UserError.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"{kind} {name!r}: expected MODULE:FACTORY, for example --env {kind}:my_game.py:make")
    try:
        module = _from_file(place, kind) if place.endswith(".py") else _from_name(place)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{kind} {place}: no module named {error.name!r}; {_advice(place, error.name or '')}"
        ) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{kind} {place}: importing it failed: {located(error)}") from error
    if not hasattr(module, attribute):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{kind} {name}: {place} has no {attribute!r}: {suggest(attribute, names)}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise UserError(f"{kind} {name}: {attribute} is {type(factory).__name__}, expected a function or a class")
    return factory


def _advice(place: str, missing: str) -> str:
    if missing == place:
        return "name a module that Python finds from here, or a .py file"
    if missing.partition(".")[0] in ("pettingzoo", "gymnasium"):
        return install("pettingzoo")
    beside = f"in {Path(place).parent.resolve()}" if place.endswith(".py") else f"in {Path.cwd()}"
    return f"it is neither {beside} nor installed"


def _from_name(place: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return import_module(place)


def _from_file(place: str, kind: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise UserError(f"{kind} {place}: no such file (from {Path.cwd()})")
    spec = spec_from_file_location(f"mast_environment_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    with _beside(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """`folder` is searched first while its file is loaded, and last from then on.

    Modules of other environments' folders are forgotten where this one has its own of the same name.
    """
    own = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    for name in own & sys.modules.keys():
        home = Path(getattr(sys.modules[name], "__file__", None) or "")
        if (home.parent.parent if home.name == "__init__.py" else home.parent) in _FOLDERS - {folder}:
            for part in [part for part in sys.modules if part == name or part.startswith(f"{name}.")]:
                del sys.modules[part]
    _FOLDERS.add(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.path.append(str(folder))
