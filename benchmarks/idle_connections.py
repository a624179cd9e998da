"""Which of a run's agents' connections carry nothing, at every snapshot.

    python benchmarks/idle_connections.py RUN [RUN ...]

Judged on the observations that the run recorded for its exports, with whichever last action would help most: an input
that is 0 in all of them is silent, a unit of fc1 that none of them activates is dead. Connections from a silent input,
into a dead unit, or from a dead unit into the GRU carry nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mast_train.runs import checkpoint
from mast_train.settings.errors import UserError


def main() -> None:
    try:
        for folder in map(Path, sys.argv[1:]):
            show(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def show(folder: Path) -> None:
    """A line for every snapshot of a run."""
    recorded, _ = checkpoint.read(folder / "trace.safetensors")
    obs = recorded["obs"]
    print(f"{folder}, {obs.shape[0]} recorded observations of {obs.shape[1]} agents")
    for path in sorted((folder / "snapshots").glob("*.safetensors")):
        tensors, header = checkpoint.read(path)
        print(f"  step {header['step']:>9,}: {report(tensors, obs)}")


def report(tensors: dict[str, torch.Tensor], obs: torch.Tensor) -> str:
    """One line of shares; tensors: a snapshot's, obs [S,N,O]."""
    weight, bias, observed = tensors["agents.fc1_weight"], tensors["agents.fc1_bias"], obs.shape[2]
    if weight.shape[0] != obs.shape[1]:
        raise UserError("agents share one network; expected a network for each")
    before = torch.einsum("sni,noi->sno", obs, weight[:, :, :observed]) + bias
    helped = before + weight[:, :, observed:].amax(2).clamp(min=0.0)
    dead = (helped <= 0.0).all(0)
    silent = torch.zeros(weight.shape[0], weight.shape[2], dtype=torch.bool)
    silent[:, :observed] = (obs == 0.0).all(0)
    fc1, ih = (
        tensors.get(f"masks.agents.{name}", tensors[f"agents.{name}"] != 0.0) for name in ("fc1_weight", "weight_ih")
    )
    parts = {
        "inputs silent": silent.float().mean(),
        "fc1 units dead": dead.float().mean(),
        "fc1 connections from silent inputs": (fc1 & silent[:, None]).sum() / fc1.sum(),
        "into dead units": (fc1 & dead[:, :, None]).sum() / fc1.sum(),
        "either": (fc1 & (silent[:, None] | dead[:, :, None])).sum() / fc1.sum(),
        "GRU inputs from dead units": (ih & dead[:, None]).sum() / ih.sum(),
    }
    return ", ".join(f"{name} {float(share):.0%}" for name, share in parts.items())


if __name__ == "__main__":
    main()
