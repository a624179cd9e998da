"""Policies by the names of their arrays: torch's Linear, GRUCell and GRU, and flax's Dense and GRUCell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.importing.arrays import Arrays, read_arrays
from mast_export.importing.policy import Imported, Original, Policy, checked

Name = tuple[str, ...]
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
GATES = ("ir", "iz", "in", "hr", "hz", "hn")
"""flax.linen.GRUCell's parts; of the recurrent ones only hn has a bias."""


def read_named(path: Path, prefix: str) -> Imported:
    """The policy, or one for each agent, of a file of arrays whose names start with `prefix`. Raises ExportError."""
    start = tuple(filter(None, re.split(r"[.,/]", prefix)))
    arrays = {name[len(start) :]: array for name, array in read_arrays(path).items() if name[: len(start)] == start}
    if not arrays:
        raise ExportError(f"{path}: no array's name starts with {prefix}")
    flax = {name[:-2] for name in arrays if name[-2:] == ("hn", "kernel")}
    torch = {name[:-1] for name in arrays if re.fullmatch(r"weight_hh(_l\d+)?", name[-1])}
    cells = sorted(flax | torch, key=_natural)
    if not cells:
        raise ExportError(f"{path}: no GRU in it: neither weight_ih and weight_hh (torch) nor ir, iz, ... hn (flax)")
    parts = [_read(arrays, cell, cells, cell in flax, f"{path}") for cell in cells]
    originals: list[Original] = [_Formula(layers, cell in flax) for cell, layers in zip(cells, parts, strict=True)]
    policies = [checked(_policy(layers, cell in flax), str(path)) for cell, layers in zip(cells, parts, strict=True)]
    return Imported(policies, originals, "flax parameters" if flax else "a torch state dict")


@dataclass(frozen=True)
class _Linear:
    """weight [outputs, inputs], bias [outputs]."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class _Layers:
    """What a file holds of one policy; the cell's arrays in its framework's own layout."""

    before: _Linear | None
    cell: dict[str, NDArray[np.float32]]
    after: _Linear


def _read(arrays: Arrays, cell: Name, cells: Sequence[Name], flax: bool, what: str) -> _Layers:
    own = _shared_with(cell, cells)
    names = [name for name in arrays if name[: len(own)] == own]
    inside = [name for name in names if name[: len(cell)] == cell and (not flax or name[len(cell)] in GATES)]
    inside = inside if flax else [name for name in inside if re.match("weight_[ih]h|bias_[ih]h", name[-1])]
    linears: dict[Name, dict[str, NDArray]] = {}
    for name in names:
        if name not in inside:
            linears.setdefault(name[:-1], {})[name[-1]] = arrays[name].astype(np.float32)
    found = {name: _linear(name, parts, what) for name, parts in linears.items()}
    given = {name[len(cell) :]: arrays[name].astype(np.float32) for name in inside}
    parts = _flax_cell(given, what) if flax else _torch_cell(given, cell, what)
    before, after = _around(found, parts, flax, what)
    return _Layers(before, parts, after)


def _shared_with(cell: Name, cells: Sequence[Name]) -> Name:
    """What names of this cell's policy start with: nothing for one policy, else up to what tells the agents apart."""
    if len(cells) == 1:
        return ()
    depth = next(i for i in range(min(map(len, cells)) + 1) if len({name[: i + 1] for name in cells}) > 1)
    if any(not part[depth : depth + 1] or not re.search(r"\d", part[depth]) for part in cells):
        listed = ", ".join(".".join(name) for name in cells)
        raise ExportError(
            f"{len(cells)} GRUs: {listed}; choose the policy's with --prefix {'.'.join(cells[0][: depth + 1])}"
        )
    return cell[: depth + 1]


def _linear(name: Name, parts: dict[str, NDArray], what: str) -> _Linear:
    """A torch Linear's or flax Dense's arrays; anything else does not fit."""
    weight = parts.get("weight")
    if weight is None and "kernel" in parts:
        weight = parts["kernel"].T
    if weight is None or weight.ndim != 2 or parts.keys() - {"weight", "kernel", "bias"}:
        held = ", ".join(parts)
        raise ExportError(f"{what}: {'.'.join(name)} ({held}) is no linear layer; {FITS}")
    return _Linear(weight, parts.get("bias", np.zeros(len(weight), np.float32)))


FITS = "what fits is linear, ReLU, GRU, linear; choose the policy's part of the file with --prefix"


def _around(
    linears: dict[Name, _Linear], cell: dict[str, NDArray], flax: bool, what: str
) -> tuple[_Linear | None, _Linear]:
    """The layer before the cell, if there is one, and the one after it: by their order, checked by their sizes."""
    wide, hidden = (
        (cell["ir"].shape[0], cell["hn"].shape[0]) if flax else (cell["weight_ih"].shape[1], cell["weight_hh"].shape[1])
    )
    ordered = sorted(linears, key=_natural)
    if len(ordered) == 1 and linears[ordered[0]].weight.shape[1] == hidden:
        return None, linears[ordered[0]]
    if len(ordered) == 2:
        before, after = (linears[name] for name in ordered)
        for first, last in ((before, after), (after, before)):
            if first.weight.shape[0] == wide and last.weight.shape[1] == hidden:
                return first, last
    shapes = ", ".join(f"{'.'.join(name)} {linears[name].weight.shape[::-1]}" for name in ordered) or "none"
    raise ExportError(f"{what}: a GRU of {wide} inputs and {hidden} units, linear layers: {shapes}; {FITS}")


def _torch_cell(given: Arrays, cell: Name, what: str) -> dict[str, NDArray]:
    """GRUCell's arrays, or those of a GRU of one layer and direction."""
    plain = {re.sub(r"_l0$", "", name[-1]): array for name, array in given.items()}
    if extra := sorted(plain.keys() - set(CELL)):
        raise ExportError(f"{what}: {'.'.join(cell)} has {', '.join(extra)}: a GRU of one layer and one direction fits")
    if not {"weight_ih", "weight_hh"} <= plain.keys() or plain["weight_hh"].shape[0] != 3 * plain["weight_hh"].shape[1]:
        shape = list(plain["weight_hh"].shape)
        raise ExportError(f"{what}: {'.'.join(cell)}.weight_hh has shape {shape}, a GRU's has [3 x hidden, hidden]")
    zeros = np.zeros(plain["weight_hh"].shape[0], np.float32)
    return {"bias_ih": zeros, "bias_hh": zeros} | plain


def _flax_cell(given: Arrays, what: str) -> dict[str, NDArray]:
    """Kernels by gate, ir [inputs, hidden] to hn [hidden, hidden], and biases as "ir bias"; absent ones are 0."""
    if missing := [gate for gate in GATES if (gate, "kernel") not in given]:
        raise ExportError(f"{what}: the GRU has no {', '.join(missing)}")
    hidden = given["hn", "kernel"].shape[0]
    kernels = {gate: given[gate, "kernel"] for gate in GATES}
    return kernels | {f"{gate} bias": given.get((gate, "bias"), np.zeros(hidden, np.float32)) for gate in GATES}


def _policy(layers: _Layers, flax: bool) -> Policy:
    cell = layers.cell
    if flax:
        ih, hh = (np.concatenate([cell[f"{side}{gate}"].T for gate in "rzn"]) for side in "ih")
        from_x, from_h = (np.stack([cell[f"{side}{gate} bias"] for gate in "rzn"]) for side in "ih")
    else:
        ih, hh = cell["weight_ih"], cell["weight_hh"]
        from_x, from_h = cell["bias_ih"].reshape(3, -1), cell["bias_hh"].reshape(3, -1)
    bias = np.stack([from_x[0] + from_h[0], from_x[1] + from_h[1], from_x[2], from_h[2]])
    first = layers.before
    fc1, fc1_bias = (None, None) if first is None else (first.weight, first.bias)
    return Policy(fc1, fc1_bias, ih, hh, bias, layers.after.weight, layers.after.bias)


@dataclass(frozen=True)
class _Formula:
    """Original: the file's arrays by its framework's own formula, term by term."""

    layers: _Layers
    flax: bool

    def reset(self) -> None:
        pass

    def __call__(self, x: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        if self.layers.before is not None:
            x = np.maximum(self.layers.before.weight @ x + self.layers.before.bias, 0.0)
        hidden = self._flax(x, hidden) if self.flax else self._torch(x, hidden)
        return self.layers.after.weight @ hidden + self.layers.after.bias, hidden

    def _torch(self, x: NDArray, h: NDArray) -> NDArray:
        """torch.nn.GRUCell: h' = (1 - z) n + z h."""
        cell = self.layers.cell
        from_x = (cell["weight_ih"] @ x + cell["bias_ih"]).reshape(3, -1)
        from_h = (cell["weight_hh"] @ h + cell["bias_hh"]).reshape(3, -1)
        r, z = (_sigmoid(from_x[gate] + from_h[gate]) for gate in (0, 1))
        n = np.tanh(from_x[2] + r * from_h[2])
        return (1.0 - z) * n + z * h

    def _flax(self, x: NDArray, h: NDArray) -> NDArray:
        """flax.linen.GRUCell: the same, its kernels [inputs, outputs] one by one."""
        cell = self.layers.cell
        i = {gate: x @ cell[f"i{gate}"] + cell[f"i{gate} bias"] for gate in "rzn"}
        r, z = (_sigmoid(i[gate] + (h @ cell[f"h{gate}"] + cell[f"h{gate} bias"])) for gate in "rz")
        n = np.tanh(i["n"] + r * (h @ cell["hn"] + cell["hn bias"]))
        return (1.0 - z) * n + z * h


def _sigmoid(x: NDArray) -> NDArray:
    return 1.0 / (1.0 + np.exp(-x))


def _natural(name: Name) -> list[list[tuple[int, str]]]:
    """agents.10 after agents.2."""
    return [[(int(digits or -1), text) for text, digits in re.findall(r"(\D*)(\d*)", part)] for part in name]
