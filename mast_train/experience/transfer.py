"""Between the host and a device, with neither waiting for the other before it has to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`. The host goes on while a GPU takes it out of pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


class Flags(Sequence[bool]):
    """Booleans of a device [K] on their way to the host, which waits for them when it first looks at one."""

    def __init__(self, flags: Tensor) -> None:
        self._flags = flags.to("cpu", non_blocking=True)  # into pinned memory, where it comes from a GPU
        self._event: torch.cuda.Event | None = None
        if flags.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(flags.device))

    @property
    def here(self) -> bool:
        """Whether looking waits for nothing."""
        return self._event is None or self._event.query()

    def __len__(self) -> int:
        return len(self._flags)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    @cached_property
    def _values(self) -> list[bool]:
        if self._event is not None:
            self._event.synchronize()
        return self._flags.tolist()
