"""What the server needs of HTTP beyond uvicorn: a request, a response and routes, as an ASGI 3 application.

A web framework would do the same; importing one takes a seventh of the time until the first answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from mast_runtime.serve.protocol import RequestError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientDisconnect(Exception):
    """The client went away before its body was there."""


class Request:
    """headers by name in lower case; path_params: the parts of the path that its route names in braces."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
        self.path_params: dict[str, str] = {}
        self._receive = receive

    async def stream(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ClientDisconnect."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            yield message.get("body", b"")
            more = message.get("more_body", False)


class Response:
    """A whole answer."""

    def __init__(
        self,
        content: bytes | str = b"",
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        self.body = content.encode() if isinstance(content, str) else content
        self.status_code = status_code
        typed = {"content-type": media_type} if media_type else {}
        self.headers = {"content-length": str(len(self.body)), **typed, **(headers or {})}

    async def send(self, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


Handler = Callable[[Request], Awaitable[Response]]
Route = tuple[str, str, Handler]
"""GET or POST, a path whose parts in braces stand for anything, and who answers."""


class Application:
    """ASGI: finds the route and answers. refused: how a RequestError is told; failed: how any other exception is."""

    def __init__(
        self, routes: Sequence[Route], refused: Callable[[RequestError], Response], failed: Callable[[], Response]
    ) -> None:
        self._routes = [(method, path.split("/"), handler) for method, path, handler in routes]
        self._refused, self._failed = refused, failed

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._find(request)(request)
        except RequestError as error:
            response = self._refused(error)
        except Exception:
            await self._failed().send(send)
            raise  # uvicorn logs it
        await response.send(send)

    def _find(self, request: Request) -> Handler:
        """The handler, with the request's path_params set. Raises RequestError."""
        parts = request.path.split("/")
        allowed = set()
        for method, pattern, handler in self._routes:
            if len(pattern) == len(parts) and all(
                p == given or (p[:1] == "{" and given) for p, given in zip(pattern, parts, strict=True)
            ):
                if request.method == method or (request.method, method) == ("HEAD", "GET"):
                    named = zip(pattern, parts, strict=True)
                    request.path_params = {name[1:-1]: given for name, given in named if name[:1] == "{"}
                    return handler
                allowed.add(method)
        if allowed:
            raise RequestError(f"the method here is {', '.join(sorted(allowed))}", 405)
        raise RequestError("no such path; docs/serving.md lists them", 404)
