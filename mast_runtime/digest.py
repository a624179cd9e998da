"""The digest of a `.mast` file: SHA-256 of all its bytes, the digest's own digits counted as zeros."""

from __future__ import annotations

from importlib import import_module
from typing import Any, BinaryIO

from mast_runtime.errors import BundleError

BLANK = "0" * 64
CHUNK_BYTES = 1 << 20


def check_digest(file: BinaryIO, digest: Any) -> None:
    """Compare the whole file with the digest that its manifest names. Raises BundleError."""
    if not isinstance(digest, str) or len(digest) != len(BLANK):
        raise BundleError(f"digest {digest!r:.80}, expected {len(BLANK)} hexadecimal digits", "manifest")
    file.seek(0)
    length = file.read(8)
    header = file.read(int.from_bytes(length, "little"))
    found = _sha256(length)
    found.update(header.replace(digest.encode(errors="replace"), BLANK.encode()))
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    if found.hexdigest() != digest:
        raise BundleError("its bytes do not fit its digest: it was damaged or changed; copy or export it again")


def sealed(content: bytes) -> bytes:
    """A file whose digest is BLANK, with its digest. The header is the first to hold BLANK: `encode` sees to it."""
    return content.replace(BLANK.encode(), _sha256(content).hexdigest().encode(), 1)


def _sha256(content: bytes) -> Any:
    """hashlib.sha256 without OpenSSL, which takes longer to load than a policy to read."""
    for module in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        try:
            return import_module(module).sha256(content)
        except ImportError:
            continue
    from hashlib import sha256

    return sha256(content)
