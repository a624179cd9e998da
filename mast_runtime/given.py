"""What a caller gives to `act`, `executed` and `reset`: numpy reads its own arrays; the rest is read without it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from itertools import chain
from math import isfinite
from operator import index
from typing import TYPE_CHECKING, Any, NoReturn

from mast_runtime.arrays import is_numpy, numpy_here
from mast_runtime.errors import ObservationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Rows = Any
"""A matrix, or a list of its rows."""
MAX_AXES = 8
PLAIN_ROW = list, tuple, array


def read_obs(obs: Any, rows: int, columns: int) -> Any:
    """obs as the kernels read it, float32 [rows, columns], for rows 0 [columns]. Raises ObservationError."""
    if not (is_numpy(obs) and numpy_here()):
        return plain_obs(obs, rows, columns)
    import numpy as np

    checked = checked_obs(obs if rows else [obs], (max(rows, 1), columns))
    return np.ascontiguousarray(checked if rows else checked[0])


def read_avail(avail_actions: Any, rows: int, columns: int) -> Any:
    """avail_actions likewise, as flags of one byte."""
    if not (is_numpy(avail_actions) and numpy_here()):
        return plain_avail(avail_actions, rows, columns)
    import numpy as np

    checked = checked_avail(avail_actions if rows else [avail_actions], (max(rows, 1), columns))
    return np.ascontiguousarray(checked if rows else checked[0])


def checked_obs(obs: Rows, shape: tuple[int, int]) -> NDArray[np.float32]:
    """obs as float32 of `shape`, every value finite. Raises ObservationError."""
    import numpy as np

    try:
        with np.errstate(over="ignore"):
            array = np.asarray(obs, np.float32)
    except (TypeError, ValueError) as error:
        raise ObservationError(f"obs is not an array of numbers ({error})") from error
    if array.shape != shape:
        raise ObservationError(f"obs has shape {_row(array.shape, shape)}, expected {_row(shape, shape)}")
    if not np.isfinite(array).all():
        i, j = np.argwhere(~np.isfinite(array))[0]
        raise ObservationError(f"obs[{j}] of agent {i} is {array[i, j]}; values must be finite float32")
    return array


def checked_avail(avail_actions: Rows | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """avail_actions as bool of `shape`, at least one action per agent. Raises ObservationError."""
    import numpy as np

    if avail_actions is None:
        return np.ones(shape, np.bool_)
    if isinstance(avail_actions, list):  # numpy takes bytes for text
        avail_actions = [bytearray(row) if isinstance(row, bytes) else row for row in avail_actions]
    try:
        array = np.asarray(avail_actions)
        if array.dtype != np.bool_:
            array = array.astype(np.float64)
            if np.isnan(array).any():
                raise ValueError("it holds nan")
            array = array != 0
    except (TypeError, ValueError) as error:
        raise ObservationError(f"avail_actions is not an array of flags ({error})") from error
    if array.shape != shape:
        raise ObservationError(f"avail_actions has shape {_row(array.shape, shape)}, expected {_row(shape, shape)}")
    if not array.any(1).all():
        agent = np.flatnonzero(~array.any(1))[0]
        raise ObservationError(f"agent {agent} has no available action; at least one is needed")
    return array


def _row(given: tuple[int, ...], expected: tuple[int, int]) -> list[int]:
    """A single agent's caller passed one row: speak of that row."""
    return list(given[1:]) if expected[0] == 1 and len(given) >= 1 and given[0] == 1 else list(given)


def items(given: Any, axes_left: int = MAX_AXES) -> tuple[list[int], list[Any]]:
    """Shape and items of nested sequences or buffers; of anything else: [] and itself. Raises ValueError."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    elif isinstance(given, bytearray):
        given = list(given)
    elif not isinstance(given, Sequence | bytes):
        try:
            given = memoryview(given).tolist()
        except TypeError:
            return [], [given]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        return [], [given]
    if not axes_left:
        raise ValueError("it is nested too deeply")
    parts = [items(part, axes_left - 1) for part in given]
    if any(shape != parts[0][0] for shape, _ in parts):
        raise ValueError("its rows have different lengths")
    return [len(given), *(parts[0][0] if parts else ())], [item for _, own in parts for item in own]


def plain_obs(obs: Any, rows: int, columns: int) -> array[float] | memoryview[float]:
    """obs as float32 [rows, columns], for rows 0 [columns]; every value finite. Raises ObservationError."""
    values = _floats(obs, rows, columns)
    if values is None:
        try:
            shape, found = items(obs)
            values = array("f", map(float, found))
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise ObservationError(f"obs is not an array of numbers ({error!s:.120})") from error
        _check_shape("obs", shape, rows, columns)
    if not isfinite(sum(values)):  # in float64, which no such sum overflows
        i, value = next((i, value) for i, value in enumerate(values) if not isfinite(value))
        raise ObservationError(f"obs[{i % columns}] of agent {i // columns} is {value}; values must be finite float32")
    return memoryview(values).cast("B").cast("f", (rows, columns)) if rows else values


def _floats(obs: Any, rows: int, columns: int) -> array[float] | None:
    """The quick way for what is usual; None: it is not."""
    try:
        if not rows:
            plain = isinstance(obs, PLAIN_ROW) or (isinstance(obs, memoryview) and obs.ndim == 1)
            return array("f", obs) if plain and len(obs) == columns else None
        if not isinstance(obs, list | tuple) or [*map(len, obs)] != [columns] * rows:
            return None
        if not all(isinstance(row, PLAIN_ROW) for row in obs):
            return None
        return array("f", struct.pack(f"{rows * columns}f", *chain.from_iterable(obs)))
    except (TypeError, OverflowError, NotImplementedError, struct.error):
        return None


def plain_avail(avail_actions: Any, rows: int, columns: int) -> bytes | memoryview:
    """avail_actions likewise, a byte each, at least one of an agent's not 0. Raises ObservationError."""
    flags = _flags(avail_actions, rows, columns)
    if flags is None:
        try:
            given = [*map(bytearray, avail_actions)] if rows and _are_bytes(avail_actions) else avail_actions
            shape, found = items(bytearray(given) if isinstance(given, bytes) else given)
            numbers = [*map(float, found)]
            if any(number != number for number in numbers):
                raise ValueError("it holds nan")
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
            raise ObservationError(f"avail_actions is not an array of flags ({error!s:.120})") from error
        _check_shape("avail_actions", shape, rows, columns)
        flags = bytes(number != 0.0 for number in numbers)
    for i in range(max(rows, 1)):
        if not any(flags[i * columns : (i + 1) * columns]):
            raise ObservationError(f"agent {i} has no available action; at least one is needed")
    return memoryview(flags).cast("B", (rows, columns)) if rows else flags


def _flags(avail_actions: Any, rows: int, columns: int) -> bytes | None:
    """The quick way for lists of flags and whole numbers to 255; None: it is something else."""
    given = avail_actions if rows else [avail_actions]
    if not isinstance(given, list | tuple) or not all(isinstance(row, list | tuple) for row in given):
        return None
    if [*map(len, given)] != [columns] * max(rows, 1):
        return None
    try:
        return b"".join(map(bytes, given))
    except (TypeError, ValueError):
        return None


def _are_bytes(rows: Any) -> bool:
    return isinstance(rows, list | tuple) and all(isinstance(row, bytes) for row in rows)


def _check_shape(name: str, shape: list[int], rows: int, columns: int) -> None:
    """A single agent's caller passed one row: speak of that row."""
    expected = [rows, columns] if rows else [columns]
    if shape != expected:
        if rows == 1 and shape[:1] == [1]:
            shape, expected = shape[1:], expected[1:]
        raise ObservationError(f"{name} has shape {shape}, expected {expected}")


def chosen_agents(which: Any, n: int) -> array[int]:
    """Indices of the agents that `which` (bool [n], indices, or None: all) means. Raises IndexError."""
    if which is None:
        return array("q", range(n))
    shape, found = items(which)
    if len(shape) > 1:
        raise IndexError(f"agents to reset have shape {shape}, expected one axis")
    if found and all(isinstance(item, bool) for item in found):
        if len(found) != n:
            raise IndexError(f"{len(found)} flags of agents to reset, the team has {n} agents")
        return array("q", [i for i, chosen in enumerate(found) if chosen])
    try:
        indices = [range(n)[index(item)] for item in found]
    except (TypeError, IndexError):
        raise IndexError(f"agents to reset {which!r:.80}: expected flags, or whole numbers below {n}") from None
    return array("q", indices)


def overflow() -> NoReturn:
    """Refuse observations whose action values are not finite."""
    raise ObservationError("obs is so large that the action values overflow float32; scale the observations")
