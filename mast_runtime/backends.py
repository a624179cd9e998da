"""The one table of backends, and what a bundle makes with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mast_runtime import native
from mast_runtime.errors import BackendError
from mast_runtime.network import Contract, Network

if TYPE_CHECKING:
    from mast_runtime.agent import Agent, Step, Team
    from mast_runtime.bundle import Bundle


@dataclass(frozen=True)
class Backend:
    """How to compile a network (immutable, shared by agents and threads), and to make agents and teams of it.

    agent(contract, compiled, index, backend) and team(contract, networks, agent_ids, n) have the interface of Agent and
    Team. `missing()` is "" where the backend can run, else what it needs and how to get it.
    """

    compile: Callable[[Contract, Network], Step]
    agent: Callable[[Contract, Step, int, str], Agent]
    team: Callable[[Contract, Sequence[Network], Sequence[int], int], Team]
    missing: Callable[[], str]


def _reference(contract: Contract, network: Network) -> Step:
    from mast_runtime.reference import ReferenceStep

    return ReferenceStep(contract, network)


def _onnx(contract: Contract, network: Network) -> Step:
    from mast_runtime.onnx_backend import OnnxStep

    return OnnxStep(contract, network)


def _onnx_missing() -> str:
    missing = [module for module in ("onnx", "onnxruntime") if not find_spec(module)]
    return f'{" and ".join(missing)}; pip install "mast-marl[export]"' if missing else ""


def _stepped(name: str, compile_one: Callable[[Contract, Network], Step], missing: Callable[[], str]) -> Backend:
    """A backend that brings a Step only: Agent and Team do the rest."""

    def agent(contract: Contract, step: Step, index: int, backend: str) -> Agent:
        from mast_runtime.agent import Agent

        return Agent(contract, step, index, backend)

    def team(contract: Contract, networks: Sequence[Network], agent_ids: Sequence[int], n: int) -> Team:
        from mast_runtime.agent import Team

        steps = {id(network): compile_one(contract, network) for network in {id(x): x for x in networks}.values()}
        return Team(contract, [steps[id(network)] for network in networks], agent_ids, n, name)

    return Backend(compile_one, agent, team, missing)


BACKENDS: dict[str, Backend] = {
    "native": Backend(native.NativeStep, native.new_agent, native.make_team, native.missing),
    "reference": _stepped("reference", _reference, lambda: ""),
    "onnx": _stepped("onnx", _onnx, _onnx_missing),
}
"""In the order in which `auto` tries them: reference always runs."""


def installed_backends() -> list[str]:
    """Names of the backends that can run here."""
    return [name for name, backend in BACKENDS.items() if not backend.missing()]


def find_backend(name: str) -> tuple[str, Backend]:
    """The named backend (`auto`: the first that can run). Raises BackendError."""
    name = installed_backends()[0] if name == "auto" else name
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; choose from auto, {', '.join(BACKENDS)}")
    if missing := BACKENDS[name].missing():
        raise BackendError(f"backend {name!r} needs {missing}")
    return name, BACKENDS[name]


def compile_network(contract: Contract, network: Network, backend: str) -> tuple[str, Step]:
    """The named backend and its step for one network, which `new_agent` takes. Raises BackendError."""
    name, chosen = find_backend(backend)
    return name, chosen.compile(contract, network)


def new_agent(contract: Contract, step: Step, index: int, backend: str) -> Agent:
    """A fresh agent on what `compile_network` returned: many agents may share one step."""
    return BACKENDS[backend].agent(contract, step, index, backend)


def make_agent(bundle: Bundle, index: int, backend: str) -> Agent:
    """Bundle.agent."""
    if not 0 <= index < len(bundle.agents):
        raise IndexError(f"agent {index}: the bundle has agents 0 to {len(bundle.agents) - 1}")
    info = bundle.agents[index]
    name, step = compile_network(bundle.contract, bundle.networks[info.network], backend)
    return new_agent(bundle.contract, step, info.index, name)


def make_team(bundle: Bundle, n: int | None, backend: str) -> Team:
    """Bundle.team."""
    size = len(bundle.agents)
    n = size if n is None else n
    if n < 1 or n % size:
        raise ValueError(f"a team of {n}: expected a multiple of the bundle's {size} agents")
    networks = [bundle.networks[agent.network] for agent in bundle.agents]
    return find_backend(backend)[1].team(bundle.contract, networks, [agent.index for agent in bundle.agents], n)
