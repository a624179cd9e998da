"""Policies as one `.mast` file (mast_runtime.bundle), of the team or of one of its agents."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mast_export.errors import ExportError
from mast_export.formats.base import Exported, Format, Request
from mast_export.quantise import quantise
from mast_export.verify import Trace, verify
from mast_runtime import Bundle, load, save


def write(request: Request) -> list[Exported]:
    """Format.write."""
    bundle, trace, path = request.bundle, request.trace, request.path
    if path.is_dir():
        raise ExportError(f"{path} is a folder; name a file, for example {path}/policy.mast")
    if request.agent is not None:
        bundle = single(bundle, request.agent)
        trace = trace.agent(request.agent, bundle.networks[0].hidden)
    return [replace(write_bundle(quantise(bundle, request.dtype), trace, path), agent=request.agent)]


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
        "noise": float(f"{report.noise:.2g}"),
        "action_agreement": round(report.agreement, 4),
        "mean_regret": float(f"{report.mean_regret:.2g}"),
    }
    return Exported(path, save(replace(bundle, info={**bundle.info, "verification": summary}), path), report)


def single(bundle: Bundle, agent: int) -> Bundle:
    """The bundle of one agent, for one robot."""
    info = bundle.agents[agent]
    return replace(bundle, agents=(replace(info, network=0),), networks=(bundle.networks[info.network],))


FORMATS = {"mast": Format("policy bundle", write, (".mast", ".mast"))}
