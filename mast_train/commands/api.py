"""Training, evaluation and trained networks from Python: what the command line does, in functions (docs/python.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mast_runtime.console import new_console
from mast_train.commands import evaluate as evaluation
from mast_train.commands import session
from mast_train.networks.agents import AgentNets, CriticNets
from mast_train.networks.build import agent_inputs, load_agents
from mast_train.runs import checkpoint
from mast_train.runs.folders import find_run, find_snapshot
from mast_train.settings.limits import validate
from mast_train.settings.methods import resolve

RUNS = Path("runs")


def train(
    settings: Mapping[str, Any] | None = None,
    *,
    start: Path | str | None = None,
    watch: session.Watch | None = None,
    name: str | None = None,
    runs: Path = RUNS,
    quiet: bool = True,
) -> Path:
    """Train one run as `mast train` does and return its folder. Raises UserError.

    settings: the keys of `mast train --show-config`, and "sparsity" and "block" in short; the rest is the method's.
    start: a run whose networks, masks and settings to start from. watch: is shown every event (mast_train.runs.events),
    and ends the run, saved, by returning False.
    """
    source = None if start is None else find_run(str(start), runs)
    config = validate(resolve(None, settings or {}, start=source))
    (folder,) = session.start(config, runs, name, new_console(quiet=quiet), watch=watch)
    return folder


def evaluate(
    target: Path | str, episodes: int = 128, *, seed: int = 0, at: str = "last", runs: Path = RUNS
) -> evaluation.Result:
    """Greedy episodes of a run, or of a .mast file through its runtime, where it was trained. Raises UserError."""
    who, where = evaluation.resolve_target(str(target), runs, at, False, None, None)
    return evaluation.evaluate(who, where, episodes, min(32, episodes), seed, "auto")


class Team(NamedTuple):
    """Trained networks, and what makes their input of obs [...,N,O] and last_action [...,N] int64 (-1: none yet), or
    continuous [...,N,A] (0: none yet)."""

    networks: AgentNets | CriticNets
    inputs: Callable[[Tensor, Tensor], Tensor]


def load(run: Path | str, at: str = "last", runs: Path = RUNS) -> Team:
    """The agents of one evaluation of a run (last, best or a step) in torch, absent weights 0. Raises UserError."""
    tensors, header = checkpoint.read(find_snapshot(find_run(str(run), runs), at))
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    return Team(load_agents(config, spec, tensors), partial(agent_inputs, config, spec))
