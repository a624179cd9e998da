"""From a trained run to files that run without torch: extract, narrow, verify, write."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mast_export.compact import Removed, compact_bundle
from mast_export.errors import ExportError
from mast_export.extract import extract, record_trace
from mast_export.quantise import quantise
from mast_export.verify import Report, Trace, verify
from mast_runtime import Bundle, load, save
from mast_runtime.format import VALUE_DTYPES

FORMATS = {"mast": "policy bundle", "onnx": "ONNX", "onnx-sparse": "ONNX with sparse initialisers", "c": "C"}
"""--format values, and what each writes."""


@dataclass(frozen=True)
class Exported:
    """One written file, or folder of C with the size of its const tables, and how far it is from the trainer's network.

    report: None for C where there is no C compiler, which is not verified. removed: what compaction took from each of
    its networks; empty when it was not asked for.
    """

    path: Path
    size_bytes: int
    report: Report | None
    removed: list[Removed] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; "passed" is None for what was not verified."""
        found = {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "removed": [vars(part) for part in self.removed],
        }
        return found | (self.report.to_dict() if self.report else {"passed": None})

    def sentence(self) -> str:
        """One line for a person."""
        unit = "bytes of constant tables" if self.path.is_dir() else "bytes"
        checked = self.report.sentence() if self.report else "not verified: no C compiler here"
        return f"{self.path}: {self.size_bytes:,} {unit}; {checked}"


def export_run(
    folder: Path,
    snapshot: Path,
    format_: str = "mast",
    agent: int | None = None,
    output: Path | None = None,
    dtype: str = "f32",
    compacted: bool = True,
) -> list[Exported]:
    """Export one snapshot of a run. Every file is verified on the run's recorded observations before it counts.

    compacted: without the units that cannot change an action (mast_export.compact). C is verified where there is a C
    compiler; a report of None says that there was none.
    Raises UserError (run), ExportError (verification, destination), OSError (disk).
    """
    bundle = extract(snapshot)
    _check_request(format_, dtype, agent, len(bundle.agents))
    trace, removed = record_trace(snapshot, folder / "trace.safetensors"), []
    path = output or folder / _default_name(format_, agent, dtype)
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent}: no such folder; create it first")
    if format_ == "mast" and path.is_dir():
        raise ExportError(f"{path} is a folder; name a file, for example {path}/policy.mast")
    if format_ == "mast" and agent is not None:
        bundle, trace = single(bundle, agent), trace.agent(agent)
    if compacted:
        bundle, trace, removed = compact_bundle(bundle, trace)
    if format_ == "mast":
        return [replace(write_bundle(quantise(bundle, dtype), trace, path), removed=removed)]
    files: list[tuple[Path, int, int, Report | None]]
    if format_ == "c":
        from mast_export.csource import export_c

        folders = export_c(quantise(bundle, dtype), path, agent, trace)
        files = [(file.path, file.agent, file.table_bytes, file.report) for file in folders]
    else:
        from mast_export.onnx import export_onnx

        models = export_onnx(bundle, path, agent, format_ == "onnx-sparse", trace)
        files = [(file.path, file.agent, file.path.stat().st_size, file.report) for file in models]
    return [
        Exported(file, size, report, [part for part in removed if part.network == bundle.agents[k].network])
        for file, k, size, report in files
    ]


def _check_request(format_: str, dtype: str, agent: int | None, n_agents: int) -> None:
    if format_ not in FORMATS:
        raise ExportError(f"unknown format {format_!r}; choose from {', '.join(FORMATS)}")
    if format_ not in ("mast", "c") and dtype != "f32":
        raise ExportError(f"--dtype {dtype} with --format {format_}: ONNX exports are float32; use --format mast or c")
    if dtype not in VALUE_DTYPES:
        raise ExportError(f"unknown weight dtype {dtype!r}; choose from {', '.join(VALUE_DTYPES)}")
    if agent is not None and not 0 <= agent < n_agents:
        raise ExportError(f"agent {agent}: the run has agents 0 to {n_agents - 1}")


def write_bundle(bundle: Bundle, trace: Trace, path: Path) -> Exported:
    """Write a bundle, read it back, compare it with the trace, and only then put it at `path`. Raises ExportError."""
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch, "trial.mast")
        save(bundle, trial)
        report = verify(load(trial), trace).require(str(path))
    summary = {
        "steps": report.n_steps,
        "max_q_error": float(f"{report.max_q_error:.2g}"),
        "max_hidden_error": float(f"{report.max_hidden_error:.2g}"),
        "action_agreement": round(report.agreement, 4),
    }
    return Exported(path, save(replace(bundle, info={**bundle.info, "verification": summary}), path), report)


def single(bundle: Bundle, agent: int) -> Bundle:
    """The bundle of one agent, for one robot."""
    info = bundle.agents[agent]
    return replace(bundle, agents=(replace(info, network=0),), networks=(bundle.networks[info.network],))


def _default_name(format_: str, agent: int | None, dtype: str) -> str:
    stem = "policy" + ("" if agent is None else f"-agent{agent}") + ("" if dtype == "f32" else f"-{dtype}")
    if format_ == "mast":
        return f"{stem}.mast"
    if format_ == "c":
        return f"{stem}-c"
    stem += "-sparse" if format_ == "onnx-sparse" else ""
    return f"{stem}-onnx" if agent is None else f"{stem}.onnx"
