"""The server's side of a websocket (RFC 6455), as much as PySC2's client needs. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Websocket:
    """One connection, from its handshake on."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        """Answers the handshake. Raises ConnectionError for another path, which is answered with 404."""
        self._connection, self._stream = connection, connection.makefile("rb")
        asked = self._stream.readline().split()
        headers = {}
        while True:
            line = self._stream.readline().strip()
            if not line:
                break
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if len(asked) < 2 or asked[1] != path.encode() or b"sec-websocket-key" not in headers:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            raise ConnectionError(f"not a websocket for {path}")
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def receive(self) -> bytes | None:
        """The next message, or None when the other side has closed."""
        message = b""
        while True:
            head = self._stream.read(2)
            if len(head) < 2:
                return None
            last, kind, size = head[0] & 0x80, head[0] & 0x0F, head[1] & 0x7F
            if size > 125:
                width = 2 if size == 126 else 8
                size = int.from_bytes(self._stream.read(width), "big")
            mask = self._stream.read(4) if head[1] & 0x80 else b"\0\0\0\0"
            body = _unmasked(self._stream.read(size), mask)
            if kind == CLOSE:
                self._frame(CLOSE, body[:2])
                return None
            if kind == PING:
                self._frame(PONG, body)
            elif kind in (CONTINUED, TEXT, BINARY):
                message += body
                if last:
                    return message

    def send(self, message: bytes) -> None:
        """One binary message."""
        self._frame(BINARY, message)

    def _frame(self, kind: int, body: bytes) -> None:
        size = len(body)
        if size < 126:
            head = struct.pack(">BB", 0x80 | kind, size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x80 | kind, 126, size)
        else:
            head = struct.pack(">BBQ", 0x80 | kind, 127, size)
        self._connection.sendall(head + body)


def _unmasked(body: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(body) // 4 + 1))[: len(body)]
    return (int.from_bytes(body, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(body), "big")
