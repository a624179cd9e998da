"""The door between a user's environment and the trainer: every call goes out through it, every value comes in.

What is wrong becomes one line that names the environment, the call, the value and the user's own line of code.
"""

from __future__ import annotations

import inspect
import reprlib
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from mast_train.settings.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
NUMBERS = "biuf"
"""numpy's kinds of arrays that hold booleans and real numbers."""


class Refused(ValueError):
    """A value that breaks the contract: what it is, what was expected."""


class Door:
    """One environment's. Every error that leaves `call` is a UserError of one line."""

    def __init__(self, label: str, factory: Callable[..., Any]) -> None:
        """label: what errors call the environment. factory: its lines stand in until there is one."""
        self._label, self._factory = label, factory
        self.env: Any = None

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """name: the method, or in words what else is asked of the environment."""
        try:
            yield
        except UserError:
            raise
        except Refused as refused:
            said = f" {refused}" if str(refused).startswith("returned ") else f": {refused}"
            raise self.wrong(f"{name}{said}{self._place(name)}") from refused
        except (Exception, SystemExit) as error:
            raise self.wrong(f"{name} failed: {located(error, self._factory)}") from error

    def wrong(self, what: str) -> UserError:
        """The error for this environment."""
        return UserError(f"{self._label}: {' '.join(what.split())}")

    def _place(self, name: str) -> str:
        """Where the user defines method `name`, below any wrapper of PettingZoo's."""
        owners = (self.env, getattr(self.env, "unwrapped", None))
        found = [code for owner in owners if (code := _code(getattr(owner, name, None)))]
        own = [code for code in found if not _foreign(code.co_filename)]
        return _shown(*_start(own[0])) if own else ""


def located(error: BaseException, called: Callable[..., Any] | None = None) -> str:
    """An exception in words, with the user's own line nearest to it; where it has none, that where `called` begins."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg}{_shown(error.filename, error.lineno or 0)}"
    if own := users_lines(error):
        return said + _shown(*own[-1])
    if code := _code(called):
        return said + _shown(*_start(code))
    return said


def users_lines(error: BaseException) -> list[tuple[str, int]]:
    """The lines (file, number) of a traceback that are neither this package's nor an installed one's."""
    frames = traceback.extract_tb(error.__traceback__)
    return [(frame.filename, frame.lineno or 0) for frame in frames if not _foreign(frame.filename)]


def short(value: Any) -> str:
    """A value as Python writes it, on one line and not too long."""
    text = " ".join(reprlib.repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def parts(answer: Any, names: tuple[str, ...], agents: Collection[Any]) -> list[Mapping[Any, Any]]:
    """The dictionaries that a call returned, one for each name, keyed by agents. Raises Refused.

    Infos may have other keys: they are read for those of the agents alone.
    """
    if not isinstance(answer, tuple) or len(answer) != len(names):
        raise Refused(f"returned something other than ({', '.join(names)}): {short(answer)}")
    for name, part in zip(names, answer, strict=True):
        if not isinstance(part, Mapping):
            raise Refused(f"{name} is {short(part)}, expected a dictionary with an entry for each agent")
        for key in part if name != "infos" else ():
            if key not in agents:
                raise Refused(f"{name} has an entry {short(key)}, none of possible_agents {short(list(agents))}")
    return list(answer)


def number(value: Any, what: str) -> float:
    """One finite number: a scalar, or an array of one. Raises Refused."""
    if type(value) is float and isfinite(value):
        return value
    array = numeric(value)
    if array is None or array.size != 1 or not np.isfinite(single := float(array.reshape(-1)[0])):
        raise Refused(f"{what} is {short(value)}, expected one finite number")
    return single


def flag(value: Any, what: str) -> bool:
    """True or False, as a scalar or an array of one; 0 and 1 stand for them. Raises Refused."""
    if value is True or value is False:
        return value
    array = numeric(value)
    if array is None or array.size != 1 or array.reshape(-1)[0] not in (0, 1):
        raise Refused(f"{what} is {short(value)}, expected True or False")
    return bool(array.reshape(-1)[0])


def numeric(value: Any) -> np.ndarray | None:
    """As an array of numbers; None for what is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype.kind in NUMBERS else None


def finite(value: Any, what: str) -> np.ndarray:
    """A float32 array of what is finite as such. Raises Refused, with the first that is not and its place."""
    given = numeric(value)
    if given is None:
        raise Refused(f"{what} is {short(value)}, expected numbers")
    if given.dtype == np.float32:
        array = given.copy()
    else:
        with np.errstate(over="ignore"):
            array = given.astype(np.float32)
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise Refused(f"{what} holds {given.reshape(-1)[index]} at position {index}; values must be finite float32")
    return array


def image(value: Any) -> np.ndarray | None:
    """What `render` returned as pixels [H,W,3] uint8; None where it is no array. Raises Refused."""
    if not isinstance(value, np.ndarray):
        return None
    fits = value.ndim == 3 and value.shape[2] in (3, 4) and value.dtype.kind in "iu" and value.size
    if not fits or value.min() < 0 or value.max() > 255:
        raise Refused(
            f"an array of shape {value.shape} and type {value.dtype}, expected an image [height, width, 3] of whole "
            "numbers from 0 to 255"
        )
    return value[:, :, :3].astype(np.uint8)


def _code(function: Any) -> Any:
    """The code of a function, method, or class; None for what has none in Python."""
    if not callable(function):
        return None
    function = inspect.unwrap(function)
    return getattr(function.__init__ if isinstance(function, type) else function, "__code__", None)


def _start(code: Any) -> tuple[str, int]:
    return code.co_filename, code.co_firstlineno


def _shown(file: str, line: int) -> str:
    return f" ({Path(file).name}, line {line})"


def _foreign(file: str) -> bool:
    """Of this package, of Python, or of an installed one."""
    return Path(file).is_relative_to(PACKAGE) or file.startswith(("<", *LIBRARIES))
