"""The one table of backends, and what a policy makes with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mast_runtime.arrays import numpy_here
from mast_runtime.backends.base import Backend
from mast_runtime.errors import BackendError, SlowWarning
from mast_runtime.inner import inner_contract, inner_network
from mast_runtime.network import Contract, Network

if TYPE_CHECKING:
    from mast_runtime.agent import Agent, Step, Team

BACKENDS = (
    "native",
    "reference",
    "onnx",
)
"""Each the module of its name in this package, imported when it is asked for; `auto` tries them in this order."""


@cache
def backend_of(name: str) -> Backend:
    """A row of BACKENDS."""
    return import_module(f"{__name__}.{name}").BACKEND


def missing(name: str) -> str:
    """What a row of BACKENDS needs here and how to get it; empty when it can run."""
    if name != "native" and not numpy_here():
        return "numpy; pip install numpy"
    return backend_of(name).missing()


def installed_backends() -> list[str]:
    """Names of the backends that can run here."""
    return [name for name in BACKENDS if not missing(name)]


def find_backend(name: str) -> tuple[str, Backend]:
    """The named backend (`auto`: the first that can run). Raises BackendError."""
    if name == "auto":
        name = next((name for name in BACKENDS if not missing(name)), "")
        if not name:
            needs = "; or ".join(f"{one} needs {missing(one)}" for one in BACKENDS[:2])
            raise BackendError(f"no backend can run here: {needs}")
        if name != BACKENDS[0]:
            told = (
                f"there is no compiled kernel here, and {name} takes tens of times as long; mast doctor says what to do"
            )
            warnings.warn(told, SlowWarning, stacklevel=2)
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose from auto, {', '.join(BACKENDS)}")
    if needed := missing(name):
        raise BackendError(f"backend {name!r} needs {needed}")
    return name, backend_of(name)


def compile_network(contract: Contract, network: Network, backend: str) -> tuple[str, Step]:
    """The named backend and its step for one network, which `new_agent` takes with it. Raises BackendError."""
    name, chosen = find_backend(backend)
    return name, chosen.compile(inner_contract(contract), inner_network(contract, network))


def new_agent(contract: Contract, network: Network, step: Step, index: int, backend: str) -> Agent:
    """A fresh agent on what `compile_network` made of the network: many agents may share one step."""
    inner = backend_of(backend).agent(inner_contract(contract), step, index, backend)
    return outer_agent(contract, network, inner, index)


def make_agent(contract: Contract, network: Network, index: int, backend: str) -> Agent:
    """A fresh agent that runs `network` under the one-hot id `index`. Raises BackendError."""
    name, step = compile_network(contract, network, backend)
    return new_agent(contract, network, step, index, name)


def make_team(contract: Contract, networks: Sequence[Network], agent_ids: Sequence[int], n: int, backend: str) -> Team:
    """n agents stepped at once; agent i runs networks[i mod k] under agent_ids[i mod k]. Raises BackendError."""
    name, chosen = find_backend(backend)
    inner = {id(network): inner_network(contract, network) for network in networks}
    team = chosen.team(inner_contract(contract), [inner[id(x)] for x in networks], agent_ids, n, name)
    return outer_team(contract, networks, team, agent_ids)


def outer_agent(contract: Contract, network: Network, inner: Any, index: int) -> Any:
    """What a caller gets of an agent that a backend made: itself, or one that gives continuous actions."""
    if contract.head is None:
        return inner
    from mast_runtime.continuous import ContinuousAgent

    return ContinuousAgent(contract, network, inner, index)


def outer_team(contract: Contract, networks: Sequence[Network], inner: Any, agent_ids: Sequence[int]) -> Any:
    """Likewise of a team."""
    if contract.head is None:
        return inner
    from mast_runtime.continuous import ContinuousTeam

    copies = inner.n // len(agent_ids)
    return ContinuousTeam(contract, [*networks] * copies, inner, [*agent_ids] * copies)
