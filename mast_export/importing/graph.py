"""ONNX graphs to policies, by what they compute: tensors are traced as affine functions (affine.py) to the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mast_export.importing.affine import Affine, Atom, Misfit, Value, as_cell, of
from mast_export.importing.gru import gru_cell
from mast_export.importing.operators import MOVES, OPERATORS, SAME, Found, Shape, attributes, picked

if TYPE_CHECKING:
    import onnx


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

        inputs: list[Any] = [self.tensor(name) if name else None for name in node.input]
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

    def _set(self, node: onnx.NodeProto, found: list[Any]) -> None:
        for name, given in zip(node.output, found, strict=True):
            self._found[name] = given

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
            same = inputs[0] if repeated and not np.ptp(np.asarray(inputs[0])) else Shape()
            value = same.reshape(-1)[:1].reshape(()) if isinstance(same, np.ndarray) and same.size else same
            self._set(node, [value] * len(node.output))
            return
        number = bool(inputs) and isinstance(inputs[0], np.ndarray) and not inputs[0].ndim
        if number and node.op_type in (*SAME, *MOVES, "Slice", "Gather"):
            self._found[node.output[0]] = inputs[0]  # one number, of a size that is not known
            return
        feeds = {name: given for name, given in zip(node.input, inputs, strict=True) if name}
        try:
            self._set(node, list(ReferenceEvaluator(node).run(None, feeds)))
        except Exception as error:  # onnx's own operators raise whatever numpy does
            raise Misfit(f"cannot be computed beforehand: {error!s:.80}") from error

    def _gru(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        cell, hidden = gru_cell(self.settled(node.input[0]), attributes(node), inputs)
        atom = Atom("cell", hidden, node.output[0] or node.output[1], cell=cell)
        self.cells[atom] = next(filter(None, node.output))
        self._set(node, [of(atom)] * len(node.output))

    def _split(self, node: onnx.NodeProto, inputs: list[Any]) -> None:
        given = inputs[0]
        if not self.along(node.input[0], attributes(node).get("axis", 0)):
            self._set(node, [given] * len(node.output))
            return
        n = len(node.output)
        sizes = inputs[1] if len(inputs) > 1 else attributes(node).get("split", [given.width // n] * n)
        for name, rows in zip(node.output, np.split(np.arange(given.width), np.cumsum(sizes)[:-1]), strict=True):
            self._found[name] = picked(given, rows)

    def along(self, name: str, axis: int) -> bool:
        """Whether `axis` is the last, along which vectors lie."""
        return axis == -1 or axis + 1 == self.rank(name)
