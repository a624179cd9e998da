"""What a run's training saw of each agent's inputs, for the exported policy to say (docs/format.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch

NAMES = ("low", "high", "total", "squares", "count")


class Seen:
    """Range and sums of every observation acted on in training: low, high, total, squares [N,O] and count [N], float64.

    count: observations that are not all zero, as an absent agent's are; the sums go over them, the range over all.
    """

    def __init__(self, spec: EnvSpec, device: torch.device) -> None:
        shape = spec.n_agents, spec.obs_dim
        self.low = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.high = -self.low
        self.total, self.squares = torch.zeros_like(self.low), torch.zeros_like(self.low)
        self.count = torch.zeros(spec.n_agents, dtype=torch.float64, device=device)

    def add(self, episodes: EpisodeBatch) -> None:
        """Take note of a round. Never waits for a device."""
        obs, filled = episodes.obs[:, :-1].flatten(0, 1), episodes.filled.reshape(-1, 1, 1)
        self.low = torch.minimum(self.low, obs.where(filled, torch.inf).amin(0))
        self.high = torch.maximum(self.high, obs.where(filled, -torch.inf).amax(0))
        there = obs.where(filled, 0.0)
        self.total += there.sum(0, dtype=torch.float64)
        self.squares += there.double().square_().sum(0)
        self.count += there.any(-1).sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for a safetensors file."""
        return {name: getattr(self, name) for name in NAMES}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave; nothing, in a checkpoint of before: what is seen from here on. Raises ValueError."""
        for name, tensor in state.items():
            if name not in NAMES or tensor.shape != getattr(self, name).shape:
                raise ValueError(f"what was seen of the inputs has a tensor {name} of shape {list(tensor.shape)}")
            setattr(self, name, tensor.to(self.low.device))
