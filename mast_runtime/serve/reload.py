"""A policy replaced while it is served: by its file, on SIGHUP, for the sequences that start from then on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mast_runtime.bundle import Bundle, load
from mast_runtime.errors import RuntimeFault, ServeError
from mast_runtime.serve.app import Endpoints
from mast_runtime.serve.models import Model, make_models


class Reloader:
    """Loads the served file again. One that is broken, or of another contract, changes nothing."""

    def __init__(self, endpoints: Endpoints, bundle: Bundle, agent: int | None, backend: str) -> None:
        self._endpoints, self._agent, self._backend = endpoints, agent, backend
        self._path, self._contract = bundle.path, contract_of(bundle)
        self._turn = asyncio.Lock()

    async def __call__(self) -> str:
        """One line on what came of it. The file is read in a thread: decisions go on meanwhile."""
        async with self._turn:
            try:
                if self._path is None:
                    raise ServeError("the policy that is served did not come from a file")
                models, backend = await asyncio.to_thread(self._load, self._path)
                self._endpoints.log.reopen()
            except (RuntimeFault, OSError) as error:
                self._endpoints.metrics.reloads["refused"] += 1
                return f"not reloaded, the old policy goes on: {error}"
            self._endpoints.models, self._endpoints.backend = models, backend
            self._endpoints.metrics.reloads["ok"] += 1
            return f"reloaded {self._path}; it takes effect when a sequence starts"

    def _load(self, path: Path) -> tuple[dict[str, Model], str]:
        bundle = load(path)
        found = contract_of(bundle)
        for name, served in self._contract.items():
            if found[name] != served:
                raise ServeError(f"{path} has another contract: {name} {found[name]}, served is {served}")
        return make_models(bundle, self._agent, self._backend)


def contract_of(bundle: Bundle) -> dict[str, Any]:
    """What a robot relies on: sizes, and which agent is which model."""
    agents = [(agent.name, agent.type, agent.index) for agent in bundle.agents]
    return vars(bundle.contract) | {"agents": agents}
