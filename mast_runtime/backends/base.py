"""What a backend is: how to compile a network, and how to make agents and teams of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mast_runtime.network import Contract, Network

if TYPE_CHECKING:
    from mast_runtime.agent import Agent, Step, Team

Compile = Callable[[Contract, Network], "Step"]


@dataclass(frozen=True)
class Backend:
    """What a module of this package offers as BACKEND.

    compile(contract, network) is immutable, shared by agents and threads. agent(contract, compiled, index, name) and
    team(contract, networks, agent_ids, n, name) have the interface of mast_runtime.agent.Agent and Team; `stepped`
    makes both from `compile` alone. `missing()` is "" where the backend can run, else what it needs and how to get it.
    note: what to know about its times, where a sparse network takes as long as a dense one.
    """

    compile: Compile
    agent: Callable[[Contract, Step, int, str], Agent]
    team: Callable[[Contract, Sequence[Network], Sequence[int], int, str], Team]
    missing: Callable[[], str]
    note: str = ""


def stepped(compile_one: Compile, missing: Callable[[], str], note: str = "") -> Backend:
    """A backend that brings a Step only: mast_runtime.agent does the rest."""

    def compiled(contract: Contract, network: Network) -> Step:
        step = compile_one(contract, network)
        step.limits = None if network.inputs is None else network.inputs.limits()
        return step

    def agent(contract: Contract, step: Step, index: int, name: str) -> Agent:
        from mast_runtime.agent import Agent

        return Agent(contract, step, index, name)

    def team(contract: Contract, networks: Sequence[Network], agent_ids: Sequence[int], n: int, name: str) -> Team:
        from mast_runtime.agent import Team

        steps = {id(network): compiled(contract, network) for network in {id(x): x for x in networks}.values()}
        return Team(contract, [steps[id(network)] for network in networks], agent_ids, n, name)

    return Backend(compiled, agent, team, missing, note)
