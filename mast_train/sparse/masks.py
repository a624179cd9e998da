"""Masks and the parameters that wear them. sparse/evolution.py changes them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mast_train.sparse.allocation import ALLOCATIONS, Shape, with_floors
from mast_train.sparse.topology import random_mask, spread_mask


@dataclass(frozen=True)
class MaskedLayer:
    """One masked weight: its parameter name, block rows, segments (3 for a GRU's gates), and the mean number of blocks
    that an input keeps at least (0: no floor, and initial masks that are not spread over the inputs).

    spread: initial masks are spread over the inputs all the same: of a small budget every input gets its share.
    actions: its outputs are actions' values. One that nobody took in a batch has no gradient, and is not idle for that.
    """

    name: str
    rows: int = 1
    segments: int = 1
    input_floor: float = 0.0
    actions: bool = False
    spread: bool = False

    def floor(self, outputs: int) -> float:
        """The density at which an input has `input_floor` blocks on average, at most 1."""
        block_rows = self.segments * -(-(outputs // self.segments) // self.rows)
        return min(1.0, self.input_floor / block_rows)


def _shape(weight: Tensor) -> Shape:
    """[G, out, in]; a plain matrix is one group."""
    *groups, outputs, inputs = weight.shape
    return math.prod(groups), outputs, inputs


class Masks:
    """Masks of one module under one sparsity budget, random or `given`. A sparsity of 0 makes no masks at all.

    Invariants (tests/test_sparse.py): weights are 0 off the mask; the number of blocks per layer is constant; optimiser
    moments of a connection just dropped or grown are 0.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: list[MaskedLayer],
        sparsity: float,
        allocation: str,
        rescale_init: bool,
        generator: torch.Generator,
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        """given: parameter name -> mask to start from instead. Raises ValueError when names or shapes differ."""
        self.layers = layers if sparsity > 0.0 else []
        parameters = dict(module.named_parameters())
        self.weights = {layer.name: parameters[layer.name] for layer in self.layers}
        shapes = [_shape(weight) for weight in self.weights.values()]
        floors = [layer.floor(outputs) for layer, (_, outputs, _) in zip(self.layers, shapes, strict=True)]
        densities = with_floors(ALLOCATIONS[allocation], shapes, sparsity, floors)
        self._masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        if given is not None:
            self.load_state_dict(given)
        for layer, shape, density in zip(self.layers, shapes, densities, strict=True):
            weight, mask = self.weights[layer.name], self._masks[layer.name]
            if given is None:
                draw = spread_mask if layer.spread or layer.input_floor > 0.0 else random_mask
                mask.copy_(draw(shape, density, layer.rows, layer.segments, generator).view(weight.shape))
            with torch.no_grad():
                weight.mul_(mask)
                if rescale_init:
                    weight.div_(mask.float().mean().sqrt().item())

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def state_dict(self) -> dict[str, Tensor]:
        """Parameter name -> bool mask of its shape."""
        return dict(self._masks)

    def connections(self) -> dict[nn.Parameter, Tensor]:
        """Masked parameter -> its mask, the tensor that evolution changes in place."""
        return {self.weights[name]: mask for name, mask in self._masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the masks. Raises ValueError when names or shapes differ."""
        if state.keys() != self._masks.keys():
            raise ValueError(f"masks of {sorted(state)} given, expected {sorted(self._masks)}")
        for name, mask in state.items():
            if mask.shape != self._masks[name].shape:
                raise ValueError(f"mask {name} has shape {list(mask.shape)}, expected {list(self._masks[name].shape)}")
            self._masks[name].copy_(mask)

    def frozen(self, module: nn.Module) -> Masks:
        """As they are now, of `module`, a copy of the one that wears these: they change no more."""
        kept, parameters = copy.copy(self), dict(module.named_parameters())
        kept.weights = {name: parameters[name] for name in self.weights}
        kept._masks = {name: mask.clone() for name, mask in self._masks.items()}
        return kept

    def apply_to_gradients(self) -> None:
        """Zero the gradient of every absent connection, so that neither clipping nor the optimiser sees it."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self._masks[name])

    @property
    def nnz(self) -> int:
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def sparsity(self) -> float:
        """Share of absent weights in the masked layers; biases are not counted. 0 without masks."""
        total = sum(weight.numel() for weight in self.weights.values())
        return 1.0 - self.nnz / total if total else 0.0
