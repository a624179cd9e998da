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
from mast_train.settings.errors import UserError
from mast_train.settings.limits import validate
from mast_train.settings.methods import resolve

RUNS = Path("runs")


def train(
    settings: Mapping[str, Any] | None = None,
    *,
    start: Path | str | None = None,
    watch: session.Watch | None = None,
    name: str | None = None,
    runs: Path | str = RUNS,
    quiet: bool = True,
) -> Path:
    """Train one run as `mast train` does and return its folder. Raises UserError.

    settings: the keys of `mast train --show-config`, and "sparsity" and "block" in short; the rest is the method's.
    start: a run whose networks, masks and settings to start from. watch: is shown every event (mast_train.runs.events),
    and ends the run, saved, by returning False.
    """
    if not isinstance(settings or {}, Mapping) or not all(isinstance(key, str) for key in settings or {}):
        raise UserError(f"settings = {settings!r}: expected a mapping, for example {{'env.map': '3m'}}")
    if name is not None and not isinstance(name, str):
        raise UserError(f"name = {name!r}: expected text")
    root = _folder(runs)
    source = None if start is None else find_run(str(start), root)
    config = validate(resolve(None, settings or {}, start=source))
    (folder,) = session.start(config, root, name, new_console(quiet=quiet), watch=watch)
    return folder


def evaluate(
    target: Path | str, episodes: int = 128, *, seed: int = 0, at: str | int = "last", runs: Path | str = RUNS
) -> evaluation.Result:
    """Greedy episodes of a run, or of a .mast file through its runtime, where it was trained. Raises UserError."""
    for word, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{word} = {value!r}: expected a whole number, {least} or above")
    who, where = evaluation.resolve_target(str(target), _folder(runs), str(at), False, None, None)
    return evaluation.evaluate(who, where, episodes, min(32, episodes), seed, "auto")


class Team(NamedTuple):
    """Trained networks, and what makes their input of obs [...,N,O] and last_action [...,N] int64 (-1: none yet), or
    continuous [...,N,A] (0: none yet)."""

    networks: AgentNets | CriticNets
    inputs: Callable[[Tensor, Tensor], Tensor]


def load(run: Path | str, at: str | int = "last", runs: Path | str = RUNS) -> Team:
    """The agents of one evaluation of a run (last, best or a step) in torch, absent weights 0. Raises UserError."""
    tensors, header = checkpoint.read(find_snapshot(find_run(str(run), _folder(runs)), str(at)))
    config, spec = checkpoint.config_of(header), checkpoint.spec_of(header)
    return Team(load_agents(config, spec, tensors), partial(agent_inputs, config, spec))


def _folder(runs: Path | str) -> Path:
    if not isinstance(runs, str | Path):
        raise UserError(f"runs = {runs!r}: expected a folder, for example 'runs'")
    return Path(runs)
