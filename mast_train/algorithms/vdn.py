"""VDN: the team's value is the sum of the agents' (Sunehag et al. 2018)."""

from __future__ import annotations

from mast_train.algorithms.base import Algorithm
from mast_train.envs.base import EnvSpec
from mast_train.learning.flops import Passes
from mast_train.networks.mixers import Sum


class VDN(Algorithm):
    """Q_tot = sum_i Q_i. There is no mixing network."""

    def mixer(self, spec: EnvSpec) -> Sum:
        return Sum()

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        return Passes(agents=4, additions=4 * (n_agents - 1))
