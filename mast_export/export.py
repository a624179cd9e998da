"""A run to files that need no torch, each verified on the observations that the run recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mast_export.compact import compact_bundle
from mast_export.errors import ExportError
from mast_export.extract import extract, obs_names, record_trace, seen_in
from mast_export.formats import FORMATS, find_format
from mast_export.formats.base import Exported, Request
from mast_export.formats.bundle import identified
from mast_export.observed import read_names, with_inputs
from mast_runtime import Bundle
from mast_runtime.format import VALUE_DTYPES

MAX_VERSION_CHARACTERS = 60


def export_run(
    folder: Path,
    snapshot: Path,
    format_: str = "mast",
    agent: int | None = None,
    output: Path | None = None,
    dtype: str = "f32",
    compacted: bool = True,
    target: str | None = None,
    policy_version: str = "",
    names: Path | None = None,
    prefix: str = "",
    rate_limit: float | None = None,
    ranges: bool = False,
) -> list[Exported]:
    """Export one snapshot of a run. Every file is verified on the run's recorded observations before it counts.

    compacted: without the units that cannot change an action (mast_export.compact). target: also compile each export's
    test for that machine. policy_version: what its maker calls this policy. names: a file that names each input
    (mast_export.observed.read_names), in place of the environment's names. prefix: what the names of written source
    begin with, "": the format's own. rate_limit: of continuous actions, the most that a component moves in one
    decision, as a share of its range. ranges: source also counts inputs out of range. C is verified where there is a C
    compiler; a report of None says that there was none. Raises UserError (run), ExportError (verification,
    destination), OSError (disk).
    """
    _check_request(format_, dtype, target, prefix, ranges)
    _check_version(policy_version)
    chosen, bundle = find_format(format_), extract(snapshot)
    if agent is not None and not 0 <= agent < len(bundle.agents):
        raise ExportError(f"agent {agent}: the run has agents 0 to {len(bundle.agents) - 1}")
    path = output or folder / chosen.file_name(agent, dtype)
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent}: no such folder; create it first")
    _check_kind(bundle, rate_limit)
    if chosen.check:
        chosen.check(bundle, dtype)
    if bundle.contract.head is not None:
        limited = replace(bundle.contract.head, rate_limit=rate_limit)
        bundle = replace(bundle, contract=replace(bundle.contract, head=limited))
    bundle = replace(bundle, identity=bundle.identity._replace(version=policy_version))
    recorded = folder / "trace.safetensors"
    own = obs_names(snapshot) if names is None else [read_names(names, bundle.contract.obs_dim)] * len(bundle.agents)
    bundle = with_inputs(bundle, seen_in(recorded), own)
    trace, removed = replace(record_trace(snapshot, recorded), head=bundle.contract.head), []
    if compacted:
        bundle, trace, removed = compact_bundle(bundle, trace)
    files = []
    request = Request(bundle, trace, path, agent, dtype, prefix, ranges)
    for file in chosen.write(request if format_ == "mast" else identified(request)):
        own = None if file.agent is None else bundle.agents[file.agent].network
        built = chosen.build(file.path, target) if target and chosen.build else None
        files.append(replace(file, removed=[part for part in removed if own in (None, part.network)], built=built))
    return files


def _check_version(version: str) -> None:
    if len(version) > MAX_VERSION_CHARACTERS or not version.isprintable():
        raise ExportError(
            f"--policy-version {version!r:.60}: expected at most {MAX_VERSION_CHARACTERS} printable characters"
        )


def _check_kind(bundle: Bundle, rate_limit: float | None) -> None:
    """Raises ExportError for a limit that cannot be."""
    head = bundle.contract.head
    if rate_limit is None:
        return
    if head is None:
        raise ExportError(f"--rate-limit {rate_limit:g}: it is for continuous actions; this policy chooses among some")
    if not 0.0 < rate_limit <= 1.0:
        raise ExportError(f"--rate-limit {rate_limit:g}: expected a share of the range, above 0 and at most 1")


def _check_request(
    format_: str, dtype: str = "f32", target: str | None = None, prefix: str = "", ranges: bool = False
) -> None:
    """Raises ExportError for a format that is not, or that cannot do what is asked of it."""
    chosen = find_format(format_)
    if dtype not in VALUE_DTYPES:
        raise ExportError(f"unknown weight dtype {dtype!r}; choose from {', '.join(VALUE_DTYPES)}")
    if dtype not in chosen.dtypes:
        able = [name for name in FORMATS if dtype in find_format(name).dtypes]
        raise ExportError(
            f"--dtype {dtype} with --format {format_}: {chosen.description} exports store {', '.join(chosen.dtypes)}; "
            f"use --format {' or '.join(able)}"
        )
    if target and chosen.build is None:
        able = [name for name in FORMATS if find_format(name).build]
        raise ExportError(
            f"--target {target} with --format {format_}: it has nothing to compile; use --format {' or '.join(able)}"
        )
    for given in (f"--prefix {prefix}" if prefix else "", "--ranges" if ranges else ""):
        if given and not chosen.prefixed:
            able = " or ".join(name for name in FORMATS if find_format(name).prefixed)
            raise ExportError(f"{given} with --format {format_}: it writes no source; use --format {able}")
