"""Policies as C: for each agent a folder with policy.h, policy.c, a test of the recorded episode and a Makefile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mast_export.c.build import cross_compile, find_compiler, run_test
from mast_export.c.source import generate
from mast_export.formats.base import Exported, Format, Request
from mast_export.formats.folder import replaced, write_manifest
from mast_export.quantise import quantise
from mast_export.verify import TOLERANCES, Trace, compare, weights_dtype
from mast_runtime import Bundle
from mast_runtime.bundle import write_atomically

MARK = "mast-c"
STEPS = 200
"""Of the trace, in the host test and the verification."""


def write(request: Request) -> list[Exported]:
    """Format.write."""
    return export_c(quantise(request.bundle, request.dtype), request.path, request.agent, request.trace)


def export_c(bundle: Bundle, path: str | Path, agent: int | None, trace: Trace) -> list[Exported]:
    """Write agent `agent` to the folder `path`, or every agent K to `path`/agent_K; manifest.json says who is where.

    Where a C compiler is found ($CC, cc, gcc or clang) each policy is built, passes its own test and is compared with
    the trace, whose agents are the bundle's, before anything is written. All folders appear at once, or none and the
    destination stays as it was; an earlier C export there is replaced. Raises ExportError, IndexError, OSError.
    """
    path = Path(path)
    if agent is not None and not 0 <= agent < len(bundle.agents):
        raise IndexError(f"agent {agent}: the bundle has agents 0 to {len(bundle.agents) - 1}")
    folders = {k: f"agent_{k}" for k in range(len(bundle.agents))} if agent is None else {agent: "."}
    compiler = find_compiler()
    with replaced(path, MARK, "a C export") as fresh:
        exported = [_write_agent(bundle, k, fresh / folder, trace, compiler) for k, folder in folders.items()]
        agents = []
        for (k, folder), file in zip(folders.items(), exported, strict=True):
            info, report = bundle.agents[k], file.report
            verification = None if report is None else report.to_dict()
            who = {"name": info.name, "type": info.type, "index": info.index}
            agents.append({"folder": folder, **who, "verification": verification})
        write_manifest(fresh, MARK, agents, bundle.info)
    return [replace(file, path=path / folder) for folder, file in zip(folders.values(), exported, strict=True)]


def _write_agent(bundle: Bundle, k: int, folder: Path, trace: Trace, compiler: list[str]) -> Exported:
    trace = trace.agent(k, bundle.networks[bundle.agents[k].network].hidden)
    trace = Trace(trace.obs[:STEPS], trace.avail_actions[:STEPS], trace.q[:STEPS], trace.hidden[:STEPS])
    source = generate(bundle, k, trace)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in source.files.items():
        write_atomically(folder / name, text.encode())
    report = None
    if compiler:
        actions, q, hidden = run_test(compiler, folder, bundle.contract.n_actions)
        tolerance = TOLERANCES[weights_dtype(bundle)]
        report = compare(trace, q[:, None], hidden[:, None], actions[:, None], tolerance)
        report.require(f"the C policy of agent {k}")
    unit, unverified = "bytes of constant tables", "no C compiler here"
    return Exported(folder, source.table_bytes, report, k, unit, unverified)


FORMATS = {"c": Format("C", write, ("-c", "-c"), build=cross_compile, every_kind=False)}
