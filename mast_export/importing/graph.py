"""ONNX graphs to policies, by what they compute: tensors are traced as affine functions (affine.py) to the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
)
from mast_export.importing.affine import total as added
from mast_export.importing.gru import gru_cell

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


class Tracer:
    """Every tensor that is asked for, once. `cells`: of each GRU, the name of a tensor that holds its state."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.numpy_helper import to_array
        from onnx.shape_inference import infer_shapes

        graph = infer_shapes(model).graph
        self._found: dict[str, Found] = {t.name: to_array(t) for t in graph.initializer}
        self._maker = {name: node for node in graph.node for name in node.output if name}
        self.types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
        for given in graph.input:
            if given.name not in self._found:
                self._found[given.name] = self._input(given.name)
        self.cells: dict[Atom, str] = {}
        self._known: dict[tuple[Any, ...], Atom] = {}

    def _input(self, name: str) -> Found:
        kind = self.types[name]
        width = kind.shape.dim[-1].dim_value if kind.shape.dim else 0
        floats = kind.elem_type in (1, 10, 11)
        return of(Atom("input", width, name)) if floats and width else Shape()

    def rank(self, name: str) -> int | None:
        kind = self.types.get(name)
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None

    def tensor(self, name: str) -> Found:
        """Raises Misfit."""
        if name not in self._found:
            node = self._maker[name]
            try:
                self._make(node)
            except Misfit as error:
                raise error.at(f"{node.op_type} ({node.name or node.output[0]})") from None
        return self._found[name]

    def settled(self, name: str) -> Affine:
        """The tensor as an affine function of atoms; a GRU step that is written out becomes one. Raises Misfit."""
        found = self.tensor(name)
        if isinstance(found, Shape):
            raise Misfit("reads an input that is no row of numbers")
        given = found if isinstance(found, Value) else Value({None: Affine(np.atleast_1d(found.astype(np.float64)))})
        if given.plain is not None:
            return given.plain
        cell = as_cell(given)
        if cell is None:
            raise Misfit("is computed from gates, but not as a GRU computes its state")
        (gate,) = (key for key in given.terms if key is not None)
        atom = self._known.setdefault((gate, cell.state), Atom("cell", given.width, name, cell=cell))
        self.cells.setdefault(atom, name)
        settled = of(atom)
        self._found[name] = settled
        assert settled.plain is not None
        return settled.plain

    def _make(self, node: onnx.NodeProto) -> None:
        from onnx.numpy_helper import to_array

        inputs = [self.tensor(name) if name else None for name in node.input]
        if node.domain not in ("", "ai.onnx"):
            raise Misfit(f"is an operator of {node.domain}")
        if node.op_type == "Shape" and not isinstance(inputs[0], np.ndarray):
            self._found[node.output[0]] = self._sizes(node.input[0], inputs[0])
        elif node.op_type == "ConstantOfShape" and isinstance(inputs[0], Shape):
            fill = attributes(node).get("value")
            self._found[node.output[0]] = np.zeros(()) if fill is None else to_array(fill).reshape(())
        elif not any(isinstance(given, Value) for given in inputs):
            self._constant(node, inputs)
        elif node.op_type == "GRU":
            self._gru(node, inputs)
        elif node.op_type == "Split":
            self._split(node, inputs)
        elif node.op_type in OPERATORS:
            self._found[node.output[0]] = OPERATORS[node.op_type](self, node, inputs)
        else:
            raise Misfit("is no part of linear layers, ReLU and a GRU")

    def _sizes(self, name: str, given: Found | None) -> Shape:
        kind = self.types.get(name)
        if kind is None or not isinstance(given, Value):
            return Shape()
        known = [dim.dim_value or None for dim in kind.shape.dim]
        return Shape((*known[:-1], given.width))

    def _constant(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        """What depends on no input is computed now; what depends on shapes is about shapes, or a constant repeated."""
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Gather" and isinstance(inputs[0], Shape) and isinstance(inputs[1], np.ndarray):
            chosen = [inputs[0].sizes[int(k)] for k in inputs[1].ravel()] if inputs[0].sizes else [None]
            sizes = Shape() if None in chosen else np.array(chosen, np.int64).reshape(inputs[1].shape)
            self._found[node.output[0]] = sizes
            return
        if any(isinstance(given, Shape) for given in inputs):
            repeated = node.op_type in ("Expand", "Reshape", "Tile") and isinstance(inputs[0], np.ndarray)
            same = inputs[0] if repeated and not np.ptp(inputs[0]) else Shape()
            value = same.reshape(-1)[:1].reshape(()) if isinstance(same, np.ndarray) and same.size else same
            self._found |= dict.fromkeys(node.output, value)
            return
        if inputs and node.op_type in (*SAME, *MOVES, "Slice", "Gather") and not np.ndim(inputs[0]):
            self._found[node.output[0]] = inputs[0]  # one number, of a size that is not known
            return
        feeds = {name: given for name, given in zip(node.input, inputs, strict=True) if name}
        try:
            self._found |= dict(zip(node.output, ReferenceEvaluator(node).run(None, feeds), strict=True))
        except Exception as error:  # onnx's own operators raise whatever numpy does
            raise Misfit(f"cannot be computed beforehand: {error!s:.80}") from error

    def _gru(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        cell, hidden = gru_cell(self.settled(node.input[0]), attributes(node), inputs)
        atom = Atom("cell", hidden, node.output[0] or node.output[1], cell=cell)
        self.cells[atom] = next(filter(None, node.output))
        self._found |= {name: of(atom) for name in node.output if name}

    def _split(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        given = inputs[0]
        if not self.along(node.input[0], attributes(node).get("axis", 0)):
            self._found |= dict.fromkeys(node.output, given)
            return
        n = len(node.output)
        sizes = inputs[1] if len(inputs) > 1 else attributes(node).get("split", [given.width // n] * n)
        for name, rows in zip(node.output, np.split(np.arange(given.width), np.cumsum(sizes)[:-1]), strict=True):
            self._found[name] = picked(given, rows)

    def along(self, name: str, axis: int) -> bool:
        """Whether `axis` is the last, along which vectors lie."""
        return axis == -1 or axis + 1 == self.rank(name)


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
    if any(isinstance(given, Shape) for given in (starts, ends)) or axes is None or len(axes) > 1:
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
