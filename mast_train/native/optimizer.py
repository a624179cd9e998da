"""Clipping and the optimiser's step in one native call, on the connections of the masks alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mast_train import native

_UNSUPPORTED = ("weight_decay", "amsgrad", "maximize", "momentum", "centered", "decoupled_weight_decay")


class SparseStep:
    """Steps a torch.optim.Adam or RMSprop in C; the torch optimiser keeps owning the settings and the state.

    connections: parameter -> bool mask, which may change in place; other parameters are stepped whole. Off its mask a
    parameter, its gradient and its moments are neither read nor written: they are 0 by the invariants of
    mast_train.sparse.masks. Raises ValueError for other optimisers and for settings that the C code does not know.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, connections: Mapping[nn.Parameter, Tensor], level: str | None = None
    ) -> None:
        if not isinstance(optimizer, torch.optim.Adam | torch.optim.RMSprop):
            raise ValueError(f"{type(optimizer).__name__} is not stepped in C; expected Adam or RMSprop")
        for group in optimizer.param_groups:
            for name in _UNSUPPORTED:
                if group.get(name):
                    raise ValueError(f"{name} = {group[name]} is not done in C; use torch's own step")
        self.optimizer, self.level = optimizer, native.check_level(level)
        self._moments = ("exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.Adam) else (None, "square_avg")
        self._connections = dict(connections)
        self._index: dict[nn.Parameter, tuple[int, Tensor]] = {}
        if len(optimizer.param_groups) != 1:
            raise ValueError(f"{len(optimizer.param_groups)} parameter groups, expected 1")
        native.check_parameters(optimizer.param_groups[0]["params"])

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad = None

    def step(self, max_norm: float) -> Tensor:
        """Clip the gradients by their global norm and step; returns the norm before. The gradients stay unclipped."""
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group.get("betas") or (0.0, group["alpha"])
        parameters = [self._addresses(p) for p in group["params"] if p.grad is not None]
        norm = native.extension().step(self.level, (group["lr"], beta1, beta2, group["eps"]), max_norm, parameters)
        return torch.tensor(norm)

    def _addresses(self, parameter: nn.Parameter) -> tuple[int, ...]:
        assert parameter.grad is not None
        state, (first, second), index = self._state(parameter), self._moments, self._positions(parameter)
        return (
            parameter.numel() if index is None else index.numel(),
            0 if index is None else index.data_ptr(),
            parameter.data_ptr(),
            parameter.grad.data_ptr(),
            0 if first is None else state[first].data_ptr(),
            state[second].data_ptr(),
            state["step"].data_ptr(),
        )

    def _state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The optimiser's state of a parameter, begun as torch begins it."""
        state = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in self._moments:
                if name is not None:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state

    def _positions(self, parameter: nn.Parameter) -> Tensor | None:
        """Where its connections are, int32 ascending; None: everywhere."""
        mask = self._connections.get(parameter)
        if mask is None:
            return None
        known = self._index.get(parameter)
        if known is None or known[0] != mask._version:
            known = mask._version, mask.flatten().nonzero().squeeze(1).int()
            self._index[parameter] = known
        return known[1]
