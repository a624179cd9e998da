"""The C kernels (mast_runtime.native)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mast_runtime.backends.base import Backend
from mast_runtime.native import NativeStep, make_team, missing, new_agent
from mast_runtime.network import Contract, Network


def _team(contract: Contract, networks: Sequence[Network], agent_ids: Sequence[int], n: int, name: str) -> Any:
    return make_team(contract, networks, agent_ids, n, backend=name)


BACKEND = Backend(NativeStep, new_agent, _team, missing)
