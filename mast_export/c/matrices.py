"""Weight matrices as C: const tables in the bundle's layout, and one scalar loop for each layout and type in use."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mast_runtime.network import Layer, Network

VALUE_TYPES = {"f": "float", "e": "uint16_t"}
"""By numpy's type code; float16 is stored as its bits."""
SIZES = {"float": 4, "int32_t": 4, "uint16_t": 2, "int16_t": 2, "uint8_t": 1, "int8_t": 1}
WIDTH = 120
FIXED = "\xa0"


@dataclass(frozen=True)
class Table:
    """One const array of C type `ctype`; float16 values are given as uint16."""

    ctype: str
    name: str
    values: NDArray

    @property
    def size_bytes(self) -> int:
        return int(self.values.size) * SIZES[self.ctype]

    def text(self, public: bool = False) -> str:
        """The definition; C has no empty arrays, so one of no values holds a zero."""
        words = ", ".join(literals(self.values) or ["0"])
        return f"{'' if public else 'static '}const {self.ctype} {self.name}[] = {{\n{_wrap(words, 4, 4)}\n}};\n"


@dataclass(frozen=True)
class Kind:
    """What a loop is made for: rows of a block (0: dense) and the C types of its tables."""

    block: int
    value: str
    column: str
    count: str

    @property
    def value_name(self) -> str:
        return {"float": "f32", "uint16_t": "f16"}[self.value]

    @property
    def function(self) -> str:
        """The loop's name: its layout, its values, and the bits of columns and counts where they are not 8."""
        layout = {0: "dense", 1: "rows"}.get(self.block, f"blocks{self.block}")
        wide = [name for name in ("column", "count") if getattr(self, name) == "uint16_t"]
        return "_".join(["add", layout, self.value_name, *(f"{name}16" for name in wide)])


@dataclass(frozen=True)
class Matrix:
    """One layer as C. `surplus`: floats beyond its outputs that its loop adds zeros to."""

    name: str
    kind: Kind
    tables: list[Table]
    sizes: tuple[int, int]
    surplus: int

    def call(self, x: str, out: str) -> str:
        """The statement out += matrix x."""
        arguments = [*(table.name for table in self.tables), *map(str, self.sizes), x, out.replace(" ", FIXED)]
        return _wrap(f"{self.kind.function}({', '.join(arguments)});", 4, 8).lstrip()


def literals(values: NDArray) -> list[str]:
    """C literals that read back as exactly these numbers."""
    if values.dtype.kind == "f":
        return [f"{value!s}f" for value in values.astype(np.float32).ravel()]
    return [str(value) for value in values.ravel()]


def initialiser(values: NDArray) -> str:
    """Values of one or two dimensions between braces."""
    if values.ndim == 1:
        return "{" + ", ".join(literals(values)) + "}"
    return "{\n" + ",\n".join(initialiser(row) for row in values) + "}"


def matrices(network: Network) -> dict[str, Matrix]:
    """The network's layers by name. weight_ih's gates are in the order n, r, z, so that [n input, r, z, n recurrent]
    is one array to which weight_ih adds from its start and weight_hh (r, z, n) from its second gate on.
    """
    layers = network.layers()
    if "weight_ih" in layers:
        layers["weight_ih"] = _last_segment_first(layers["weight_ih"])
    return {name: _matrix(name, layer) for name, layer in layers.items()}


def first_columns(layer: Layer, n: int) -> Layer:
    """The layer without its inputs from n on."""
    if layer.columns is None or layer.counts is None:
        return replace(layer, inputs=n, values=layer.values[:, :n])
    kept = layer.columns < n
    row = np.repeat(np.arange(layer.block_rows), layer.counts)
    counts = np.bincount(row[kept], minlength=layer.block_rows).astype(np.int32)
    return replace(layer, inputs=n, values=layer.values[kept], counts=counts, columns=layer.columns[kept])


def first_rows(layer: Layer, n: int) -> Layer:
    """The layer, of one segment, without its outputs from n on."""
    scale = None if layer.scale is None else layer.scale[:n]
    if layer.columns is None or layer.counts is None:
        return replace(layer, outputs=n, values=layer.values[:n], scale=scale)
    counts = layer.counts[: -(-n // layer.block)]
    kept = int(counts.sum())
    values = layer.values[:kept].copy()
    values[kept - int(counts[-1]) :, n - layer.block * (len(counts) - 1) :] = 0
    return replace(layer, outputs=n, values=values, counts=counts, columns=layer.columns[:kept], scale=scale)


def _last_segment_first(layer: Layer) -> Layer:
    size = layer.outputs // layer.segments
    if layer.columns is None or layer.counts is None:
        return replace(layer, values=np.roll(layer.values, size, 0))
    rows = layer.block_rows // layer.segments
    n_last = int(layer.counts[-rows:].sum())
    return replace(
        layer,
        values=np.roll(layer.values, n_last, 0),
        counts=np.roll(layer.counts, rows),
        columns=np.roll(layer.columns, n_last),
    )


def _matrix(name: str, layer: Layer) -> Matrix:
    value = VALUE_TYPES[layer.values.dtype.char]
    values = layer.values.view(np.uint16) if value == "uint16_t" else layer.values
    tables = [Table(value, f"{name}_values", values)]
    if layer.columns is None or layer.counts is None:
        kind, sizes, surplus = Kind(0, value, "", ""), (layer.outputs, layer.inputs), 0
    else:
        kind = Kind(layer.block, value, _unsigned(layer.columns), _unsigned(layer.counts))
        tables += [
            Table(kind.column, f"{name}_columns", layer.columns),
            Table(kind.count, f"{name}_counts", layer.counts),
        ]
        segments = 1 if layer.block == 1 else layer.segments
        sizes, surplus = (segments, layer.outputs // segments), -(layer.outputs // segments) % layer.block
    return Matrix(name, kind, tables, sizes, surplus)


def _unsigned(values: NDArray) -> str:
    return "uint8_t" if values.max(initial=0) < 256 else "uint16_t"


def kernel(kind: Kind) -> str:
    """The function that `Matrix.call` calls."""
    return _dense_kernel(kind) if not kind.block else _block_kernel(kind)


def _wrap(text: str, first: int, then: int) -> str:
    """Lines of at most WIDTH, indented by `first` and `then` spaces; FIXED spaces do not break."""
    lines = textwrap.wrap(text, WIDTH - then, break_on_hyphens=False)
    return "\n".join(" " * (then if i else first) + line for i, line in enumerate(lines)).replace(FIXED, " ")


def _decoded(value: str, expression: str) -> str:
    return {"float": expression, "uint16_t": f"from_half({expression})"}[value]


def _dense_kernel(kind: Kind) -> str:
    return f"""\
static void {kind.function}(const {kind.value} *w, int rows, int inputs, const float *x, float *out)
{{
    for (int row = 0; row < rows; row++, w += inputs) {{
        float sum = 0.0f;
        for (int i = 0; i < inputs; i++)
            sum += {_decoded(kind.value, "w[i]")} * x[i];
        out[row] += sum;
    }}
}}
"""


def _block_kernel(kind: Kind) -> str:
    """Sums have names, so that they live in registers whatever the compiler unrolls.

    Rows of blocks that a segment's end cuts short add the zeros of their padding to what follows.
    """
    block = range(kind.block)
    zeros = _wrap("float " + ", ".join(f"s{k}{FIXED}={FIXED}0.0f" for k in block) + ";", 12, 18)
    sums = "\n".join(f"                s{k} += {_decoded(kind.value, f'w[{k}]')} * v;" for k in block)
    stores = "\n".join(f"            out[{k}] += s{k};" for k in block)
    height = "1" if kind.block == 1 else f"left < {kind.block} ? left : {kind.block}"
    return f"""\
static void {kind.function}(const {kind.value} *w, const {kind.column} *column, const {kind.count} *count,
                            int segments, int rows, const float *x, float *out)
{{
    for (; segments > 0; segments--) {{
        for (int left = rows, height; left > 0; left -= height) {{
{zeros}
            for (unsigned n = *count++; n > 0; n--, w += {kind.block}) {{
                const float v = x[*column++];
{sums}
            }}
{stores}
            height = {height};
            out += height;
        }}
    }}
}}
"""
