"""COMIX: QMIX over continuous actions, whose maximum is searched by the cross-entropy method (Peng et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mast_train.algorithms.base import Fit, Seen
from mast_train.algorithms.qmix import QMIX
from mast_train.engines.base import Wanted
from mast_train.envs.base import EnvSpec
from mast_train.learning.flops import Passes
from mast_train.learning.losses import Goal
from mast_train.networks.agents import CriticNets
from mast_train.networks.build import critic_nets
from mast_train.networks.heads import cross_entropy

_JUDGES = ("agents", "mixer"), ("twin_critics", "twin_mixer")


class COMIX(QMIX):
    """The agents' networks value actions that they are given, and the team's value is monotonic in each of them: the
    joint action of agents who search on their own is the best that they find together."""

    actions = ("continuous",)
    in_torch = "values of given actions (algorithm comix)"

    @property
    def judges(self) -> Sequence[tuple[str, str]]:
        """Names of networks that value actions and of the mixer of their values: the agents', and their twins."""
        return _JUDGES if self.config.comix.twin else _JUDGES[:1]

    @property
    def copies(self) -> Mapping[str, str]:  # type: ignore[override]
        return {f"target_{name}": name for pair in self.judges for name in pair}

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for critics, mixer in self.judges:
            found |= {critics: critic_nets(self.config, spec), mixer: self.mixer(spec)}
        return found

    def wanted(self, evolving: bool) -> dict[str, Wanted]:
        twins = {critics: Wanted(learning=True, dense_gradients=evolving) for critics, _ in self.judges[1:]}
        return super().wanted(evolving) | twins | {f"target_{name}": Wanted(after=True) for name in twins}

    def fits(self, seen: Seen, y: Tensor) -> list[Fit]:
        pairs = zip(self.judges, ("loss", "twin_loss"), strict=False)
        return [Fit(mixer, critics, {name: Goal(y)}) for (critics, mixer), name in pairs]

    def next_value(self, seen: Seen) -> Tensor:
        """QMIX's, over the candidates of the search's last iteration in the place of all actions; of twins the lesser
        value (Fujimoto et al. 2018). The search is for the largest value of the networks that select: the online ones
        with `target.double_q`, else the target's."""
        chooser = "agents" if self.selects else "target_agents"

        def value(name: str, actions: Tensor) -> Tensor:
            return seen.value(name, seen.after(name), actions)

        found = cross_entropy(lambda u: value(chooser, u), seen.avail_after, self.config.comix)
        select = found.values.movedim(0, -1)

        def reduced(name: str) -> Tensor:
            if self.config.target.operator == "max":
                return value(name, found.best)
            q = select if name == chooser else value(name, found.candidates).movedim(0, -1)
            return seen.reduced(q, torch.ones_like(q, dtype=torch.bool), None if name == chooser else select)

        values = [seen.mix_after(f"target_{mixer}", reduced(f"target_{critics}")) for critics, mixer in self.judges]
        return torch.stack(values).amin(0)

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
        twin, reduced = (4 if self.config.comix.twin else 0), n_agents * self.config.comix.candidates
        return Passes(4, 4, twin_critics=twin, twin_mixer=twin, searched=work, reduced=reduced)
