"""A policy measured: FLOPs, parameters, size, latency, start-up and memory, sparse beside dense of the same shape."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mast_runtime.backends import BACKENDS, backend_of, find_backend, installed_backends
from mast_runtime.bundle import Bundle, save
from mast_runtime.errors import BackendError
from mast_runtime.imports import importable
from mast_runtime.measure.flops import Cost, bundle_cost
from mast_runtime.measure.latency import LatencyRow, clock_us, densified, is_dense, measure_latency
from mast_runtime.measure.machine import Machine, describe_machine
from mast_runtime.measure.rivals import RIVALS, installed_rivals
from mast_runtime.measure.startup import (
    BARE,
    MODEL_FILE,
    StartupRow,
    bare_command,
    measure_startup,
    model_command,
    policy_command,
    write_model,
)
from mast_runtime.measure.tables import new_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TEAM = 64
EVEN = 1.05
"""A speed-up below this is none."""
ZEROS = "dense files hold the zeros, which gzip removes; a network trained dense has none to remove"


@dataclass(frozen=True)
class SizeRow:
    """Bytes on disk of `files` files that hold the team."""

    name: str
    files: int
    size_bytes: int
    gzip_bytes: int


@dataclass(frozen=True)
class BenchResult:
    """Everything `mast bench` shows; JSON-ready through `as_dict`. `dense` is the same shape with every weight."""

    info: dict[str, Any]
    agents: int
    shape: dict[str, int]
    sparsity: float
    sparse: Cost
    dense: Cost
    sizes: list[SizeRow]
    latency: list[LatencyRow]
    startup: list[StartupRow]
    clock_us: float
    notes: list[str]
    machine: Machine

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    bundle: Bundle,
    backends: Sequence[str] | None = None,
    rounds: int = 7,
    team: int = TEAM,
    startup_rounds: int | None = None,
    variants: Mapping[str, Bundle] | None = None,
) -> BenchResult:
    """Measure `bundle` on `backends` (None: all installed, and the installed rivals), every cell once per round.

    team: agents stepped at once in the team rows, rounded up to whole teams of the bundle. startup_rounds: rounds of
    fresh processes (None: as `rounds`, 0: none). variants: other policies of the same architecture, by name, measured
    in the same rounds on the first backend. Raises BackendError, RuntimeFault.
    """
    machine, variants = describe_machine(), variants or {}
    engines = _engines(backends or (*installed_backends(), *installed_rivals()))
    names = [name for name in engines if name not in RIVALS]
    latency, notes = measure_latency(bundle, engines, rounds, team, variants)
    startup_rounds = rounds if startup_rounds is None else startup_rounds
    with tempfile.TemporaryDirectory() as folder:
        path = _file_of(bundle, Path(folder))
        startup = _startup(bundle, path, names, startup_rounds, Path(folder)) if startup_rounds else []
        sizes = _sizes(bundle, path, Path(folder), variants)
    sparse, dense = bundle_cost(bundle)
    contract, network = bundle.contract, bundle.networks[0]
    shape = {"inputs": contract.input_dim, "hidden": network.hidden, "actions": contract.n_actions}
    if not is_dense(bundle):
        notes += dict.fromkeys(filter(None, map(_note, engines)))
    return BenchResult(
        bundle.info,
        len(bundle.agents),
        shape,
        bundle.sparsity,
        sparse,
        dense,
        sizes,
        latency,
        startup,
        clock_us(),
        notes + [machine.warning] * bool(machine.warning),
        machine,
    )


def _engines(names: Sequence[str]) -> list[str]:
    """Each name once; `auto` by what it means. Raises BackendError."""
    for name in names:
        if name not in ("auto", *BACKENDS, *RIVALS):
            raise BackendError(f"unknown engine {name!r}; choose from auto, {', '.join((*BACKENDS, *RIVALS))}")
        if name in RIVALS and name not in installed_rivals():
            needed = f"{' and '.join(RIVALS[name].modules)}; pip install {RIVALS[name].packages}"
            raise BackendError(f"{name!r} needs {needed}")
    return list(dict.fromkeys(name if name in RIVALS else find_backend(name)[0] for name in names))


def _note(engine: str) -> str:
    """What to know about an engine's rows."""
    if engine in RIVALS:
        return f"{', '.join(RIVALS)}: the engine's own call, dense kernels, no checks of its input"
    return backend_of(engine).note


def _file_of(bundle: Bundle, folder: Path) -> Path:
    """The file that the bundle was loaded from, or one written now."""
    if bundle.path is not None and bundle.path.is_file():
        return bundle.path
    save(bundle, folder / "policy.mast")
    return folder / "policy.mast"


def _startup(bundle: Bundle, path: Path, backends: Sequence[str], rounds: int, folder: Path) -> list[StartupRow]:
    commands = {BARE: bare_command()}
    commands |= {name: policy_command(path, 0, name) for name in backends}
    if "onnx" in backends and write_model(bundle, 0, folder / "agent.onnx"):
        commands[MODEL_FILE] = model_command(folder / "agent.onnx")
    return measure_startup(commands, rounds)


def _sizes(bundle: Bundle, path: Path, folder: Path, variants: Mapping[str, Bundle]) -> list[SizeRow]:
    """The policy as given, its dense twin, the variants, and one ONNX model per network where onnx is installed."""
    save(densified(bundle), folder / "dense.mast")
    values = "/".join(sorted({layer.values.dtype.name for layer in bundle.networks[0].layers().values()}))
    rows = [
        _size_row(f".mast, {values}, as given", [path.read_bytes()]),
        _size_row(".mast, float32, dense", [(folder / "dense.mast").read_bytes()]),
    ]
    for name, variant in variants.items():
        save(variant, folder / "variant.mast")
        rows.append(_size_row(f".mast, {name}", [(folder / "variant.mast").read_bytes()]))
    if importable("onnx"):
        from mast_runtime.onnx_graph import build_model

        users = {agent.network: agent for agent in bundle.agents}.values()
        for name, sparse in (("ONNX, sparse constants", True), ("ONNX, dense", False)):
            models = [build_model(bundle.contract, bundle.networks[user.network], user, None, sparse) for user in users]
            rows.append(_size_row(name, [model.SerializeToString() for model in models]))
    return rows


def _size_row(name: str, files: list[bytes]) -> SizeRow:
    return SizeRow(name, len(files), sum(map(len, files)), sum(len(gzip.compress(data, mtime=0)) for data in files))


def print_bench(console: Console, result: BenchResult) -> None:
    """What was measured and where, four tables, and what to beware of."""
    name = " ".join(str(result.info[key]) for key in ("map", "method") if key in result.info) or "policy"
    inputs, hidden, actions = result.shape["inputs"], result.shape["hidden"], result.shape["actions"]
    machine, versions = result.machine, ", ".join(f"{key} {value}" for key, value in result.machine.versions.items())
    console.print(
        f"{name}: {result.agents} agents, {inputs} inputs, hidden {hidden}, {actions} actions, "
        f"sparsity {result.sparsity:.1%}"
    )
    console.print(f"{machine.cpu}, {machine.cores} cores, {machine.native}; Python {machine.python}, {versions}")
    console.print(_cost_table(result))
    console.print(_size_table(result))
    console.print(_latency_table(result))
    if result.startup:
        console.print(_startup_table(result.startup))
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", highlight=False)


def _cost_table(result: BenchResult) -> Table:
    table = new_table(
        "FLOPs and parameters of the team",
        "one decision of every agent; counted: biases, activations and the choice of the action too",
        ("",),
        ("sparse", "dense", "reduction"),
    )
    sparse, dense = result.sparse, result.dense
    for name, a, b in (
        ("FLOPs, the paper's convention", sparse.paper_flops, dense.paper_flops),
        ("FLOPs, everything counted", sparse.counted_flops, dense.counted_flops),
        ("parameters, weights", sparse.paper_parameters, dense.paper_parameters),
        ("parameters, with biases", sparse.counted_parameters, dense.counted_parameters),
    ):
        table.add_row(name, f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.1f}x" if a else "-")
    return table


def _size_table(result: BenchResult) -> Table:
    table = new_table("Size on disk", ZEROS, ("team",), ("files", "kB", "kB gzipped", "of the first"))
    first = result.sizes[0].size_bytes
    for row in result.sizes:
        cells = f"{row.size_bytes / 1e3:.1f}", f"{row.gzip_bytes / 1e3:.1f}", f"{row.size_bytes / first:.1f}x"
        table.add_row(row.name, str(row.files), *cells)
    return table


def _latency_table(result: BenchResult) -> Table:
    table = new_table(
        "Latency of act, per agent",
        f"interleaved in {len(result.latency[0].rounds_us) if result.latency else 0} rounds; "
        f"reading the clock adds {result.clock_us:.2f} us to a call",
        ("backend", "weights"),
        ("agents", "median us", "p99 us", "over dense", "of first"),
    )
    agents = None
    for row in result.latency:
        if agents not in (None, row.agents):
            table.add_section()
        agents = row.agents
        cells = str(row.agents), f"{row.median_us:.2f}", f"{row.p99_us:.2f}", _wins(row.speedup)
        cells = *cells, f"{row.against_first:.2f}x"
        table.add_row(row.backend, row.weights, *cells)
    return table


def _wins(speedup: float | None) -> str:
    if speedup is None:
        return ""
    return f"{speedup:.1f}x" if speedup >= EVEN else f"no ({speedup:.2f}x)"


def _startup_table(rows: list[StartupRow]) -> Table:
    table = new_table(
        "Start-up: a fresh process to its first decision",
        "the onnx backend builds its model with the onnx package; the row `model file` needs onnxruntime alone"
        if any(row.name == "onnx" for row in rows)
        else "",
        ("process",),
        ("ms", "processor ms", "peak MB", "resident MB"),
    )
    for row in rows:
        table.add_row(
            row.name,
            f"{row.startup_ms:.0f}",
            f"{row.cpu_ms:.0f}",
            f"{row.peak_bytes / 1e6:.1f}",
            f"{row.resident_bytes / 1e6:.1f}" if row.resident_bytes else "-",
        )
    return table
