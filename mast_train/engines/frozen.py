"""Agents as they are now, for another thread to act with while these learn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from mast_train.experience.rollout import Actor
from mast_train.networks.agents import GroupedNets

Nets = TypeVar("Nets", bound=GroupedNets)


class Frozen:
    """A copy of agents and their masks that shares nothing with them."""

    def __init__(
        self, agents: Nets, masks: Mapping[str, Tensor], act: Callable[[Nets, Mapping[str, Tensor]], Actor]
    ) -> None:
        """act: what acts with such networks and masks."""
        nets, worn = copy.deepcopy(agents), {name: mask.clone() for name, mask in masks.items()}
        self._actor = act(nets, worn)
        self._weights = list(zip(nets.parameters(), agents.parameters(), strict=True))
        self._masks = list(zip(worn.values(), masks.values(), strict=True))
        self._versions = self._mask_versions()

    def _mask_versions(self) -> list[int]:
        return [mask._version for _, mask in self._masks]

    @torch.no_grad()
    def refreshed(self) -> Actor:
        """With the weights of now. Masks are copied only after a change, since a copy makes C build its structure."""
        versions = self._mask_versions()
        changed = self._masks if versions != self._versions else []
        for own, source in [*self._weights, *changed]:
            own.copy_(source)
        self._versions = versions
        return self._actor
