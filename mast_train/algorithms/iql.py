"""IQL: every agent learns alone from the team's reward (Tan 1993; with recurrent networks, Foerster et al. 2017)."""

from __future__ import annotations

from mast_train.algorithms.base import Algorithm
from mast_train.envs.base import EnvSpec
from mast_train.learning.flops import Passes
from mast_train.networks.mixers import Apart


class IQL(Algorithm):
    """Each Q_i has targets of its own: r + gamma V_i at the next state. Nothing is mixed."""

    def mixer(self, spec: EnvSpec) -> Apart:
        return Apart()

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        return Passes(agents=4)
