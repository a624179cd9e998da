"""The one table of backends: name -> (is it here?, make an agent, make a team)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mast_runtime.agent import Agent, Step, Team
from mast_runtime.errors import BackendError
from mast_runtime.network import Contract, Network

if TYPE_CHECKING:
    from mast_runtime.bundle import Bundle


def _reference(contract: Contract, network: Network) -> Step:
    from mast_runtime.reference import ReferenceStep

    return ReferenceStep(contract, network)


def _onnx(contract: Contract, network: Network) -> Step:
    from mast_runtime.onnx_backend import OnnxStep

    return OnnxStep(contract, network)


STEPS: dict[str, tuple[Callable[[Contract, Network], Step], tuple[str, ...], str]] = {
    "reference": (_reference, (), ""),
    "onnx": (_onnx, ("onnx", "onnxruntime"), 'pip install "mast-marl[export]"'),
}
"""name -> (compile one network, modules it needs, how to get them), fastest first after `auto`'s choice."""


def installed_backends() -> list[str]:
    """Names of the backends that can run here."""
    return [name for name, (_, modules, _) in STEPS.items() if all(find_spec(module) for module in modules)]


def compile_network(contract: Contract, network: Network, backend: str) -> tuple[str, Step]:
    """The named backend's step for one network (`auto`: the fastest installed). Raises BackendError."""
    name = "reference" if backend == "auto" else backend
    if name not in STEPS:
        raise BackendError(f"unknown backend {backend!r}; choose from auto, {', '.join(STEPS)}")
    make, modules, advice = STEPS[name]
    missing = [module for module in modules if not find_spec(module)]
    if missing:
        raise BackendError(f"backend {name!r} needs {' and '.join(missing)}; {advice}")
    return name, make(contract, network)


def make_agent(bundle: Bundle, index: int, backend: str) -> Agent:
    """Bundle.agent."""
    if not 0 <= index < len(bundle.agents):
        raise IndexError(f"agent {index}: the bundle has agents 0 to {len(bundle.agents) - 1}")
    info = bundle.agents[index]
    name, step = compile_network(bundle.contract, bundle.networks[info.network], backend)
    return Agent(bundle.contract, step, info.index, name)


def make_team(bundle: Bundle, n: int | None, backend: str) -> Team:
    """Bundle.team."""
    size = len(bundle.agents)
    n = size if n is None else n
    if n < 1 or n % size:
        raise ValueError(f"a team of {n}: expected a multiple of the bundle's {size} agents")
    compiled = [compile_network(bundle.contract, network, backend) for network in bundle.networks]
    steps = [compiled[agent.network][1] for agent in bundle.agents]
    return Team(bundle.contract, steps, [agent.index for agent in bundle.agents], n, compiled[0][0])
