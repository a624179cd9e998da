"""Clipping and the optimiser's step in one native call, on the connections of the masks alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mast_train.engines.native.extension import check_level, extension

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
        if len(optimizer.param_groups) != 1:
            raise ValueError(f"{len(optimizer.param_groups)} parameter groups, expected 1")
        self.optimizer, self.level = optimizer, check_level(level)
        self._connections: dict[nn.Parameter, Tensor] = dict(connections)
        self._parameters: list[_Parameter] = []
        self._state: Any = None

    def step(self, max_norm: float) -> Tensor:
        """Clip the gradients by their global norm and step; returns the norm before. The gradients stay unclipped."""
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group.get("betas") or (0.0, group["alpha"])
        if self._state is not self.optimizer.state:  # another one after optimizer.load_state_dict
            self._state = self.optimizer.state
            self._parameters = [_Parameter(self.optimizer, p, self._connections.get(p)) for p in group["params"]]
        steps = [p.fields(gradient) for p in self._parameters if (gradient := p.tensor.grad) is not None]
        norm = torch.empty(())
        extension().step(
            level=self.level,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            max_norm=max_norm,
            parameters=steps,
            norm=norm,
        )
        return norm


class _Parameter:
    """A parameter, its part of the optimiser's state, and where its connections are."""

    def __init__(self, optimizer: torch.optim.Optimizer, tensor: nn.Parameter, mask: Tensor | None) -> None:
        self.tensor, self._optimizer, self._mask = tensor, optimizer, mask
        self._adam = isinstance(optimizer, torch.optim.Adam)
        self._state: dict[str, Tensor] = {}
        self._version: int | None = None
        self._fields: dict[str, Any] = {"parameter": tensor}

    def fields(self, gradient: Tensor) -> dict[str, Any]:
        """As the extension takes it, until the next call."""
        fields, state, mask = self._fields, self._state or self._begun(), self._mask
        fields["gradient"], fields["step"] = gradient, state["step"]
        if self._adam:
            fields["first"], fields["second"] = state["exp_avg"], state["exp_avg_sq"]
        else:
            fields["second"] = state["square_avg"]
        if mask is not None and mask._version != self._version:
            fields["positions"], self._version = extension().positions(mask=mask.contiguous()), mask._version
        return fields

    def _begun(self) -> dict[str, Tensor]:
        """The optimiser's state of the parameter, begun as torch begins it."""
        self._state = state = self._optimizer.state[self.tensor]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq") if self._adam else ("square_avg",):
                state[name] = torch.zeros_like(self.tensor, memory_format=torch.preserve_format)
        return state
