"""Gradients kept in the parameters' own shape, of which a native pass writes the connections alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Gradients:
    """The gradients of some parameters, in tensors that live from pass to pass and are 0 off the connections.

    Clearing and masking whole tensors would cost more than a sparse pass. A pass therefore sets `parameter.grad` itself
    instead of returning gradients to autograd, and the tensor it sets is overwritten by the next pass once `.grad` was
    set to None; where a gradient is there already, it adds to it.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._tensors: dict[str, Tensor] = {}
        self._structure: Any = None

    def write(self, structure: Any, fill: Callable[[dict[str, Tensor]], None]) -> None:
        """Let `fill` write into tensors that are 0 off the connections of `structure`; make them the gradients."""
        fresh = all(parameter.grad is None for parameter in self._parameters.values())
        tensors = self._cleared(structure) if fresh else self._zeros()
        fill(tensors)
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                parameter.grad = tensors[name]
            else:
                parameter.grad += tensors[name]

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}

    def _cleared(self, structure: Any) -> dict[str, Tensor]:
        if not self._tensors:
            self._tensors = self._zeros()
        elif self._structure is not structure:
            for tensor in self._tensors.values():
                tensor.zero_()
        self._structure = structure
        return self._tensors
