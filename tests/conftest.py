"""One thread per process: networks of this size gain nothing from more, and waiting threads starve a busy machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
