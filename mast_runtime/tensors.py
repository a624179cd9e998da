"""Reads a safetensors file as strictly as its library does, without numpy (huggingface/safetensors, README, "Format").

A file is: uint64 length of the header; the header, JSON; the tensors' bytes, one after another without a gap.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, BinaryIO, TypeGuard

from mast_runtime.arrays import Buffer, swapped

MAX_HEADER_BYTES = 100_000_000
MAX_AXES = 8
DTYPES = {
    "F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2),
    "I64": ("q", 8), "I32": ("i", 4), "I16": ("h", 2), "I8": ("b", 1),
    "U64": ("Q", 8), "U32": ("I", 4), "U16": ("H", 2), "U8": ("B", 1),
    "BOOL": ("?", 1),
}  # fmt: skip
"""Type in the file: code of array and struct, bytes of an item."""
NAMES = {"d": "float64", "f": "float32", "e": "float16", "q": "int64", "i": "int32", "h": "int16", "b": "int8",
         "Q": "uint64", "I": "uint32", "H": "uint16", "B": "uint8", "?": "bool"}  # fmt: skip


def read_tensors(file: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, Buffer]]:
    """The text metadata of a file of `size` bytes, and its tensors. Raises ValueError."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError("the header is cut off")
    header = _read_header(file.read(length).decode())
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("the metadata is not text")
    limit = size - 8 - length
    tensors = {name: _tensor(info, limit) for name, info in header.items()}
    places = sorted((begin, end) for _, _, begin, end in tensors.values())
    if any(begin != end for (begin, _), (_, end) in zip(places, [(0, 0), *places], strict=False)):
        raise ValueError("the tensors do not lie one after another")
    if limit != (places[-1][1] if places else 0):
        raise ValueError("the tensors do not fill the file")
    data = memoryview(file.read(limit))
    if len(data) != limit:
        raise ValueError("the file has become shorter")
    return metadata, {
        name: Buffer(swapped(data[begin:end], DTYPES[dtype][1]), DTYPES[dtype][0], shape)
        for name, (dtype, shape, begin, end) in tensors.items()
    }


def _read_header(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        raise ValueError("the header is not JSON")
    try:
        header = json.loads(text, parse_constant=_not_json)
        if "\\u" in text:
            json.dumps(header, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError as error:
        raise ValueError("the header is nested too deeply") from error
    return header


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _tensor(info: Any, limit: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, first byte and end of a tensor of a file with `limit` bytes of them."""
    if not isinstance(info, dict) or not isinstance(info.get("dtype"), str) or info["dtype"] not in DTYPES:
        raise ValueError("a tensor of an unknown type")
    shape, offsets = info.get("shape"), info.get("data_offsets")
    if not _sizes(shape, limit) or not _sizes(offsets, limit) or len(offsets) != 2 or len(shape) > MAX_AXES:
        raise ValueError("a tensor of an impossible shape or place")
    begin, end = offsets
    if end - begin != prod(shape) * DTYPES[info["dtype"]][1]:
        raise ValueError("a tensor whose shape and length differ")
    return info["dtype"], tuple(shape), begin, end


def _sizes(values: Any, limit: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= limit for value in values)
