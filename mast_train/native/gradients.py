"""Gradients kept in the parameters' own shape, of which a native pass writes the connections alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Gradients:
    """The gradients of some parameters, in tensors that live from pass to pass and are 0 off the connections.

    Clearing and masking whole tensors would cost more than a sparse pass. A pass therefore sets `parameter.grad` itself
    instead of returning gradients to autograd, and the tensor it sets is overwritten by the next pass once `.grad` was
    set to None; where a gradient is there already, it adds to it.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._structure: Any = None

    def write(self, parameters: Sequence[Tensor], structure: Any, fill: Callable[[Sequence[Tensor]], None]) -> None:
        """Let `fill` write into tensors that are 0 off the connections of `structure`; make them the gradients."""
        fresh = all(parameter.grad is None for parameter in parameters)
        tensors = self._cleared(parameters, structure) if fresh else [torch.zeros_like(p) for p in parameters]
        fill(tensors)
        for parameter, tensor in zip(parameters, tensors, strict=True):
            if parameter.grad is None:
                parameter.grad = tensor
            else:
                parameter.grad += tensor

    def _cleared(self, parameters: Sequence[Tensor], structure: Any) -> list[Tensor]:
        if not self._tensors:
            self._tensors = [torch.zeros_like(parameter) for parameter in parameters]
        elif self._structure is not structure:
            for tensor in self._tensors:
                tensor.zero_()
        self._structure = structure
        return self._tensors
