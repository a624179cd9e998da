"""COMIX: QMIX over continuous actions, whose maximum is searched by the cross-entropy method (Peng et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mast_train.algorithms.base import Seen
from mast_train.algorithms.qmix import QMIX
from mast_train.envs.base import EnvSpec
from mast_train.learning.flops import Passes
from mast_train.networks.agents import CriticNets
from mast_train.networks.build import critic_nets
from mast_train.networks.heads import cross_entropy


class COMIX(QMIX):
    """The agents' networks value actions that they are given, and the team's value is monotonic in each of them: the
    joint action of agents who search on their own is the best that they find together."""

    actions = ("continuous",)
    in_torch = "values of given actions (algorithm comix)"

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        return {"agents": critic_nets(self.config, spec), "mixer": self.mixer(spec)}

    def next_value(self, seen: Seen) -> Tensor:
        """QMIX's, over the candidates of the search's last iteration in the place of all actions. The search is for
        the largest value of the networks that select: the online ones with `target.double_q`, else the target's."""
        chooser = "agents" if self.selects else "target_agents"

        def value(name: str, actions: Tensor) -> Tensor:
            return seen.value(name, seen.after(name), actions)

        found = cross_entropy(lambda u: value(chooser, u), seen.avail_after, self.config.comix)
        if self.config.target.operator == "max":
            return seen.mix_after("target_mixer", value("target_agents", found.best))
        select = found.values.movedim(0, -1)
        q = value("target_agents", found.candidates).movedim(0, -1) if self.selects else select
        everything = torch.ones_like(q, dtype=torch.bool)
        return seen.mix_after("target_mixer", seen.reduced(q, everything, select if self.selects else None))

    def decides(
        self, spec: EnvSpec, networks: Mapping[str, nn.Module], x: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        agents = cast(CriticNets, networks["agents"])
        memory = agents(x)[0]
        rows, sizes = memory.flatten(0, 1), [memory[..., 0, 0].numel()]
        found = cross_entropy(lambda u: agents.value(rows, u, sizes), avail.flatten(0, 1), self.config.comix)
        values = agents.value(rows, found.best, sizes)
        return found.best.view(avail.shape), values.view(memory.shape[:-1])

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """QMIX's, and the search in the memory of the networks that select."""
        work = self.config.comix.iterations * self.config.comix.candidates
        return Passes(agents=4, mixer=4, searched=work, reduced=n_agents * self.config.comix.candidates)
