"""The optimisers' steps of all seeds as two launches, on the connections alone: launches of optimise.cu."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mast_train.engines.base import Parts
from mast_train.engines.fused import nvrtc
from mast_train.engines.optimise import Flat

SOURCE = Path(__file__).with_name("optimise.cu")
THREADS = 256
PIECE = 2048
"""Weights of a block of threads."""
LIMIT = 1 << 31
"""Places are int32: of so many weights, torch takes the steps."""


class FusedFlat(Flat):
    """See Flat. What lies off the masks is 0, and is neither read nor written."""

    def __init__(self, parts: Sequence[Parts]) -> None:
        super().__init__(parts)
        device, seeds = self._parameters.device, len(parts)
        self.launches = runs_on(device) and len(self._parameters) < LIMIT
        if not self.launches:
            return
        pieces = [
            (whole.storage_offset() + begin, whole[0].numel(), min(PIECE, whole[0].numel() - begin))
            for whole, _ in self._wholes.values()
            for begin in range(0, whole[0].numel(), PIECE)
        ]
        self._pieces = torch.tensor(pieces, dtype=torch.int32, device=device)
        self._partial = torch.empty(seeds, len(pieces), device=device)
        self._load()

    def _load(self) -> None:
        """Compile, and launch once on nothing that counts: neither can be recorded."""
        device = self._parameters.device
        some, none = torch.zeros(4, device=device), torch.zeros(1, dtype=torch.bool, device=device)
        piece = torch.tensor([[0, 1, 1]], dtype=torch.int32, device=device)
        _launch("squares", (1, 1), (some, none, piece, some[1:], some[2:], 1))
        numbers = self._numbers(1.0)
        _launch(
            "clipped", (1, 1), (some, some, none, some, some, piece, some[1:], some[2:], some, some[3:], 1, *numbers)
        )

    @torch.no_grad()
    def step(self, max_norm: float) -> Tensor:
        """See Flat. The gradients stay as they are."""
        if not self.launches:
            return super().step(max_norm)
        grid, given = (len(self._pieces), len(self._rates)), (self._gradients, self._mask)
        _launch("squares", grid, (*given, self._pieces, self._partial, self._steps, grid[0]))
        first, second = self._moments if len(self._moments) == 2 else (None, *self._moments)
        norms = torch.empty_like(self._rates)
        state = first, second, self._pieces, self._partial, self._steps, self._rates, norms
        _launch("clipped", grid, (self._parameters, *given, *state, grid[0], *self._numbers(max_norm)))
        return norms

    def _numbers(self, max_norm: float) -> list[int]:
        """The bits of max_norm, of what the first moment's decay leaves, of the second's and what it leaves, of eps."""
        settings = self.optimizer.defaults
        first, second = settings["betas"] if len(self._moments) == 2 else (0.0, settings["alpha"])
        numbers = [max_norm, 1.0 - first, second, 1.0 - second, settings["eps"]]
        return torch.tensor(numbers).view(torch.int32).tolist()


def runs_on(device: torch.device) -> bool:
    """Whether kernels can be launched there. The CPU's emulation can."""
    return device.type == "cuda"


def _launch(name: str, grid: tuple[int, int], arguments: tuple) -> None:
    device = arguments[0].device
    index = 0 if device.type == "cpu" else torch.cuda.current_device() if device.index is None else device.index
    function = nvrtc.kernel(SOURCE, name, (("THREADS", THREADS),), frozenset(), index)
    function(grid, THREADS, 4 * THREADS, arguments)
