"""What the system's allocator does with freed memory."""

from __future__ import annotations

import ctypes

_TRIM, _MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)."""


def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GB that is freed, for blocks up to its largest threshold of 32 MB.

    It would hand the memory of an update's tensors back and clear the pages anew at the next one: by how the heap
    happens to lie, a fifth of a dense update in torch. Elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP, 1 << 25)
    mallopt(_TRIM, 1 << 30)
