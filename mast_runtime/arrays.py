"""Arrays that cost no numpy until someone looks at them: a process that only loads and acts never imports it."""

from __future__ import annotations

import struct
import sys
from array import array
from functools import cache
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

if TYPE_CHECKING:
    from numpy.typing import NDArray
Value = TypeVar("Value")


class Buffer(NamedTuple):
    """An array in native byte order as plain bytes: `code` is its type for struct, array and numpy alike."""

    data: memoryview
    code: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    def numpy(self) -> NDArray:
        """The same memory as a numpy array."""
        import numpy as np

        return np.frombuffer(self.data, self.code).reshape(self.shape)


ROWS = list, tuple


def is_numpy(given: Any) -> bool:
    """Whether it is a numpy array, offers itself as one, or is a list of such rows."""
    if isinstance(given, ROWS):
        return bool(given) and hasattr(given[0], "__array__")
    return hasattr(given, "__array__")


@cache
def numpy() -> Any:
    """The package, None where it cannot be imported."""
    try:
        return import_module("numpy")
    except ImportError:
        return None


def numpy_here() -> bool:
    """Whether numpy can be imported; it then is."""
    return numpy() is not None


def answer(data: Any, code: str, rows: int, columns: int, like: Any = None) -> Any:
    """What `act` gives for observations `like`, or, for None, an attribute that one looks at: [rows, columns], for rows
    0 [columns], of the items in the bytes `data`.

    For numpy observations, and where one looks and numpy is installed, a numpy array. Else array(code), with two axes a
    list of them.
    """
    package = numpy() if like is None or is_numpy(like) else None
    if package is not None:
        flat = package.frombuffer(data, code)
        return flat.reshape(rows, columns) if rows else flat
    plain_items = array(code)
    plain_items.frombytes(data)
    return _in_rows(plain_items, columns) if rows else plain_items


def in_kind(given: Any, result: NDArray) -> Any:
    """A result in float32 or int64 as `answer` would give it for the observations `given`."""
    if is_numpy(given):
        return result
    rows, columns = result.shape if result.ndim == 2 else (0, len(result))
    return answer(result.tobytes(), "f" if result.dtype.kind == "f" else "q", rows, columns, given)


def _in_rows(items: array[Any], columns: int) -> list[array[Any]]:
    return [items[i : i + columns] for i in range(0, len(items), columns)]


def buffer(code: str, values: Any, shape: tuple[int, ...] | None = None) -> Buffer:
    """A Buffer of these numbers."""
    data = array(code, values)
    return Buffer(memoryview(data).cast("B"), code, shape or (len(data),))


def part(whole: Buffer, first: int, end: int) -> Buffer:
    """Its items `first` to `end` along the first axis."""
    item = struct.calcsize(whole.code) * prod(whole.shape[1:])
    return Buffer(whole.data[first * item : end * item], whole.code, (end - first, *whole.shape[1:]))


def item_code(stored: NDArray | Buffer) -> str:
    """The type of its items, as Buffer.code."""
    return stored.code if isinstance(stored, Buffer) else stored.dtype.char


def plain(stored: NDArray | Buffer, code: str) -> array[Any]:
    """The items as array(code), converted: "f" float32, "i" int32, "H" uint16, "b" int8."""
    if not isinstance(stored, Buffer):
        result = array(code)
        result.frombytes(stored.astype(code).tobytes())
        return result
    if stored.code == "e":
        return array(code, struct.unpack(f"{stored.size}e", stored.data))
    result = array(stored.code)
    result.frombytes(stored.data)
    return result if stored.code == code else array(code, result)


def swapped(data: memoryview, size: int) -> memoryview:
    """Little-endian items of `size` bytes in the machine's order."""
    if sys.byteorder == "little" or size == 1:
        return data
    items = array({2: "H", 4: "I", 8: "Q"}[size], data.tobytes())
    items.byteswap()
    return memoryview(items).cast("B")


class ArrayField(Generic[Value]):
    """A dataclass field that takes an array or a Buffer, and reads as the numpy array.

    Without numpy a Buffer reads as array, with two axes as a list of them; float16 as float32.
    """

    def __init__(self, *default: Buffer | None) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Any: ...
    @overload
    def __get__(self, holder: object, owner: type) -> Value: ...
    def __get__(self, holder: object | None, owner: type) -> Any:
        if holder is None:
            if not self._default:
                raise AttributeError(self._name)
            return self._default[0]
        value = vars(holder)[self._name]
        if isinstance(value, Buffer):
            if not numpy_here():
                items = plain(value, "f" if value.code == "e" else value.code)
                return items if len(value.shape) == 1 else _in_rows(items, value.shape[1])
            value = vars(holder)[self._name] = value.numpy()
        return value

    def __set__(self, holder: object, value: Value | Buffer) -> None:
        vars(holder)[self._name] = value


def replace(holder: Any, **fields: Any) -> Any:
    """dataclasses.replace for holders of ArrayFields, which are taken over as they are held."""
    changed = object.__new__(type(holder))
    vars(changed).update(vars(holder) | fields)
    return changed
