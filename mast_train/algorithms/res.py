"""RES: a softmax over the joint actions near the greedy one, and a regulariser to the return (Pan et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from mast_train.algorithms.base import Fit, Seen
from mast_train.algorithms.qmix import QMIX
from mast_train.learning import targets
from mast_train.learning.flops import Passes
from mast_train.learning.losses import Goal


class RES(QMIX):
    """QMIX whose next value is the target Q_tot of the joint actions that differ from the greedy one in at most one
    agent, weighted by the softmax of the online Q_tot (ling-pan/RES)."""

    @property
    def selects(self) -> bool:
        return True

    def next_value(self, seen: Seen) -> Tensor:
        select, avail = seen.after("agents"), seen.avail_after
        greedy = targets.greedy_actions(select, avail)
        online = seen.mix_after("mixer", targets.neighbours(select, greedy))
        target = seen.mix_after("target_mixer", targets.neighbours(seen.after("target_agents"), greedy))
        return targets.softmax_value(target.t(), avail.flatten(1), self.config.res.beta, online.t())

    def fits(self, seen: Seen, y: Tensor) -> list[Fit]:
        to_returns = Goal(seen.episode_returns, scale=self.config.res.return_weight)
        return [Fit("mixer", "agents", {"loss": Goal(y), "return_loss": to_returns})]

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """The targets' mixer, online and target, runs on the n m joint actions near the greedy one; its hypernetworks
        once a state."""
        return Passes(agents=4, mixer=3 + 2 * n_agents * n_actions, hypernetworks=5)
