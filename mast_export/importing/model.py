"""A policy trained elsewhere to a bundle or another format, compared step by step with the original's own execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mast_export.compact import Removed, compact_bundle
from mast_export.errors import ExportError
from mast_export.formats import find_format
from mast_export.formats.base import Exported, Request
from mast_export.formats.bundle import identified
from mast_export.importing.arrays import SUFFIXES
from mast_export.importing.named import read_named
from mast_export.importing.observations import Numpy, Recorded, played, random_observations, read_observations
from mast_export.importing.onnx import read_onnx
from mast_export.importing.policy import Imported, Policy, networks
from mast_export.importing.prune import prune
from mast_export.quantise import quantise
from mast_export.verify import Parity, Trace, verify
from mast_runtime import AgentInfo, Bundle, Contract, Identity, Network, __version__
from mast_runtime.format import MAX_AGENTS

STEPS = 200
"""Of the comparison, where no observations are given."""
BLOCKS = {"1x1": 1, "8x1": 8, "16x1": 16}


@dataclass(frozen=True)
class Options:
    """What a file does not say: how its input is put together, and what is wanted of it.

    agents: that share the policy. last_action, agent_id: which one-hot parts follow the observation in its input.
    sparsity: prune to that share of absent weights, None: as it is. block: of the recurrent layers, when pruned.
    prefix: of the policy's names in a file of arrays. tensor: of the values in an ONNX graph.
    observations: a file of recorded ones, None: random ones.
    """

    agents: int = 1
    last_action: bool = False
    agent_id: bool = False
    sparsity: float | None = None
    block: str = "1x1"
    prefix: str = ""
    tensor: str = ""
    observations: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What was written. same: the unpruned network beside the original. loss: what was written, where it was pruned
    or its weights narrowed, beside the original."""

    files: list[Exported]
    kind: str
    same: Parity
    loss: Parity | None
    sparsity: float
    on: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "files": [file.as_dict() for file in self.files],
            "kind": self.kind,
            "sparsity": round(self.sparsity, 6),
            "observations": self.on,
            "same": self.same.to_dict(),
            "loss": None if self.loss is None else self.loss.to_dict() | {"agreement": self.loss.agreement},
        }

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"{self.kind}, on {self.on}: {self.same.sentence()}"]
        if (loss := self.loss) is not None:
            lines.append(
                f"sparsity {self.sparsity:.1%}: {loss.agreement:.1%} of the actions are still the original's, "
                f"q within {loss.max_q_error:.1e}"
            )
        return lines + [line for file in self.files for line in file.lines()]


def import_model(
    paths: Sequence[Path],
    output: Path | None,
    options: Options,
    format_: str = "mast",
    dtype: str = "f32",
    compacted: bool = True,
) -> Outcome:
    """Import a policy, or several files' as a team of one agent each; written by the format `format_`, verified.

    compacted: without the units that cannot change an action (mast_export.compact). Raises ExportError, OSError.
    """
    _check_request(options, format_, dtype)
    chosen = find_format(format_)
    path = output or Path(paths[0].stem + chosen.file_name(None, dtype).removeprefix("policy"))
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent}: no such folder; create it first")
    found = _read(paths, options)
    contract, agents = _team(found.policies, options)
    recorded, on = _observations(options, contract, len(agents))
    info = {"source": ", ".join(p.name for p in paths), "kind": found.kind}
    producer = Identity(producer=f"mast-marl {__version__}")
    bundle = Bundle(contract, agents, tuple(networks(found.policies)), info, producer)
    trace = played(bundle, found.originals, recorded)
    same = verify(bundle, trace).require(f"the network made of {paths[0]}")
    final, own, loss, removed = bundle, trace, None, []
    if options.sparsity is not None:
        final = replace(bundle, networks=tuple(_pruned(found.policies, options)), info={**info, "pruned": "magnitude"})
        own = played(final, [Numpy(final, k) for k in range(len(final.networks))], recorded)
    if options.sparsity is not None or dtype != "f32":
        loss = verify(quantise(final, dtype), trace)
    sparsity, own = final.sparsity, _with_noise(own, final, dtype)
    if compacted:
        final, own, removed = compact_bundle(final, own)
    request = Request(final, own, path, None, dtype)
    written = chosen.write(request if format_ == "mast" else identified(request))
    files = [_with_removed(final, file, removed) for file in written]
    return Outcome(files, found.kind, same, loss, sparsity, on)


def _check_request(options: Options, format_: str, dtype: str) -> None:
    chosen = find_format(format_)
    if dtype not in chosen.dtypes:
        raise ExportError(f"--dtype {dtype}: {chosen.description} exports store {', '.join(chosen.dtypes)}")
    if options.sparsity is not None and not 0.0 <= options.sparsity < 1.0:
        raise ExportError(f"--sparsity {options.sparsity}: expected a share of absent weights, from 0 to below 1")
    if options.block not in BLOCKS:
        raise ExportError(f"--block {options.block}: expected {', '.join(BLOCKS)}")
    if options.block != "1x1" and options.sparsity is None:
        raise ExportError(f"--block {options.block} shapes what pruning keeps; give --sparsity too")
    if not 1 <= options.agents <= MAX_AGENTS:
        raise ExportError(f"--agents {options.agents}: expected 1 to {MAX_AGENTS}")


def _with_noise(trace: Trace, bundle: Bundle, dtype: str) -> Trace:
    """The trace with the noise of narrower weights: how far the network errs with them in the reference."""
    if dtype == "f32":
        return trace
    found = verify(quantise(bundle, dtype), trace, "reference")
    noise = max(found.max_q_error, found.max_hidden_error)
    return replace(trace, noise={dtype: np.full(len(bundle.agents), noise)})


def _with_removed(bundle: Bundle, file: Exported, removed: list[Removed]) -> Exported:
    own = None if file.agent is None else bundle.agents[file.agent].network
    return replace(file, removed=[part for part in removed if own in (None, part.network)])


def _read(paths: Sequence[Path], options: Options) -> Imported:
    """All files' policies together."""
    parts = []
    for path in paths:
        if path.suffix == ".onnx":
            if options.prefix:
                raise ExportError("--prefix chooses names in a file of arrays; of an ONNX model --tensor does")
            parts.append(read_onnx(path, options.tensor))
        elif path.suffix in SUFFIXES:
            if options.tensor:
                raise ExportError("--tensor names one of an ONNX model; in a file of arrays --prefix chooses")
            parts.append(read_named(path, options.prefix))
        else:
            raise ExportError(f"{path}: expected .onnx, {', '.join(SUFFIXES)}")
    policies = [policy for part in parts for policy in part.policies]
    originals = [original for part in parts for original in part.originals]
    return Imported(policies, originals, parts[0].kind)


def _team(policies: Sequence[Policy], options: Options) -> tuple[Contract, tuple[AgentInfo, ...]]:
    """The contract that the sizes and the options make, and who runs which policy."""
    if len(sizes := {(policy.inputs, policy.actions) for policy in policies}) > 1:
        listed = ", ".join(f"{inputs} to {actions}" for inputs, actions in sorted(sizes))
        raise ExportError(f"agents of one team have one number of inputs and actions; these have {listed}")
    if len(policies) > 1 and options.agents not in (1, len(policies)):
        raise ExportError(f"--agents {options.agents}: there are {len(policies)} policies, one for each agent")
    ((inputs, actions),) = sizes
    n = max(len(policies), options.agents)
    obs = inputs - actions * options.last_action - n * options.agent_id
    if obs < 1:
        parts = [f"{actions} of the last action"] * options.last_action + [f"{n} of the agent's id"] * options.agent_id
        raise ExportError(f"the policy has {inputs} inputs; {' and '.join(parts)} leave none for the observation")
    agents = tuple(AgentInfo(f"agent_{i}", "agent", i, min(i, len(policies) - 1)) for i in range(n))
    return Contract(obs, actions, n, options.last_action, options.agent_id), agents


def _observations(options: Options, contract: Contract, agents: int) -> tuple[Recorded, str]:
    """What to compare on, and what to call it."""
    if options.observations is None:
        return random_observations(contract, STEPS, agents), "random observations"
    return read_observations(options.observations, contract, agents), f"the observations of {options.observations}"


def _pruned(policies: Sequence[Policy], options: Options) -> list[Network]:
    assert options.sparsity is not None
    block = BLOCKS[options.block]
    parts = [prune(policy, options.sparsity, block) for policy in policies]
    return networks([policy for policy, _ in parts], [masks for _, masks in parts], block)
