"""Observations and states at mean 0 and deviation 1, by running statistics of what was seen in training.

Letters: K seeds, G networks of a seed (N, or 1 that its agents share), B episodes, T steps, N agents, O observation,
S state, H units of the first layer, I its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.packed import Batch

ROUNDING = 1e-6
"""A deviation below this share of the mean is float32's rounding: such an input is constant."""
CHUNK = 2**22
"""Values that are looked at at once, about."""


class Scaling(NamedTuple):
    """Frozen statistics of K seeds, float32: mean and 1 / deviation of observations [K,G,O] and of states [K,S].

    What is scaled lies seed by seed in equal parts. One affine map for each input, so that a first layer can hold it;
    zeros of agents that are gone are mapped like any other observation.
    """

    obs_mean: Tensor
    obs_scale: Tensor
    state_mean: Tensor
    state_scale: Tensor

    @classmethod
    def joined(cls, each: Sequence[Scaling]) -> Scaling:
        """Those of several seeds, in order."""
        return cls(*(torch.cat(parts) for parts in zip(*each, strict=True)))

    def observed(self, obs: Tensor) -> Tensor:
        """obs [K B,...,N,O], scaled."""
        return self._scale_obs(obs.clone())

    def states(self, state: Tensor) -> Tensor:
        """state [K B,...,S], scaled."""
        return self._scale_state(state.clone())

    def in_place(self, batch: Batch) -> Batch:
        """The batch itself, its observations and states scaled in place."""
        self._scale_obs(batch.obs)
        self._scale_state(batch.state)
        return batch

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A first layer on observations as they are from one on scaled ones: weight [K G,H,I], of whose inputs the
        first O are the observation's, bias [K G,H]. Absent weights stay 0 and add nothing to the bias."""
        mean, scale = self.obs_mean.flatten(0, 1).double(), self.obs_scale.flatten(0, 1).double()
        width = mean.shape[-1]
        folded, own = weight.detach().clone(), weight.detach()[..., :width].double() * scale.unsqueeze(1)
        folded[..., :width] = own
        moved = bias.detach().double() - torch.einsum("gho,go->gh", own, mean)
        return folded, moved.to(bias.dtype)

    def _scale_obs(self, obs: Tensor) -> Tensor:
        parts = obs.unflatten(0, (len(self.obs_mean), -1))
        shape = (len(parts), *[1] * (parts.dim() - 3), *self.obs_mean.shape[1:])
        parts.sub_(self.obs_mean.view(shape)).mul_(self.obs_scale.view(shape))
        return obs

    def _scale_state(self, state: Tensor) -> Tensor:
        parts = state.unflatten(0, (len(self.state_mean), -1))
        shape = (len(parts), *[1] * (parts.dim() - 2), self.state_mean.shape[-1])
        parts.sub_(self.state_mean.view(shape)).mul_(self.state_scale.view(shape))
        return state


class Moments:
    """Count, mean and sum of squared distances from the mean, float64, of values that come in parts.

    Chan, Golub and LeVeque, Algorithms for computing the sample variance, The American Statistician 1983.
    """

    def __init__(self, groups: int, width: int, device: torch.device) -> None:
        self.count = torch.zeros(groups, 1, dtype=torch.float64, device=device)
        self.mean, self.squares = torch.zeros(2, groups, width, dtype=torch.float64, device=device).unbind()

    def add(self, values: Tensor, counted: Tensor) -> None:
        """values [R,G,F] float32, counted [R,G] bool."""
        weight = counted.unsqueeze(-1)
        count = counted.sum(0, dtype=torch.float64).unsqueeze(-1)
        at_least_one = count.clamp(min=1.0)
        mean = (values * weight).sum(0, dtype=torch.float64) / at_least_one
        squares = ((values - mean).mul_(weight)).square_().sum(0)
        total, apart = (self.count + count).clamp(min=1.0), mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.count = self.count + count

    @property
    def deviation(self) -> Tensor:
        """[G,F] float64; 1 for a value that was the same all the time, or was never seen."""
        deviation = (self.squares / self.count.clamp(min=1.0)).sqrt()
        return torch.where(deviation > ROUNDING * self.mean.abs(), deviation, 1.0)


class Statistics:
    """Of one run: its observations, for each network by itself, and its states.

    Counted are the steps on which agents act. An agent that observes nothing but zeros and has no choice is gone, or
    not yet there, and not counted.
    """

    def __init__(self, spec: EnvSpec, shared: bool, device: torch.device) -> None:
        """shared: one network for all agents."""
        self._shared = shared
        self.obs = Moments(1 if shared else spec.n_agents, spec.obs_dim, device)
        self.state = Moments(1, spec.state_dim, device)

    @torch.no_grad()
    def add(self, episodes: EpisodeBatch) -> None:
        """A round of episodes as they were played."""
        _, t1, n, o = episodes.obs.shape
        for part in _parts(episodes, max(1, CHUNK // (t1 * (n * o + episodes.state.shape[-1])))):
            obs, filled = part.obs[:, :-1], part.filled
            gone = (obs == 0).all(-1) & (part.avail_actions[:, :-1].sum(-1) == 1)
            counted = filled.unsqueeze(-1) & ~gone
            groups = (-1, 1) if self._shared else (-1, n)
            self.obs.add(obs.reshape(*groups, o), counted.reshape(groups))
            self.state.add(part.state[:, :-1].flatten(0, 1).unsqueeze(1), filled.reshape(-1, 1))

    def scaling(self) -> Scaling:
        """As they are now, frozen."""
        parts = [(moments.mean, 1.0 / moments.deviation) for moments in (self.obs, self.state)]
        (obs_mean, obs_scale), (state_mean, state_scale) = ((m.float(), s.float()) for m, s in parts)
        return Scaling(obs_mean[None], obs_scale[None], state_mean, state_scale)

    def summary(self) -> dict[str, Any]:
        """What a person is told: how many observations of an agent were counted, and the ranges over all inputs."""
        mean, deviation = self.obs.mean, self.obs.deviation
        ranges = {name: [float(f"{x:.4g}") for x in (v.min(), v.max())] for name, v in
                  (("mean", mean), ("deviation", deviation))}  # fmt: skip
        return {"observations": int(self.obs.count.max()), **ranges}

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for a safetensors file."""
        named = {"obs": self.obs, "state": self.state}
        return {f"{name}.{key}": value for name, moments in named.items() for key, value in vars(moments).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave. Raises ValueError where it does not fit."""
        for name, own in self.state_dict().items():
            if name not in state or state[name].shape != own.shape:
                raise ValueError(f"the checkpoint's statistics of observations do not fit ({name})")
        for name, moments in {"obs": self.obs, "state": self.state}.items():
            for key, value in vars(moments).items():
                setattr(moments, key, state[f"{name}.{key}"].to(value))


def _parts(episodes: EpisodeBatch, size: int) -> list[EpisodeBatch]:
    """At most `size` episodes each, as tensors of their own memory: sums must not depend on what lies beside them."""
    pieces = {name: tensor.split(size) for name, tensor in vars(episodes).items()}
    count = len(pieces["filled"])
    return [EpisodeBatch(**{name: piece[k].contiguous() for name, piece in pieces.items()}) for k in range(count)]
