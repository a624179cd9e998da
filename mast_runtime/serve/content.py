"""Bodies as HTTP carries them: sizes checked before anything is read or expanded, gzip and deflate."""

from __future__ import annotations

import gzip
import zlib

from mast_runtime.serve.http import Request
from mast_runtime.serve.protocol import RequestError

MIN_COMPRESSED_BYTES = 512
"""A shorter response goes out as it is: compressing it would cost more than it saves."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The request's body, decompressed; neither form may exceed limit_bytes. Raises RequestError, ClientDisconnect."""
    if (header_number(request, "content-length") or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return decompress(bytes(body), request.headers.get("content-encoding", "identity").strip().lower(), limit_bytes)


def header_number(request: Request, name: str) -> int | None:
    """A header that holds a whole number, None when absent. Raises RequestError."""
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestError(f"the header {name} must be a whole number of bytes")
    return int(text)


def decompress(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Undo a Content-Encoding; never expands beyond limit_bytes. Raises RequestError."""
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError("Content-Encoding must be gzip, deflate or identity", status=415)
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip and zlib headers alike
    try:
        plain = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {encoding} ({error})") from error
    if len(plain) > limit_bytes:
        raise _too_large(limit_bytes)
    if not inflater.eof or inflater.unused_data:
        raise RequestError(f"the {encoding} body is cut short or has a tail")
    return plain


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body in the first encoding of an Accept-Encoding header that is known here, and that encoding's name."""
    for choice in accepted.lower().split(",") if len(body) >= MIN_COMPRESSED_BYTES else ():
        encoding, _, weight = choice.partition(";")
        if encoding.strip() in ("gzip", "deflate") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            gzipped = encoding.strip() == "gzip"
            return (gzip.compress(body, 1, mtime=0), "gzip") if gzipped else (zlib.compress(body, 1), "deflate")
    return body, None


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"the body exceeds {limit_bytes} bytes", status=413, outcome="too_large")
