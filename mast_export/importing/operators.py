"""ONNX operators on what the tensors of a traced graph are (affine.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mast_export.importing.affine import (
    RESET_FIRST,
    Affine,
    Atom,
    Misfit,
    Value,
    as_cell,
    joined,
    mapped,
    of,
    product,
    scaled,
)  # fmt: skip
from mast_export.importing.affine import total as added

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Shape:
    """A tensor of sizes or places, not of values. sizes: what is known of them where it is a shape, None: unknown."""

    sizes: tuple[int | None, ...] = ()


Found = Value | NDArray | Shape
"""What a tensor is: of the policy, constant, or about shapes."""
SAME = ("Identity", "Cast", "Dropout", "Expand")
MOVES = ("Squeeze", "Unsqueeze", "Transpose", "Reshape", "Flatten")


class Tracer(Protocol):
    """Of a graph (graph.py)."""

    types: dict[str, Any]

    def tensor(self, name: str) -> Found: ...

    def settled(self, name: str) -> Affine: ...

    def along(self, name: str, axis: int) -> bool: ...


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {given.name: helper.get_attribute_value(given) for given in node.attribute}


def picked(given: Value, rows: NDArray) -> Value:
    """Elements of a vector."""
    return mapped(given, lambda array: array[rows], lambda array: array[rows])


def _linear(given: Value, matrix: NDArray) -> Value:
    """matrix [outputs, inputs] times the vector."""
    if given.plain is None and not _diagonal(matrix):
        raise Misfit(f"multiplies a gated vector by a matrix: {RESET_FIRST}")
    if given.plain is None:
        return scaled(given, np.diag(matrix))
    return mapped(given, lambda rows: matrix @ rows)


def _diagonal(matrix: NDArray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.count_nonzero(matrix) == np.count_nonzero(np.diag(matrix))


def _matmul(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    matrix = inputs[1]
    if not isinstance(matrix, np.ndarray) or matrix.ndim < 2 or matrix.size != np.prod(matrix.shape[-2:]):
        raise Misfit("multiplies by a matrix that is not constant")
    return _linear(_argument(tracer, node.input[0]), matrix.reshape(matrix.shape[-2:]).astype(np.float64).T)


def _gemm(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes(node)
    if given["transA"] or not isinstance(inputs[1], np.ndarray):
        raise Misfit("multiplies by a matrix that is not constant")
    matrix = inputs[1].astype(np.float64) if given["transB"] else inputs[1].astype(np.float64).T
    result = _linear(_argument(tracer, node.input[0]), given["alpha"] * matrix)
    if len(inputs) < 3 or inputs[2] is None:
        return result
    return added(result, scaled(_vector(inputs[2], result.width), np.array(given["beta"])))


def _argument(tracer: Tracer, name: str) -> Value:
    """The tensor, and a GRU step that is written out as one: what follows reads it."""
    found = tracer.tensor(name)
    if not isinstance(found, Value):
        raise Misfit("multiplies a constant by a vector")
    gates = [gate for gate in found.terms if gate is not None]
    return (
        found
        if len(gates) != 1 or None not in found.terms or as_cell(found) is None
        else Value({None: tracer.settled(name)})
    )


def _vector(given: Found | None, width: int) -> Value:
    """A tensor as a vector of `width`; a constant of one number is repeated."""
    if isinstance(given, Value) and given.width == width:
        return given
    if isinstance(given, np.ndarray) and given.size in (1, width):
        return Value({None: Affine(np.broadcast_to(given.astype(np.float64).ravel(), (width,)).copy())})
    raise Misfit("combines vectors of different sizes")


def _sum(sign: float) -> Callable[[Tracer, Any, list[Any]], Value]:
    def make(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
        width = max(given.width for given in inputs if isinstance(given, Value))
        a, b = (_vector(given, width) for given in inputs)
        return added(a, scaled(b, np.array(sign)))

    return make


def _mul(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    width = max(given.width for given in inputs if isinstance(given, Value))
    constants = [given for given in inputs if isinstance(given, np.ndarray)]
    if not constants:
        return product(_vector(inputs[0], width), _vector(inputs[1], width))
    factors = constants[0].astype(np.float64).ravel()
    if factors.size not in (1, width) or (node.op_type == "Div" and constants[0] is inputs[0]):
        raise Misfit("combines vectors of different sizes, or divides by one")
    factors = np.broadcast_to(factors, (width,))
    given = next(given for given in inputs if isinstance(given, Value))
    return scaled(given, 1.0 / factors if node.op_type == "Div" else factors)


def _relu(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    argument = tracer.settled(node.input[0])
    if any(atom.kind == "cell" for atom in argument.parts):
        raise Misfit("follows the GRU, which only one linear layer may")
    slope = 0.0 if node.op_type == "Relu" else float(attributes(node).get("alpha", 0.01))
    return of(Atom("relu", argument.width, node.output[0], Value({None: argument}), slope))


def _gate(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    kind = node.op_type.lower()
    argument = inputs[0] if kind == "tanh" else Value({None: tracer.settled(node.input[0])})
    return of(Atom(kind, argument.width, node.output[0], argument))


def _concat(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    if not tracer.along(node.output[0], attributes(node)["axis"]):
        if len(inputs) > 1:
            raise Misfit("joins several steps")
        return inputs[0]
    return joined([_vector(given, given.size if isinstance(given, np.ndarray) else given.width) for given in inputs])


def _slice(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    starts, ends, axes, steps = (*inputs[1:], *(None,) * 4)[:4]
    constant = all(isinstance(given, np.ndarray) for given in (starts, ends, axes))
    if not constant or starts is None or ends is None or axes is None or len(axes) > 1:
        raise Misfit("cuts at places that are not constant")
    if not tracer.along(node.input[0], int(axes[0])):
        return inputs[0]
    step = 1 if steps is None else int(steps[0])
    return picked(inputs[0], np.arange(inputs[0].width)[int(starts[0]) : int(ends[0]) : step])


def _gather(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    if not isinstance(inputs[0], Value) or not isinstance(inputs[1], np.ndarray):
        raise Misfit("looks up rows of a table")
    if not tracer.along(node.input[0], attributes(node).get("axis", 0)):
        return inputs[0]
    return picked(inputs[0], np.atleast_1d(inputs[1]))


def _moved(tracer: Tracer, node: onnx.NodeProto, inputs: list[Any]) -> Value:
    """What changes axes only, as long as vectors stay along the last."""
    shape = tracer.types.get(node.output[0])
    last = shape.shape.dim[-1] if shape is not None and shape.shape.dim else None
    perm = attributes(node).get("perm")
    moved = perm[-1] != len(perm) - 1 if perm is not None else node.op_type == "Transpose"
    if moved or (last is not None and last.dim_value not in (0, inputs[0].width)):
        raise Misfit("moves the axis of the values")
    return inputs[0]


OPERATORS: dict[str, Callable[[Tracer, Any, list[Any]], Value]] = {
    **dict.fromkeys(SAME, lambda tracer, node, inputs: inputs[0]),
    **dict.fromkeys(MOVES, _moved),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _sum(1.0),
    "Sub": _sum(-1.0),
    "Mul": _mul,
    "Div": _mul,
    "Neg": lambda tracer, node, inputs: scaled(inputs[0], np.array(-1.0)),
    "Relu": _relu,
    "LeakyRelu": _relu,
    "Sigmoid": _gate,
    "Tanh": _gate,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
}
"""Operators that read the policy's vectors; what depends on none is computed by onnx itself."""
