"""Policies as ONNX files: one self-contained model per agent (mast_runtime.onnx_graph describes the graph)."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx.checker import ValidationError, check_model
from onnx.shape_inference import InferenceError

from mast_export.errors import ExportError
from mast_export.verify import TOLERANCES, Report, Trace, verify_onnx, weights_dtype
from mast_runtime import Bundle
from mast_runtime.bundle import write_atomically
from mast_runtime.onnx_graph import build_model

MANIFEST = "manifest.json"
FORMAT = "mast-onnx"


class Exported(NamedTuple):
    """One file, the position of its agent in the bundle, and its parity with the trainer when a trace was given."""

    path: Path
    agent: int
    report: Report | None


def export_onnx(
    bundle: Bundle, path: str | Path, agent: int | None = None, sparse: bool = False, trace: Trace | None = None
) -> list[Exported]:
    """Write agent `agent` to the file `path`, or all agents to `path`/agent_K.onnx with a manifest.json.

    One file too when `path` ends in .onnx and the bundle has one agent. Each model passes onnx.checker in full mode
    and, given a trace, verification, before anything is written; the report is stored in the model's metadata
    (property `verification`). All files appear at once, or none and the destination stays as it was.
    Raises ExportError, IndexError, OSError.
    """
    path = Path(path)
    if agent is not None and not 0 <= agent < len(bundle.agents):
        raise IndexError(f"agent {agent}: the bundle has agents 0 to {len(bundle.agents) - 1}")
    if agent is None and path.suffix == ".onnx":
        if len(bundle.agents) > 1:
            raise ExportError(f"{path} is one file for {len(bundle.agents)} agents; name a folder, or choose an agent")
        agent = 0
    chosen = range(len(bundle.agents)) if agent is None else [agent]
    models = {k: _checked_model(bundle, k, sparse, trace) for k in chosen}
    if agent is not None:
        data, report = models[agent]
        write_atomically(path, data)
        return [Exported(path, agent, report)]
    _write_folder(bundle, path, {k: data for k, (data, _) in models.items()})
    return [Exported(path / _file_name(k), k, report) for k, (_, report) in models.items()]


def _checked_model(bundle: Bundle, k: int, sparse: bool, trace: Trace | None) -> tuple[bytes, Report | None]:
    info = bundle.agents[k]
    model = build_model(bundle.contract, bundle.networks[info.network], info, bundle.info, sparse)
    try:
        check_model(model, full_check=True)
    except (ValidationError, InferenceError) as error:
        raise ExportError(f"the ONNX model of agent {k} is not valid ({error})") from error
    if trace is None:
        return model.SerializeToString(), None
    report = verify_onnx(model.SerializeToString(), trace, k, TOLERANCES[weights_dtype(bundle)])
    report.require(f"the ONNX model of agent {k}")
    model.metadata_props.append(onnx.StringStringEntryProto(key="verification", value=json.dumps(report.to_dict())))
    return model.SerializeToString(), report


def _file_name(k: int) -> str:
    return f"agent_{k}.onnx"


def _write_folder(bundle: Bundle, path: Path, models: dict[int, bytes]) -> None:
    """The folder is filled beside `path` and renamed; an earlier export there is replaced, anything else is kept."""
    if path.exists() and not _is_export(path):
        raise ExportError(f"{path} exists and is not an ONNX export; choose another destination")
    chosen = {_file_name(k): bundle.agents[k] for k in models}
    agents = [
        {"file": file, "name": info.name, "type": info.type, "index": info.index} for file, info in chosen.items()
    ]
    manifest = {"format": FORMAT, "agents": agents, "info": bundle.info}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as temporary:
        fresh = Path(temporary, "new")
        fresh.mkdir()
        for k, data in models.items():
            write_atomically(fresh / _file_name(k), data)
        write_atomically(fresh / MANIFEST, json.dumps(manifest, indent=1).encode())
        if path.exists():
            os.replace(path, Path(temporary, "old"))
        os.replace(fresh, path)


def _is_export(path: Path) -> bool:
    try:
        return json.loads((path / MANIFEST).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False
