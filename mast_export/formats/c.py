"""Policies as C: for each agent a library of its policy with a test of the recorded episode (mast_export.c)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mast_export.c.build import cross_compile, find_compiler, run_test
from mast_export.c.library import library
from mast_export.c.ranges import ranges
from mast_export.c.source import PREFIX, Source, check_kind, check_prefix, generate
from mast_export.errors import ExportError
from mast_export.fixed import MEMORY, TANH_ERROR
from mast_export.formats.base import Exported, Format, Request
from mast_export.formats.folder import replaced, write_manifest
from mast_export.quantise import quantise
from mast_export.verify import Parity, Trace, compare, weights_dtype
from mast_runtime import Bundle
from mast_runtime.bundle import write_atomically

MARK = "mast-c"
STEPS = 200
"""Of the trace, in the host test and the verification."""
FIXED_AGREEMENT = 0.99
"""Of decisions, the least of a policy in fixed point beside the trained network."""


@dataclass(frozen=True)
class Written:
    """How a policy is written: the beginning of its names, whether it computes in integers, and whether a header
    counts inputs out of range."""

    prefix: str
    fixed: bool
    ranges: bool


def write(request: Request) -> list[Exported]:
    """Format.write."""
    r = request
    return export_c(r.bundle, r.path, r.agent, r.trace, r.dtype, r.prefix, r.ranges)


def export_c(
    bundle: Bundle,
    path: str | Path,
    agent: int | None,
    trace: Trace,
    dtype: str = "",
    prefix: str = "",
    counted: bool = False,
) -> list[Exported]:
    """Write agent `agent` to the folder `path`, or every agent K to `path`/agent_K; manifest.json says who is where.

    dtype: f32 and f16 compute in float, i8 in fixed point; by default that of the bundle's weights. prefix: of all
    names; a team's agents are then PREFIX_K in `path`/PREFIX_K, so that one image can hold them all. counted: with a
    header that counts inputs out of range. Where a C compiler
    is found ($CC, cc, gcc or clang) each policy is built, passes its own test and is compared with the trace, whose
    agents are the bundle's, before anything is written; fixed point is compared without one too. All folders appear at
    once, or none and the destination stays as it was; an earlier C export there is replaced. Raises ExportError,
    IndexError, OSError.
    """
    path = Path(path)
    if agent is not None and not 0 <= agent < len(bundle.agents):
        raise IndexError(f"agent {agent}: the bundle has agents 0 to {len(bundle.agents) - 1}")
    chosen = range(len(bundle.agents)) if agent is None else [agent]
    names = {k: _name(prefix, k if agent is None else None) for k in chosen}
    folders = {k: "." if agent is not None else names[k] if prefix else f"agent_{k}" for k in chosen}
    dtype = dtype or weights_dtype(bundle)
    check_kind(bundle, dtype)
    compiler = find_compiler()
    fixed = dtype == "i8"
    bundle = bundle if fixed or dtype == weights_dtype(bundle) else quantise(bundle, dtype)
    with replaced(path, MARK, "a C export") as fresh:
        exported = [
            _write_agent(bundle, k, fresh / folder, trace, compiler, Written(names[k], fixed, counted))
            for k, folder in folders.items()
        ]
        agents = []
        for (k, folder), file in zip(folders.items(), exported, strict=True):
            info, report = bundle.agents[k], file.report
            verification = None if report is None else report.to_dict()
            who = {"name": info.name, "type": info.type, "index": info.index, "prefix": names[k]}
            agents.append({"folder": folder, **who, "verification": verification})
        write_manifest(fresh, MARK, agents, bundle.info)
    return [replace(file, path=path / folder) for folder, file in zip(folders.values(), exported, strict=True)]


def _name(prefix: str, k: int | None) -> str:
    """The prefix of one agent of a team, or (None) of the only one that is written. Raises ExportError."""
    if not prefix:
        return PREFIX
    return check_prefix(prefix) if k is None else f"{check_prefix(prefix)}_{k}"


def _write_agent(bundle: Bundle, k: int, folder: Path, trace: Trace, compiler: list[str], how: Written) -> Exported:
    trace = trace.agent(k, bundle.networks[bundle.agents[k].network].hidden).first(STEPS)
    source = generate(bundle, k, trace, how.prefix, how.fixed)
    files = dict(source.files)
    if how.ranges:
        network = bundle.networks[bundle.agents[k].network]
        bits = source.fixed.obs_bits if source.fixed else None
        files[f"{how.prefix}_ranges.h"] = ranges(network.inputs, how.prefix, bits)
    continuous = bundle.contract.head is not None
    for name, text in library(files, how.prefix, bundle.agents[k].name, bundle.info, continuous).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, text.encode())
    report = _fixed_report(source, k) if source.fixed else None
    if compiler:
        number = np.int32 if source.fixed else np.float32
        sizes = source.trace.avail_actions.shape[-1], source.trace.q.shape[-1]
        found = run_test(compiler, folder, sizes[0], number, continuous, sizes[1])
        report = _same_bits(source, found, report) if report else _report(bundle, source.trace, found, k)
    unit, unverified = "bytes of constant tables", "no C compiler here"
    return Exported(folder, source.table_bytes, report, k, unit, unverified)


def _report(bundle: Bundle, trace: Trace, found: tuple, k: int) -> Parity:
    actions, q, hidden = found
    if not hidden.size:  # no memory
        hidden = np.zeros_like(trace.hidden[:, 0])
    report = compare(trace, q[:, None], hidden[:, None], actions[:, None], weights_dtype(bundle))
    return report.require(f"the C policy of agent {k}")


def _fixed_report(source: Source, k: int) -> Parity:
    """The integers, as numpy computes them, beside the trained network. Raises ExportError."""
    assert source.fixed is not None
    trace = source.trace
    actions, q, hidden = source.fixed.play(trace)
    if trace.head is not None:
        actions = source.fixed.in_units(actions)
    memory = hidden / MEMORY if source.fixed.recurrent else np.zeros_like(trace.hidden[:, 0])
    report = compare(trace, (q * source.fixed.unit)[:, None], memory[:, None], actions[:, None], "i8")
    if trace.head is not None:
        report = replace(report, max_q_error=max(report.max_q_error, TANH_ERROR))
    # What it computes is checked to the bit against this reference, whose distance from the network is its noise.
    report = replace(report, noise=max(report.max_q_error, report.max_hidden_error, report.noise))
    if not report.passed or report.agreement < FIXED_AGREEMENT:
        lost = "of the value" if trace.head is None else "of the range, on average"
        raise ExportError(
            f"agent {k} in fixed point takes {report.agreement:.1%} of the trained network's {report.choices} recorded "
            f"decisions (at least {FIXED_AGREEMENT:.0%} are needed) and gives up {report.mean_regret:.2%} {lost}; "
            "export f32 or f16"
        )
    return report


def _same_bits(source: Source, found: tuple, report: Parity) -> Parity:
    """The report, where what the compiled policy computes is what numpy did. Raises ExportError."""
    assert source.fixed is not None
    pairs = list(zip(found, source.fixed.play(source.trace), strict=True))
    if source.trace.head is not None:
        pairs = pairs[1:]  # the policy's test compares the actions, which it has in their units
    if not all(np.array_equal(*pair) for pair in pairs):
        raise ExportError("the compiled fixed-point policy computes other numbers than its reference; report this")
    return report


FORMATS = {"c": Format("C", write, ("-c", "-c"), build=cross_compile, prefixed=True, check=check_kind)}
