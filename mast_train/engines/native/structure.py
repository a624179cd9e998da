"""The extension's structure of a network's connections, which follows its masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Structure:
    """What the extension builds from the masks of `weights`, built again when one of them changed in place.

    build: bool masks by name, none for full layers -> the extension's structure. masks None: the connections are the
    weights that are not 0. Raises ValueError for weights that are not float32 on the CPU.
    """

    def __init__(
        self,
        build: Callable[[Mapping[str, Tensor]], Any],
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None,
    ) -> None:
        self._build, self._weights, self._masks = build, weights, masks
        for name, weight in weights.items():
            if weight.dtype != torch.float32 or weight.device.type != "cpu":
                raise ValueError(f"{name} is {weight.dtype} on {weight.device}, expected float32 on the CPU")
        self._watched = list((weights if masks is None else masks).values())
        self._versions: list[int] | None = None
        self._current: Any = None
        self._full: Any = None

    @property
    def learns(self) -> bool:
        """Whether there are masks, and so gradients."""
        return self._masks is not None

    def current(self) -> Any:
        """That of the connections as they are now."""
        versions = [tensor._version for tensor in self._watched]
        if versions != self._versions:
            self._current, self._versions = self._made(), versions
        return self._current

    def full(self) -> Any:
        """That of full masks."""
        if self._full is None:
            self._full = self._build({})
        return self._full

    def wanted(self, dense_gradients: bool) -> Any:
        """Where a backward pass writes gradients. Raises ValueError for networks that have none."""
        if not self.learns:
            raise ValueError("no gradients without masks")
        return self.full() if dense_gradients else self.current()

    def _made(self) -> Any:
        if self._masks is None:
            return self._build({name: weight != 0 for name, weight in self._weights.items()})
        masks = {name: self._masks[name].contiguous() for name in self._weights if name in self._masks}
        return self._build(masks) if masks else self.full()
