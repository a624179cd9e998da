"""WQMIX: QMIX fitted to the targets of an unrestricted Q*, with less weight where it overestimates (Rashid et al.
2020).

OW weighs by whether Q_tot is below its target, CW by whether the action taken seems to be the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from mast_train.algorithms.base import Fit, Seen
from mast_train.algorithms.qmix import QMIX
from mast_train.engines.base import Wanted
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import pick
from mast_train.learning import targets
from mast_train.learning.flops import Passes
from mast_train.learning.losses import Goal, central_weight
from mast_train.networks.build import agent_nets
from mast_train.networks.mixers import CentralMixer


class OWQMIX(QMIX):
    """Optimistic weighting: 1 where Q_tot < y, else `wqmix.weight`."""

    copies: ClassVar[Mapping[str, str]] = {"target_agents": "central_agents", "target_mixer": "central_mixer"}

    @property
    def selects(self) -> bool:
        """An unrestricted mixer gives the order of its agents' values no meaning: QMIX's agents choose."""
        return True

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        return super().networks(spec) | {
            "central_agents": agent_nets(self.config, spec),
            "central_mixer": CentralMixer(spec.n_agents, spec.state_dim, self.config.wqmix.embed),
        }

    def wanted(self, evolving: bool) -> dict[str, Wanted]:
        return super().wanted(evolving) | {"central_agents": Wanted(learning=True, dense_gradients=evolving)}

    def fits(self, seen: Seen, y: Tensor) -> list[Fit]:
        return [
            Fit("mixer", "agents", {"loss": self.goal(seen, y)}),
            Fit("central_mixer", "central_agents", {"central_loss": Goal(y)}),
        ]

    def goal(self, seen: Seen, y: Tensor) -> Goal:
        """What QMIX is fitted to."""
        return Goal(y, low=self.config.wqmix.weight)

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """The targets come from the unrestricted networks alone."""
        return Passes(agents=3, mixer=3, central_agents=4, central_mixer=4)


class CWQMIX(OWQMIX):
    """Central weighting: 1 where y > Q*(s, greedy joint action) or that action was taken, else `wqmix.weight`."""

    def wanted(self, evolving: bool) -> dict[str, Wanted]:
        online = Wanted(learning=True, dense_gradients=evolving, now=True, after=True)
        return super().wanted(evolving) | {"agents": online, "target_agents": Wanted(now=True, after=True)}

    def goal(self, seen: Seen, y: Tensor) -> Goal:
        greedy = targets.greedy_actions(seen.now("agents"), seen.avail_now)
        q_greedy = seen.mix_now("target_mixer", targets.value_of(seen.now("target_agents"), greedy))
        is_greedy = (pick(seen.batch.actions, seen.rows.transition) == greedy).all(-1)
        return Goal(y, central_weight(y, q_greedy, is_greedy, self.config.wqmix.weight))

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """Beside OW's, which the paper counts, one more of the unrestricted mixer: target values at the greedy action
        of the state itself."""
        return Passes(agents=3, mixer=3, central_agents=4, central_mixer=5)
