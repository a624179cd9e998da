"""The policies that a server offers: a model of the protocol for each agent of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mast_runtime.backends import compile_network, new_agent
from mast_runtime.bundle import Bundle
from mast_runtime.errors import ServeError
from mast_runtime.format import AgentInfo, Identity
from mast_runtime.head import Head
from mast_runtime.serve.protocol import TensorSpec

if TYPE_CHECKING:
    from mast_runtime.agent import Agent

MODEL_VERSION = "1"


@dataclass(frozen=True)
class Model:
    """One agent's policy as the protocol sees it."""

    name: str
    info: AgentInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    new_agent: Callable[[], Agent]
    identity: Identity
    input_names: tuple[str, ...]
    head: Head | None = None

    @property
    def max_body_bytes(self) -> int:
        """A request in generous JSON: 32 characters a value, 64 KiB for the rest."""
        return 65_536 + 32 * sum(spec.shape[0] for spec in self.inputs)

    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [MODEL_VERSION],
            "platform": "mast",
            "inputs": [spec.metadata() for spec in self.inputs],
            "outputs": [spec.metadata() for spec in self.outputs],
            "parameters": {"agent_name": self.info.name, "agent_type": self.info.type, **policy_of(self.identity)}
            | self._bounds(),
        }

    def _bounds(self) -> dict[str, str | float]:
        """Of a continuous action, as the protocol's parameters can hold them: the bounds are JSON texts."""
        if self.head is None:
            return {}
        sides = {"action_low": self.head.low, "action_high": self.head.high}
        texts = {name: json.dumps(rows[self.info.index]) for name, rows in sides.items()}
        return texts | ({} if self.head.rate_limit is None else {"action_rate_limit": self.head.rate_limit})


def policy_of(identity: Identity) -> dict[str, str]:
    """Which policy it is, as metadata and metrics name it."""
    return {f"policy_{key}": value for key, value in identity._asdict().items()}


class Episode(NamedTuple):
    """A sequence's memory, and the model that it was started with: a reload does not change it under way."""

    model: Model
    agent: Agent


def make_models(bundle: Bundle, agent: int | None, backend: str) -> tuple[dict[str, Model], str]:
    """The models `agent_0`, `agent_1`, ... (or only `agent`'s) by name, and the backend. Raises as `serve`."""
    contract, size = bundle.contract, len(bundle.agents)
    if agent is not None and not 0 <= agent < size:
        raise ServeError(f"agent {agent}: the bundle has agents 0 to {size - 1}")
    chosen = range(size) if agent is None else [agent]
    used = {bundle.agents[i].network for i in chosen}
    steps = {network: compile_network(contract, bundle.networks[network], backend) for network in used}
    inputs = (
        TensorSpec("obs", "FP32", (contract.obs_dim,)),
        TensorSpec("avail_actions", "BOOL", (contract.n_actions,), optional=True),
    )
    outputs = (TensorSpec("action", "INT64", (1,)), TensorSpec("q", "FP32", (contract.n_actions,)))
    head = contract.head

    def model(i: int) -> Model:
        info = bundle.agents[i]
        name, step = steps[info.network]
        seen = bundle.networks[info.network].inputs
        names = tuple(map(str, range(contract.obs_dim))) if seen is None or not seen.names else seen.names
        fresh = partial(new_agent, contract, bundle.networks[info.network], step, info.index, name)
        about = f"agent_{i}", info
        if head is None:
            return Model(*about, inputs, outputs, fresh, bundle.identity, names)
        size = (len(head.low[info.index]),)
        taken = inputs[0], TensorSpec("executed_action", "FP32", size, optional=True)
        width = size if head.search is None else (head.search.width,)
        given = TensorSpec("action", "FP32", size), TensorSpec("q", "FP32", width)
        return Model(*about, taken, given, fresh, bundle.identity, names, head)

    return {f"agent_{i}": model(i) for i in chosen}, next(iter(steps.values()))[0]


def model_range(models: Iterable[str]) -> str:
    """Their names in a few words."""
    names = list(models)
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]}"
