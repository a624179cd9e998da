"""The Open Inference Protocol V2 message bodies, as pure functions between bytes and the standard library's arrays.

Sources: KServe, Open Inference Protocol (V2), and its binary tensor data extension; Triton Inference Server, sequence
extension. A body is JSON, followed by the raw tensors that the JSON announces: little-endian, row-major.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from reprlib import repr as shown
from typing import Any

from mast_runtime.errors import RuntimeFault

MAX_ID_LENGTH = 128
"""Characters of a request or sequence id given as a string."""
CODES = {"FP32": "f", "INT64": "q", "BOOL": "B"}
"""Datatype -> its type code as an array."""
REFUSED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification")
"""Parameters of tensors that ask for data elsewhere or of another kind."""
BEGINS = "executed_action is of the decision before, and sequence_start begins: there was none"
JSON_TYPES = {"FP32": ({int, float}, "numbers"), "BOOL": ({bool}, "true or false")}


class RequestError(RuntimeFault):
    """A request that cannot be answered. `status` is HTTP's, `outcome` the label its count is kept under."""

    def __init__(self, message: str, status: int = 400, outcome: str = "bad_request") -> None:
        super().__init__(message)
        self.status, self.outcome = status, outcome


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model: a vector, so `shape` is (length,)."""

    name: str
    datatype: str
    shape: tuple[int]
    optional: bool = False

    @property
    def size_bytes(self) -> int:
        return array(CODES[self.datatype]).itemsize * self.shape[0]

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class InferRequest:
    """A valid request: inputs by name, requested outputs with whether each goes out as raw bytes, its sequence.

    executed_action: what was done in place of the sequence's last decision, None: that decision.
    """

    request_id: str | None
    sequence_id: int | str
    sequence_start: bool
    sequence_end: bool
    executed_action: int | None
    inputs: dict[str, array]
    outputs: tuple[tuple[TensorSpec, bool], ...]


def parse_request(
    body: bytes, json_size_bytes: int | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Read an inference request. json_size_bytes: length of its JSON part, None: all of it. Raises RequestError."""
    if json_size_bytes is not None and json_size_bytes > len(body):
        raise RequestError(f"Inference-Header-Content-Length is {json_size_bytes}, the body has {len(body)} bytes")
    end = len(body) if json_size_bytes is None else json_size_bytes
    try:
        message = json.loads(body[:end].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is not JSON ({error})") from error
    message = _expect(message, dict, "the request")
    parameters = _parameters(message, "parameters")
    request_id = message.get("id")
    if request_id is not None and len(_expect(request_id, str, "id")) > MAX_ID_LENGTH:
        raise RequestError(f"id is longer than {MAX_ID_LENGTH} characters")
    starts = _expect(parameters.get("sequence_start", False), bool, "sequence_start")
    executed = parameters.get("executed_action")
    if executed is not None and any(spec.name == "executed_action" for spec in inputs):
        raise RequestError("executed_action of continuous actions is an input, not a parameter")
    if executed is not None and starts:
        raise RequestError(BEGINS)
    return InferRequest(
        request_id,
        _sequence_id(parameters.get("sequence_id", 0)),
        starts,
        _expect(parameters.get("sequence_end", False), bool, "sequence_end"),
        None if executed is None else _expect(executed, int, "executed_action"),
        _read_inputs(message.get("inputs"), memoryview(body)[end:], inputs),
        _read_outputs(message.get("outputs"), parameters, outputs),
    )


def encode_response(
    header: dict[str, Any], outputs: Iterable[tuple[TensorSpec, bool]], arrays: dict[str, array]
) -> tuple[bytes, int | None]:
    """The response body and the length of its JSON part in bytes (None: all of it is JSON)."""
    described, raw = [], []
    for spec, binary in outputs:
        values = arrays[spec.name]
        if binary:
            raw.append(little_endian(values).tobytes())
            described.append(spec.metadata() | {"parameters": {"binary_data_size": len(raw[-1])}})
        else:
            described.append(spec.metadata() | {"data": values.tolist()})
    text = json.dumps(header | {"outputs": described}, separators=(",", ":")).encode()
    return b"".join([text, *raw]), len(text) if raw else None


def little_endian(values: array) -> array:
    """From the machine's byte order to the protocol's, or back."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "a whole number"}
        raise RequestError(f"{what} must be {names[kind]}, not {shown(value)}")
    return value


def _parameters(owner: dict[str, Any], what: str) -> dict[str, Any]:
    """The parameters of a request or tensor, without those that are null: as absent."""
    given = owner.get("parameters")
    given = {} if given is None else _expect(given, dict, what)
    return {key: value for key, value in given.items() if value is not None}


def _sequence_id(value: Any) -> int | str:
    if not isinstance(value, str):
        if not 0 <= _expect(value, int, "sequence_id") < 1 << 64:
            raise RequestError("sequence_id must be an unsigned 64-bit whole number or a string")
    elif len(value) > MAX_ID_LENGTH:
        raise RequestError(f"sequence_id is longer than {MAX_ID_LENGTH} characters")
    if not value:
        raise RequestError(
            "decisions follow one another, so each request belongs to a sequence: send the parameters sequence_id (not "
            "0) and, on an episode's first step, sequence_start true; for a single decision add sequence_end true"
        )
    return value


def _tensors(value: Any, what: str, specs: Sequence[TensorSpec]) -> Iterable[tuple[TensorSpec, dict, dict]]:
    """Each known tensor with its description and parameters, each name once. Parameters that would ask for another
    answer than this server gives are refused, unknown ones ignored."""
    known, seen = {spec.name: spec for spec in specs}, set()
    for tensor in _expect(value, list, f"{what}s"):
        name = _expect(_expect(tensor, dict, f"each {what}").get("name"), str, f"the name of each {what}")
        if name not in known:
            raise RequestError(f"unknown {what} {shown(name)}; the model has {', '.join(known)}")
        if name in seen:
            raise RequestError(f"{what} {name} is given twice")
        seen.add(name)
        parameters = _parameters(tensor, f"parameters of {what} {name}")
        if refused := next((key for key in parameters if key in REFUSED), None):
            raise RequestError(
                f"{what} {name} has parameter {refused!r}, which this server does not have; leave it out"
            )
        yield known[name], tensor, parameters


def _read_inputs(value: Any, raw: memoryview, specs: Sequence[TensorSpec]) -> dict[str, array]:
    arrays: dict[str, array] = {}
    for spec, tensor, parameters in _tensors(value, "input", specs):
        if tensor.get("datatype") != spec.datatype:
            raise RequestError(f"input {spec.name} has datatype {shown(tensor.get('datatype'))}, not {spec.datatype}")
        if tensor.get("shape") != list(spec.shape):
            raise RequestError(f"input {spec.name} has shape {shown(tensor.get('shape'))}, not {list(spec.shape)}")
        if "binary_data_size" in parameters:
            size = _expect(parameters["binary_data_size"], int, f"binary_data_size of input {spec.name}")
            arrays[spec.name] = _from_bytes(spec, size, raw)
            raw = raw[size:]
        else:
            arrays[spec.name] = _from_json(spec, tensor.get("data"))
    if len(raw):
        raise RequestError(f"{len(raw)} bytes follow the tensors that the request describes")
    for spec in specs:
        if not spec.optional and spec.name not in arrays:
            raise RequestError(f"input {spec.name} is missing")
    return arrays


def _from_bytes(spec: TensorSpec, size: int, raw: memoryview) -> array:
    if size != spec.size_bytes:
        raise RequestError(f"input {spec.name} has binary_data_size {shown(size)}, not {spec.size_bytes}")
    if size > len(raw):
        raise RequestError(
            f"input {spec.name} needs {size} bytes after the JSON, {len(raw)} are there; "
            "is the header Inference-Header-Content-Length missing or wrong?"
        )
    if spec.datatype == "BOOL" and max(raw[:size]) > 1:
        raise RequestError(f"input {spec.name}: each byte of a BOOL is 0 or 1")
    values = array(CODES[spec.datatype])
    values.frombytes(raw[:size])
    return little_endian(values)


def _from_json(spec: TensorSpec, data: Any) -> array:
    types, expected = JSON_TYPES[spec.datatype]
    if not set(map(type, _expect(data, list, f"data of input {spec.name}"))) <= types:
        raise RequestError(f"data of input {spec.name} must be a flat array of {expected}")
    if len(data) != spec.shape[0]:
        raise RequestError(f"data of input {spec.name} has {len(data)} values, not {spec.shape[0]}")
    try:
        return array(CODES[spec.datatype], data)  # a number above float32 becomes infinite, which the policy refuses
    except OverflowError as error:
        raise RequestError(f"data of input {spec.name}: {error}") from error


def _read_outputs(
    value: Any, parameters: dict[str, Any], specs: Sequence[TensorSpec]
) -> tuple[tuple[TensorSpec, bool], ...]:
    all_binary = _expect(parameters.get("binary_data_output", False), bool, "binary_data_output")
    if value is None or value == []:
        return tuple((spec, all_binary) for spec in specs)
    return tuple(
        (spec, _expect(asked.get("binary_data", all_binary), bool, f"binary_data of output {spec.name}"))
        for spec, _, asked in _tensors(value, "output", specs)
    )
