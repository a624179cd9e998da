"""Tensors of several seeds that may lie in one memory, where what is done to all of them is done once.

Letters: K seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def beside(tensors: Sequence[Tensor]) -> Tensor | None:
    """Tensors of one shape [...] as one view [K,...] of their memory, where they lie one after another in it."""
    first = tensors[0].detach()
    size, start, memory = first.numel(), first.storage_offset(), first.untyped_storage().data_ptr()
    for k, tensor in enumerate(tensors):
        there = tensor.untyped_storage().data_ptr() == memory and tensor.storage_offset() == start + k * size
        if not (there and tensor.is_contiguous()):
            return None
    return first.as_strided((len(tensors), *first.shape), (size, *first.stride()))


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as [K,...], to read: a view where they lie `beside` each other, else a copy."""
    whole = beside(tensors)
    return torch.stack([tensor.detach() for tensor in tensors]) if whole is None else whole


def copy_each(tensors: Sequence[Tensor], values: Tensor) -> None:
    """Write values [K,...] into the tensors."""
    whole = beside(tensors)
    for tensor, value in zip(tensors, values, strict=True) if whole is None else [(whole, values)]:
        tensor.copy_(value)


def clear_each(tensors: Sequence[Tensor], where: Tensor) -> None:
    """Zero the tensors where [K,...] bool says so."""
    whole = beside(tensors)
    for tensor, here in zip(tensors, where, strict=True) if whole is None else [(whole, where)]:
        tensor.masked_fill_(here, 0.0)
