"""QMIX: a monotonic mixing network whose weights come from hypernetworks on the state (Rashid et al. 2018)."""

from __future__ import annotations

from mast_train.algorithms.base import Algorithm
from mast_train.envs.base import EnvSpec
from mast_train.networks.mixers import MonotonicMixer


class QMIX(Algorithm):
    """Q_tot is monotonic in every agent's value, so the joint action of greedy agents is greedy."""

    def mixer(self, spec: EnvSpec) -> MonotonicMixer:
        return MonotonicMixer(spec.n_agents, spec.state_dim, self.config.mixer)
