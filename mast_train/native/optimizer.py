"""Clipping and the optimiser's step in one native call, on the connections of the masks alone."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_not
from typing import Any

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
        if len(optimizer.param_groups) != 1:
            raise ValueError(f"{len(optimizer.param_groups)} parameter groups, expected 1")
        native.check_parameters(optimizer.param_groups[0]["params"])
        self._connections, self._parameters, self._known = dict(connections), [], None

    def step(self, max_norm: float) -> Tensor:
        """Clip the gradients by their global norm and step; returns the norm before. The gradients stay unclipped."""
        group = self.optimizer.param_groups[0]
        beta1, beta2 = group.get("betas") or (0.0, group["alpha"])
        if self._known is not self.optimizer.state:  # another one after optimizer.load_state_dict
            self._known = self.optimizer.state
            self._parameters = [_Parameter(self.optimizer, p, self._connections.get(p)) for p in group["params"]]
        found = [parameter.found() for parameter in self._parameters if parameter.parameter.grad is not None]
        norm = native.extension().step(self.level, (group["lr"], beta1, beta2, group["eps"]), max_norm, found)
        return torch.tensor(norm)


class _Parameter:
    """A parameter and where everything of it lies, looked up again when a tensor was exchanged or the mask changed."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter, mask: Tensor | None) -> None:
        self.parameter, self._mask = parameter, mask
        self._optimizer, self._adam = optimizer, isinstance(optimizer, torch.optim.Adam)
        self._state: dict[str, Tensor] = {}
        self._version: int | None = None
        self._index: Tensor | None = None  # where its connections are, ascending; None: everywhere
        self._known: tuple[Any, ...] = ()
        self._addresses: tuple[int, ...] = ()

    def found(self) -> tuple[int, ...]:
        """As the extension takes it. The parameter has a gradient."""
        state, mask = self._state or self._begun(), self._mask
        first, second = (state["exp_avg"], state["exp_avg_sq"]) if self._adam else (None, state["square_avg"])
        known = self.parameter.grad, first, second, state["step"]
        if mask is not None and (self._index is None or mask._version != self._version):
            self._index, self._version = mask.flatten().nonzero().squeeze(1).int(), mask._version
            self._known = ()
        if not self._known or any(map(is_not, known, self._known)):
            self._known, index = known, self._index
            count = self.parameter.numel() if index is None else index.numel()
            self._addresses = (count, *native.addresses([index, self.parameter, *known]))
        return self._addresses

    def _begun(self) -> dict[str, Tensor]:
        """The optimiser's state of the parameter, begun as torch begins it."""
        self._state = state = self._optimizer.state[self.parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq") if self._adam else ("square_avg",):
                state[name] = torch.zeros_like(self.parameter, memory_format=torch.preserve_format)
        return state
