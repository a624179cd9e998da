"""Serve a policy over HTTP by the Open Inference Protocol V2 (docs/serving.md). Needs the extra `serve`."""

from __future__ import annotations

import gc
import socket
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mast_runtime.errors import ServeError
from mast_runtime.imports import install_command
from mast_runtime.streams import stdout

if TYPE_CHECKING:
    from mast_runtime.bundle import Bundle

SHUTDOWN_LIMIT_S = 5


def serve(
    bundle: Bundle,
    host: str = "127.0.0.1",
    port: int = 8000,
    agent: int | None = None,
    backend: str = "auto",
    idle_limit_s: float = 60.0,
    max_sequences: int = 1024,
    request_log: str | None = None,
    deadline_s: float = float("inf"),
) -> None:
    """Serve one model per agent (or only `agent`) until SIGINT or SIGTERM; prints one line once the port is open.

    Port 0 takes any free port. request_log: a file that gets a line of JSON for each request, "-" standard error.
    deadline_s: answers that take longer are counted. SIGHUP loads the bundle's file again. Raises ServeError,
    BackendError.
    """
    missing = [module for module in ("uvicorn", "prometheus_client") if not find_spec(module)]
    if missing:
        raise ServeError(f"serving needs {', '.join(missing)}; {install_command('serve')}")
    gc.disable()  # what follows makes objects that live as long as the process
    import uvicorn

    from mast_runtime.notify import Notifier
    from mast_runtime.serve.app import create_app
    from mast_runtime.serve.models import model_range
    from mast_runtime.serve.reload import Reloader
    from mast_runtime.serve.server import Server

    app, endpoints = create_app(bundle, agent, backend, idle_limit_s, max_sequences, request_log, deadline_s)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        # A connection closed between two slow decisions would fail the client's next step.
        timeout_keep_alive=int(idle_limit_s) + 1,
        timeout_graceful_shutdown=SHUTDOWN_LIMIT_S,
    )
    with open_port(host, port) as listener:
        models = endpoints.models
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(
            f"{url} serves {model_range(models)} ({endpoints.backend}); try: curl {url}/v2/models/{next(iter(models))}",
            file=stdout(),
            flush=True,
        )
        _settle_allocator()
        gc.freeze()  # so that no collection looks at them in mid-decision
        gc.enable()
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after a graceful shutdown
            Server(config, Reloader(endpoints, bundle, agent, backend), Notifier()).run(sockets=[listener])


def open_port(host: str, port: int) -> socket.socket:
    """A TCP socket listening on host:port. Raises ServeError."""
    # asyncio turns Nagle's delay off (40 ms a response) only on sockets that name their protocol.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error
    return listener


def _settle_allocator() -> None:
    """Keep glibc from mapping the 256 KiB that asyncio reads into anew for each request, a tenth of its time.

    Its threshold for that is the largest block it has seen freed: one of 4 MiB is, and none of its pages touched.
    """
    bytes(1 << 22)
