"""The server process: uvicorn, with what a service manager asks of it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvicorn

from mast_runtime.notify import Notifier
from mast_runtime.serve.reload import Reloader


class Server(uvicorn.Server):
    """Readiness and signs of life by sd_notify; SIGHUP reloads. A sign of life comes from the event loop itself."""

    def __init__(self, config: uvicorn.Config, reload: Reloader, notifier: Notifier) -> None:
        super().__init__(config)
        self._reload, self._notifier = reload, notifier
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._notifier.send("READY=1")

    async def on_tick(self, counter: int) -> bool:
        self._notifier.beat()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.send("STOPPING=1")
        await super().shutdown(sockets)

    def _hang_up(self) -> None:
        task = asyncio.ensure_future(self._reloaded())
        self._reloads.add(task)  # the loop alone keeps no task alive
        task.add_done_callback(self._reloads.discard)

    async def _reloaded(self) -> None:
        self._notifier.reloading()
        line = await self._reload()
        print(f"mast serve: {line}", file=sys.stderr, flush=True)
        self._notifier.send("READY=1", f"STATUS={line}")
