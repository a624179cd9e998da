"""Policies as one `.mast` file (mast_runtime.bundle), of the team or of one of its agents."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mast_export.errors import ExportError
from mast_export.formats.base import Exported, Format, Request
from mast_export.observed import with_recording
from mast_export.quantise import quantise
from mast_export.verify import Parity, Trace, verify
from mast_runtime import Bundle, load, save
from mast_runtime.bundle import identity_of


def write(request: Request) -> list[Exported]:
    """Format.write."""
    path = request.path
    if path.is_dir():
        raise ExportError(f"{path} is a folder; name a file, for example {path}/policy.mast")
    bundle, trace = _asked_for(request)
    bundle, report = finished(bundle, trace, str(path))
    return [Exported(path, save(bundle, path), report, request.agent)]


def identified(request: Request) -> Request:
    """The request, its bundle with the identity of the .mast file of the same agents and weights.

    So a folder of C or an ONNX model says which policy it is in the same words. Raises ExportError.
    """
    bundle, _ = finished(*_asked_for(request), str(request.path))
    return replace(request, bundle=replace(request.bundle, identity=identity_of(bundle)))


def _asked_for(request: Request) -> tuple[Bundle, Trace]:
    """The agents that are asked for, with their weights as they are stored, and their part of the trace."""
    bundle, trace = request.bundle, request.trace
    if request.agent is not None:
        bundle = single(bundle, request.agent)
        trace = trace.agent(request.agent, bundle.networks[0].hidden)
    return quantise(bundle, request.dtype), trace


def finished(bundle: Bundle, trace: Trace, what: str) -> tuple[Bundle, Parity]:
    """The bundle as it is saved: with a recording where it has its inputs, and read back from a file and compared with
    the trace. Raises ExportError naming `what`."""
    if bundle.networks[0].inputs is not None:
        bundle = with_recording(bundle, trace)
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch, "trial.mast")
        save(bundle, trial)
        report = verify(load(trial), trace).require(what)
    summary = {
        "steps": report.n_steps,
        "max_q_error": float(f"{report.max_q_error:.2g}"),
        "max_hidden_error": float(f"{report.max_hidden_error:.2g}"),
        "noise": float(f"{report.noise:.2g}"),
        "action_agreement": round(report.agreement, 4),
        "mean_regret": float(f"{report.mean_regret:.2g}"),
    }
    if report.max_action_error is not None:
        summary["max_action_error"] = float(f"{report.max_action_error:.2g}")
    return replace(bundle, info={**bundle.info, "verification": summary}), report


def single(bundle: Bundle, agent: int) -> Bundle:
    """The bundle of one agent, for one robot."""
    info = bundle.agents[agent]
    return replace(bundle, agents=(replace(info, network=0),), networks=(bundle.networks[info.network],))


FORMATS = {"mast": Format("policy bundle", write, (".mast", ".mast"))}
