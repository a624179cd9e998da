"""Nodes and constants of an ONNX graph, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


class Graph:
    """Nodes and initialisers in the making."""

    def __init__(self, sparse: bool) -> None:
        self.sparse = sparse
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node with one output, named `to` or after its place; returns that name."""
        from onnx import helper

        to = to or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [to], to, **attributes))
        return to

    def cast(self, of: str, dtype: type[np.floating]) -> str:
        """Append a conversion; its name."""
        from onnx import helper

        name = f"cast_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node("Cast", [of], [name], name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        )
        return name

    def second(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with two outputs; the name of the second."""
        from onnx import helper

        names = [f"{operator.lower()}_{len(self.nodes)}{part}" for part in ("_first", "")]
        self.nodes.append(helper.make_node(operator, inputs, names, names[1], **attributes))
        return names[1]

    def constant(self, name: str, array: NDArray | np.generic) -> str:
        """An initialiser."""
        from onnx import numpy_helper

        self.initialisers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def matrix(self, name: str, array: NDArray[np.float32]) -> str:
        """Weights: sparse if that was asked for and is smaller, else an initialiser."""
        from onnx import helper, numpy_helper

        flat = np.ravel(array)
        indices = np.flatnonzero(flat).astype(np.int64)
        if not self.sparse or indices.size * (indices.itemsize + flat.itemsize) > flat.nbytes:
            return self.constant(name, array)
        values = numpy_helper.from_array(flat[indices], name)
        tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, f"{name}.indices"), array.shape)
        self.nodes.append(helper.make_node("Constant", [], [name], name, sparse_value=tensor))
        return name
