"""Policies as ONNX files: one self-contained model per agent (mast_runtime.onnx_graph describes the graph)."""

from __future__ import annotations

import json
from pathlib import Path

from mast_export.errors import ExportError
from mast_export.formats.base import Exported, Format, Request
from mast_export.formats.folder import replaced, write_manifest
from mast_export.verify import Parity, Trace, verify_onnx, weights_dtype
from mast_runtime import Bundle
from mast_runtime.bundle import write_atomically
from mast_runtime.onnx_graph import build_model

MARK = "mast-onnx"


def write(request: Request) -> list[Exported]:
    """Format.write."""
    return export_onnx(request.bundle, request.path, request.agent, False, request.trace)


def write_sparse(request: Request) -> list[Exported]:
    """Format.write."""
    return export_onnx(request.bundle, request.path, request.agent, True, request.trace)


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
        return [Exported(path, len(data), report, agent)]
    with replaced(path, MARK, "an ONNX export") as fresh:
        agents = []
        for k, (data, _) in models.items():
            info = bundle.agents[k]
            write_atomically(fresh / _file_name(k), data)
            agents.append({"file": _file_name(k), "name": info.name, "type": info.type, "index": info.index})
        write_manifest(fresh, MARK, agents, bundle.info)
    return [Exported(path / _file_name(k), len(data), report, k) for k, (data, report) in models.items()]


def _checked_model(bundle: Bundle, k: int, sparse: bool, trace: Trace | None) -> tuple[bytes, Parity | None]:
    from onnx import StringStringEntryProto
    from onnx.checker import ValidationError, check_model
    from onnx.shape_inference import InferenceError

    info = bundle.agents[k]
    model = build_model(
        bundle.contract, bundle.networks[info.network], info, bundle.info, sparse, False, bundle.identity
    )
    try:
        check_model(model, full_check=True)
    except (ValidationError, InferenceError) as error:
        raise ExportError(f"the ONNX model of agent {k} is not valid ({error})") from error
    if trace is None:
        return model.SerializeToString(), None
    report = verify_onnx(model.SerializeToString(), trace, k, weights_dtype(bundle))
    report.require(f"the ONNX model of agent {k}")
    model.metadata_props.append(StringStringEntryProto(key="verification", value=json.dumps(report.to_dict())))
    return model.SerializeToString(), report


def _file_name(k: int) -> str:
    return f"agent_{k}.onnx"


FLOAT32 = ("f32",)
FORMATS = {
    "onnx": Format("ONNX", write, ("-onnx", ".onnx"), FLOAT32),
    "onnx-sparse": Format("ONNX with sparse constants", write_sparse, ("-sparse-onnx", "-sparse.onnx"), FLOAT32),
}
