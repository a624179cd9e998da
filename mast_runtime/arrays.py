"""Arrays that cost no numpy until someone looks at them: a process that only loads and acts never imports it."""

from __future__ import annotations

import struct
import sys
from array import array
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
    """A dataclass field that takes an array or a Buffer, and reads as the numpy array."""

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
            value = vars(holder)[self._name] = value.numpy()
        return value

    def __set__(self, holder: object, value: Value | Buffer) -> None:
        vars(holder)[self._name] = value
