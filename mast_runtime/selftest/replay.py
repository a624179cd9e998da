"""The recorded episodes of a bundle, played on every backend at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mast_runtime.backends import outer_agent, outer_team
from mast_runtime.bundle import Bundle
from mast_runtime.errors import RuntimeFault
from mast_runtime.head import TOLERANCE, Head
from mast_runtime.inner import inner_contract, inner_network
from mast_runtime.inputs import Step
from mast_runtime.network import Contract, Network

TOGETHER = 8
"""Agents of one network that are stepped as lanes."""
PASSES = 5

Act = Callable[[Step], list]
"""The actions of all who see this observation, lists of components where they are continuous; of a step that starts
an episode, after a reset."""


@dataclass(frozen=True)
class Check:
    """The recordings on one backend. differs: the first step that took another action, "" for none.

    decision_us: median of a decision, of one agent, once it is warm.
    """

    backend: str
    steps: int
    equal: int
    decision_us: float
    differs: str

    @property
    def passed(self) -> bool:
        return self.equal == self.steps


@dataclass(frozen=True)
class Replay:
    """The checks, and which backends are not here and why."""

    checks: list[Check]
    absent: dict[str, str]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


def replay(bundle: Bundle) -> Replay:
    """Play every network's recording on every instruction set and backend of this device.

    Raises RuntimeFault for a bundle without recordings.
    """
    if bundle.networks[0].recording is None:
        raise RuntimeFault("the policy has no recorded episode; export it again from its run: mast export RUN")
    found = engines()
    absent = {name: make for name, make in found.items() if isinstance(make, str)}
    return Replay([_check(bundle, name, make) for name, make in found.items() if not isinstance(make, str)], absent)


Maker = Callable[[Contract, Network, int], Act]


def engines() -> dict[str, Maker | str]:
    """How to run one network on each engine here, by name; or why an engine is not here."""
    from mast_runtime import native
    from mast_runtime.backends import BACKENDS, missing

    found: dict[str, Maker | str] = {"native": native.missing()} if native.missing() else {}
    for level in native.levels():
        found[f"native {level}"] = _native_agent(level)
        found[f"native {level}, {TOGETHER} agents at once"] = _native_team(level)
    for name in (name for name in BACKENDS if name != "native"):
        found[name] = missing(name) or _agent(name)
    return found


def _single(agent: Any) -> Act:
    def act(step: Step) -> list:
        if step.start:
            agent.reset()
        if agent.contract.head is not None:
            return [agent.act(step.obs).tolist()]
        return [int(agent.act(step.obs, step.avail))]

    return act


def _agent(backend: str) -> Maker:
    from mast_runtime.backends import make_agent

    return lambda contract, network, index: _single(make_agent(contract, network, index, backend))


def _native_agent(level: str) -> Maker:
    from mast_runtime.native import NativeStep, new_agent

    def make(contract: Contract, network: Network, index: int) -> Act:
        inner = inner_contract(contract)
        step = NativeStep(inner, inner_network(contract, network), level)
        return _single(outer_agent(contract, network, new_agent(inner, step, index), index))

    return make


def _native_team(level: str) -> Maker:
    from mast_runtime.native import make_team

    def make(contract: Contract, network: Network, index: int) -> Act:
        inner = make_team(inner_contract(contract), [inner_network(contract, network)], [index], TOGETHER, level)
        team = outer_team(contract, [network], inner, [index])

        def act(step: Step) -> list:
            if step.start:
                team.reset()
            # rows of a matrix without numpy: a view of the same bytes in two dimensions
            obs = memoryview(step.obs * TOGETHER).cast("B").cast("f", (TOGETHER, contract.obs_dim))
            if contract.head is not None:
                return [list(row)[: len(contract.head.low[index])] for row in team.act(obs)]
            avail = memoryview(step.avail * TOGETHER).cast("B", (TOGETHER, contract.n_actions))
            return team.act(obs, avail).tolist()

        return act

    return make


def _check(bundle: Bundle, name: str, make: Maker) -> Check:
    steps = equal = 0
    differs, seconds = "", []
    for label, index, act, recorded in _players(bundle, make):
        same = _equality(bundle.contract.head, index)
        for _ in range(PASSES):
            for t, step in enumerate(recorded):
                started = time.perf_counter()
                actions = act(step)
                seconds.append((time.perf_counter() - started) / len(actions))
                steps += 1
                if all(same(action, step.action) for action in actions):
                    equal += 1
                elif not differs:
                    differs = f"{label}, step {t}: action {_shown(actions[0])}, recorded {_shown(step.action)}"
    return Check(name, steps, equal, round(1e6 * median(seconds), 3), differs)


def _shown(action: int | Sequence[float]) -> str:
    return str(action) if isinstance(action, int) else f"[{', '.join(f'{x:.4g}' for x in action)}]"


def _equality(head: Head | None, index: int) -> Callable[[Any, Any], bool]:
    """Of choices; of continuous actions of the agent at `index`, within TOLERANCE of their range."""
    if head is None:
        return lambda given, recorded: given == recorded
    widths = [b - a for a, b in zip(head.low[index], head.high[index], strict=True)]
    return lambda given, recorded: all(
        abs(a - b) <= TOLERANCE * width for a, b, width in zip(given, recorded, widths, strict=True)
    )


def _players(bundle: Bundle, make: Maker) -> Iterator[tuple[str, int, Act, list[Step]]]:
    for i, network in enumerate(bundle.networks):
        agent = next(agent for agent in bundle.agents if agent.network == i)
        if network.recording is not None and network.inputs is not None:
            act, steps = make(bundle.contract, network, agent.index), network.recording.steps(network.inputs)
            yield agent.name, agent.index, act, list(steps)
