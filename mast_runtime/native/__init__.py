"""The native backend: C kernels for the instruction set of this machine, chosen at run time.

The environment variable MAST_NATIVE_LEVEL chooses another than the best; levels.def lists them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from mast_runtime.arrays import answer
from mast_runtime.errors import BackendError
from mast_runtime.given import chosen_agents, overflow, read_avail, read_obs
from mast_runtime.native.packing import Level, pack
from mast_runtime.network import Contract, Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_native: Any = None
_import_error = ""
try:
    _native = import_module("mast_runtime.native._native")
except ImportError as error:
    _import_error = str(error)

LANES_FROM = 8
"""Agents of one network from which they are stepped side by side, as lanes."""


def missing() -> str:
    """What the backend needs here and how to get it; empty when it can run."""
    return f"the C extension ({_import_error}); mast doctor says how to get it" if _import_error else ""


def reason() -> str:
    """Why there is no kernel, in the words of the import; empty where there is one."""
    return _import_error


def status() -> str:
    """One line: the instruction set in use ("native: avx512"), or why there is none."""
    return f"native: not built: needs {missing()}" if missing() else f"native: {default_level()}"


@cache
def _rows() -> dict[str, Level]:
    return {} if _native is None else {row[0]: Level(*row) for row in _native.levels()}


def levels() -> tuple[str, ...]:
    """Instruction sets whose kernels run here, best first; empty when the extension is not built."""
    return tuple(_rows())


def default_level() -> str:
    """MAST_NATIVE_LEVEL, or the best. Raises BackendError."""
    return find_level(os.environ.get("MAST_NATIVE_LEVEL") or levels()[0]).name


def find_level(name: str) -> Level:
    """The row of an instruction set. Raises BackendError."""
    if name not in levels():
        raise BackendError(f"native level {name!r}: this machine runs {', '.join(levels())}")
    return _rows()[name]


class Members(NamedTuple):
    """The agents of a team that run one network: what _native.Team takes in `groups`. members: int32."""

    network: Any
    members: array[int]


class NativeStep:
    """mast_runtime.agent.Step on the C kernels, one row after another. Immutable, so threads may share it.

    level: one of levels(), or a row with other break-even densities. lanes: pack for many agents at once, which only a
    Team can run. Raises BackendError.
    """

    limits: tuple[Sequence[float], Sequence[float]] | None = None

    def __init__(
        self, contract: Contract, network: Network, level: str | Level | None = None, lanes: bool = False
    ) -> None:
        if missing():
            raise BackendError(f"backend 'native' needs {missing()}")
        self.contract, self.hidden = contract, network.hidden
        if not isinstance(level, Level):
            level = find_level(level or default_level())
        self.compiled = _native.Network(pack(contract, network, level, lanes))

    def __call__(
        self, obs: NDArray, last_action: NDArray, agent_id: NDArray, hidden: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """obs [n,O], last_action [n] (-1: none yet), agent_id [n], hidden [n,H] -> q [n,A], next hidden [n,H]."""
        import numpy as np

        return self.compiled.step(
            np.ascontiguousarray(obs, np.float32),
            np.ascontiguousarray(last_action, np.int64),
            np.ascontiguousarray(agent_id, np.int64),
            np.ascontiguousarray(hidden, np.float32),
        )


def new_agent(contract: Contract, step: Any, index: int, backend: str = "native") -> Any:
    """A fresh agent on a NativeStep, with the interface of mast_runtime.agent.Agent."""
    return _native.Agent(contract=contract, network=step.compiled, index=index, backend=backend)


def make_team(
    contract: Contract,
    networks: Sequence[Network],
    agent_ids: Sequence[int],
    n: int,
    level: str | Level | None = None,
    backend: str = "native",
) -> Any:
    """n agents with the interface of mast_runtime.agent.Team; agent i runs networks[i mod k] under agent_ids[i mod k].

    LANES_FROM agents or more of one network are stepped as lanes. Raises BackendError.
    """
    owner, k = [id(network) for network in networks], len(networks)
    groups = []
    for network in {id(network): network for network in networks}.values():
        members = array("i", [i for i in range(n) if owner[i % k] == id(network)])
        step = NativeStep(contract, network, level, lanes=len(members) >= LANES_FROM)
        groups.append(Members(step.compiled, members))
    ids = array("i", [agent_ids[i % k] for i in range(n)])
    return _native.Team(contract=contract, backend=backend, agent_ids=ids, groups=tuple(groups))


def _check_executed(action: Any, last_action: int | array[int], n_actions: int) -> int | array[int]:
    """A team's actions [n], or one agent's. Raises ObservationError."""
    from mast_runtime.executed import checked_action, checked_actions

    if isinstance(last_action, int):
        return checked_action(action, last_action, n_actions)
    return checked_actions(action, last_action, n_actions)


if _native is not None:
    _native.configure(read_obs, read_avail, chosen_agents, answer, overflow, _check_executed)
