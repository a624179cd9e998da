"""Mixing networks: per-agent values and the state to the team's value."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mast_train.settings.config import MixerConfig


class Sum(nn.Module):
    """Q_tot = sum_i Q_i (Sunehag et al. 2018). It has no weights."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q [...,N], state [...,S] -> [...]."""
        return q.sum(-1)


class Apart(nn.Module):
    """Every agent's value by itself: nothing is mixed. It has no weights."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q [...,N], state [...,S] -> q."""
        return q


class MonotonicMixer(nn.Module):
    """QMIX's mixing network: monotonic, its weights come from hypernetworks on the state (Rashid et al. 2018).

    Q_tot = |w2(s)| . elu(|W1(s)| q + b1(s)) + b2(s); two-layer hypernetworks, hypernet_layers = 2 of oxwhirl/pymarl.
    """

    def __init__(self, n_agents: int, state_dim: int, config: MixerConfig) -> None:
        super().__init__()
        self.n_agents, self.embed = n_agents, config.embed
        hidden = config.hypernet_hidden
        self.w1_in, self.w1_out = nn.Linear(state_dim, hidden), nn.Linear(hidden, n_agents * config.embed)
        self.w2_in, self.w2_out = nn.Linear(state_dim, hidden), nn.Linear(hidden, config.embed)
        self.b1 = nn.Linear(state_dim, config.embed)
        self.b2_in, self.b2_out = nn.Linear(state_dim, config.embed), nn.Linear(config.embed, 1)

    def restricted(self, weights: Tensor) -> Tensor:
        """A hypernetwork's output as weights of the agents' values: never negative."""
        return weights.abs()

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q [...,N], state [...,S] -> [...]; or q [K,...,N] -> [K,...], K joint actions of each state."""
        rows, shape = state[..., 0].numel(), q.shape[:-1]
        state = state.reshape(rows, -1)
        w1 = self.restricted(self.w1_out(F.relu(self.w1_in(state)))).view(-1, self.n_agents, self.embed)
        w2 = self.restricted(self.w2_out(F.relu(self.w2_in(state))))
        b2 = self.b2_out(F.relu(self.b2_in(state)))
        q = q.reshape(-1, rows, self.n_agents).transpose(0, 1)
        mixed = torch.baddbmm(self.b1(state).unsqueeze(1), q, w1)
        return torch.baddbmm(b2.unsqueeze(1), F.elu(mixed), w2.unsqueeze(2)).squeeze(2).t().reshape(shape)


class UnrestrictedMixer(MonotonicMixer):
    """The same network with weights of either sign (FACMAC-nonmonotonic; Peng et al. 2021, section 4.1)."""

    def restricted(self, weights: Tensor) -> Tensor:
        return weights


class CentralMixer(nn.Module):
    """WQMIX's unrestricted mixer: Q* = f(q ++ s) + V(s), ReLU layers without monotonicity (Rashid et al. 2020).

    f has three hidden layers and V one, each `embed` wide (oxwhirl/wqmix, qmix_central_no_hyper.py).
    """

    def __init__(self, n_agents: int, state_dim: int, embed: int) -> None:
        super().__init__()
        self.f1, self.f2 = nn.Linear(n_agents + state_dim, embed), nn.Linear(embed, embed)
        self.f3, self.f4 = nn.Linear(embed, embed), nn.Linear(embed, 1)
        self.v1, self.v2 = nn.Linear(state_dim, embed), nn.Linear(embed, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q [...,N], state [...,S] -> [...]."""
        x = F.relu(self.f1(torch.cat([q, state], -1)))
        x = F.relu(self.f3(F.relu(self.f2(x))))
        return (self.f4(x) + self.v2(F.relu(self.v1(state)))).squeeze(-1)
