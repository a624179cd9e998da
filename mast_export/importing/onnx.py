"""ONNX models of a policy, with a state as an input or whole sequences: traced, and run as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.importing.affine import Affine, Atom, Cell, Misfit
from mast_export.importing.graph import Tracer
from mast_export.importing.policy import Imported, Policy, checked
from mast_runtime.onnx_graph import open_session

if TYPE_CHECKING:
    import onnx

MAX_STEPS = 1000
"""Of a sequence that is run again from its start for each of its steps."""


def read_onnx(path: Path, output: str = "") -> Imported:
    """The policy of a model; output: the tensor of its values, "": the one output that fits. Raises ExportError."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"{path} is no valid ONNX model ({str(error).splitlines()[0]:.200})") from error
    try:
        tracer = Tracer(model)
        values, cell = _values(tracer, [o.name for o in model.graph.output], output)
        policy, x = _policy(tracer, values, cell)
    except Misfit as error:
        raise ExportError(f"{path}: {error}; what fits is linear, ReLU, GRU, linear") from error
    assert cell.cell is not None
    name = next(key for key in ([output] if output else []) + [o.name for o in model.graph.output] if key in values)
    run = _Session(model, x, cell.cell.state.name, name, tracer.cells[cell], policy, str(path))
    return Imported([checked(policy, str(path))], [run], "an ONNX model")


def _values(tracer: Tracer, outputs: list[str], wanted: str) -> tuple[dict[str, Affine], Atom]:
    """The tensor of the values, by its name, and the GRU that it is read from. Raises Misfit."""
    if wanted:
        try:
            found = {wanted: tracer.settled(wanted)}
        except KeyError:
            raise Misfit(f"it has no tensor {wanted}; its outputs: {', '.join(outputs)}") from None
    else:
        found, misfit = {}, None
        for name in outputs:
            try:
                found[name] = tracer.settled(name)
            except Misfit as error:
                misfit = misfit or error
        found = {name: given for name, given in found.items() if given.is_atom() is None}
        if not found:
            raise misfit or Misfit("no output is a linear layer's after a GRU")
    fitting = {name: atom for name, given in found.items() if (atom := _only(given)) and atom.kind == "cell"}
    if len(fitting) > 1:
        raise Misfit(f"several outputs follow the GRU; choose with --tensor: {', '.join(fitting)}")
    if not fitting:
        name, given = next(iter(found.items()))
        read = ", ".join(f"{atom.kind} ({atom.name})" for atom in given.parts) or "no input"
        raise Misfit(f"the output {name} reads {read}, not one GRU's state")
    ((name, atom),) = fitting.items()
    return {name: found[name]}, atom


def _only(given: Affine) -> Atom | None:
    return next(iter(given.parts)) if len(given.parts) == 1 else None


def _policy(tracer: Tracer, values: dict[str, Affine], atom: Atom) -> tuple[Policy, str]:
    """The policy, and the name of the input that holds the observation. Raises Misfit."""
    cell = atom.cell
    assert cell is not None
    after = next(iter(values.values()))
    first = _first(cell)
    if first.kind == "relu":
        assert first.argument is not None and first.argument.plain is not None
        x, before = _only(first.argument.plain), first.argument.plain
    else:
        x, before = first, None
    if x is None or x.kind != "input":
        raise Misfit(f"what the GRU reads, {first.name}, is not one linear layer of one input")
    gates = [_parts(gate, first, cell.state) for gate in (cell.r, cell.z)]
    n_input, n_state = _parts(cell.n_input, first, None), _parts(cell.n_state, None, cell.state)
    bias = [gates[0][2], gates[1][2], n_input[2], n_state[2]]
    arrays = {
        "fc1": None if before is None else before.parts[x],
        "fc1_bias": None if before is None else before.bias,
        "weight_ih": np.concatenate([gates[0][0], gates[1][0], n_input[0]]),
        "weight_hh": np.concatenate([gates[0][1], gates[1][1], n_state[1]]),
        "gru_bias": np.stack(bias),
        "fc2": after.parts[atom],
        "fc2_bias": after.bias,
    }
    narrow: dict[str, Any] = {name: None if a is None else a.astype(np.float32) for name, a in arrays.items()}
    return Policy(**narrow, slope=first.slope), x.name


def _first(cell: Cell) -> Atom:
    """What the gates read beside the state. Raises Misfit unless it is one vector."""
    atoms = {a for gate in (cell.r, cell.z, cell.n_input) for a in gate.parts if a is not cell.state}
    if len(atoms) != 1 or cell.state in cell.n_input.parts or set(cell.n_state.parts) - {cell.state}:
        read = ", ".join(sorted(f"{a.kind} ({a.name})" for a in atoms)) or "no input"
        raise Misfit(f"the GRU's gates read {read}: not one input beside its state, or the state where a GRU does not")
    if cell.state.kind != "input":
        raise Misfit(f"the GRU's state is no input, but {cell.state.kind} ({cell.state.name})")
    return atoms.pop()


def _parts(given: Affine, first: Atom | None, state: Atom | None) -> tuple[NDArray, NDArray, NDArray]:
    """Matrices of the input and the state, and the bias; zeros where one is not read."""
    matrices = [
        given.parts.get(atom, np.zeros((given.width, atom.width))) if atom is not None else np.zeros((given.width, 0))
        for atom in (first, state)
    ]
    return matrices[0], matrices[1], given.bias


class _Session:
    """Original: the model in ONNX Runtime, its state fed back, or without one the sequence from its start each time."""

    def __init__(
        self, model: onnx.ModelProto, x: str, state: str, values: str, memory: str, policy: Policy, what: str
    ) -> None:
        from onnx import ModelProto, helper

        shown = ModelProto()
        shown.CopyFrom(model)
        names = {o.name for o in shown.graph.output}
        for name in {values, memory} - names:
            shown.graph.output.append(helper.make_empty_tensor_value_info(name))
        self._session = open_session(shown.SerializeToString())
        self._x, self._state, self._outputs, self._policy = x, state, [values, memory], policy
        shapes = {given.name: given.shape for given in self._session.get_inputs()}
        if unknown := shapes.keys() - {x, state}:
            raise ExportError(f"{what}: it has inputs beside {x} and the state: {', '.join(sorted(unknown))}")
        self._shape = self._ones(shapes[x])
        self._state_shape = self._ones(shapes[state]) if state else []
        self._past: list[NDArray] = []
        self._what = what
        self._time = None if state else self._time_axis(shapes[x])

    @staticmethod
    def _ones(shape: list[Any]) -> list[int]:
        return [*(1 for _ in shape[:-1]), int(shape[-1])]

    def _time_axis(self, shape: list[Any]) -> int:
        """The axis of the steps, found by running two."""
        if len(shape) == 3:
            for axis in (0, 1):
                two = [2 if k == axis else 1 for k in range(2)]
                if any(isinstance(shape[k], int) and shape[k] != two[k] for k in range(2)):
                    continue
                rng = np.random.default_rng(0)
                x = rng.standard_normal((*two, shape[-1])).astype(np.float32)
                other = np.array(x)
                other[(0, 0)] += 1.0
                memory = [self._session.run(self._outputs, {self._x: each})[1] for each in (x, other)]
                last = [np.asarray(m).reshape(-1, self._policy.hidden)[-1] for m in memory]
                if not np.array_equal(*last):
                    return axis
        raise ExportError(
            f"{self._what}: it neither reads a state nor takes sequences of any length; export it with its state as an "
            "input and an output"
        )

    def reset(self) -> None:
        self._past.clear()

    def __call__(self, x: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        feeds = {self._x: x.astype(np.float32).reshape(self._shape)}
        if self._state:
            feeds[self._state] = hidden.astype(np.float32).reshape(self._state_shape)
        else:
            self._past.append(feeds[self._x])
            if len(self._past) > MAX_STEPS:
                raise ExportError(f"{self._what}: a sequence model is compared over at most {MAX_STEPS} steps")
            feeds[self._x] = np.concatenate(self._past, axis=self._time)
        values, memory = (np.asarray(given) for given in self._session.run(self._outputs, feeds))
        return values.reshape(-1, self._policy.actions)[-1], memory.reshape(-1, self._policy.hidden)[-1]
