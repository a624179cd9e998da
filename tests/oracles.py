"""What the fused kernels are compared with: torch's path of the package, and a slow loop."""

from __future__ import annotations

import torch
from torch import Tensor

from mast_train.networks.agents import GRUSequence, gru_cell


def torch_sequence(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """states [G,T,R,H] of gates [G,T,R,3H]."""
    return GRUSequence.apply(gates, weight_hh, bias_hh)


def loop_sequence(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, lengths: Tensor | None) -> Tensor:
    """The same row by row and step by step, zero after a row's length; differentiable by autograd."""
    g, t, rows, width = gates.shape
    groups = []
    for group in range(g):
        own = []
        for row in range(rows):
            h, states = gates.new_zeros(width // 3), []
            for k in range(t):
                if lengths is not None and k >= int(lengths[group, row]):
                    states.append(torch.zeros_like(h))
                    continue
                h = gru_cell(gates[group, k, row], weight_hh[group] @ h + bias_hh[group], h)
                states.append(h)
            own.append(torch.stack(states))
        groups.append(torch.stack(own, 1))
    return torch.stack(groups)
