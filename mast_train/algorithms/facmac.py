"""FACMAC: deterministic actors that climb a factored critic of the joint action (Peng et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from mast_train.algorithms.base import Algorithm, Fit, Seen
from mast_train.engines.base import Ascent, Wanted
from mast_train.envs.base import EnvSpec
from mast_train.learning.flops import Passes
from mast_train.learning.losses import Goal
from mast_train.networks.agents import CriticNets
from mast_train.networks.build import agent_nets, critic_nets, encoded
from mast_train.networks.heads import greedy, squashed
from mast_train.networks.mixers import MonotonicMixer, UnrestrictedMixer

_JUDGES = ("critics", "mixer"), ("twin_critics", "twin_mixer")


class FACMAC(Algorithm):
    """Every agent has an actor, which is all that acts, and a critic Q_i(tau_i, u_i); a mixer makes the critics' values
    the team's. All actors climb it at once, at the present actions of all of them.

    Where actions are choices, actors give preferences and critics read one-hots. The actors' climb draws them by
    Gumbel-softmax, straight through (Jang et al. 2017); decisions and targets take the most preferred.
    """

    actions = "discrete", "continuous"
    in_torch = "critics of given actions (algorithm facmac)"

    @property
    def judges(self) -> Sequence[tuple[str, str]]:
        """Names of critics and of the mixer of their values: one pair, or two that learn alike from other weights."""
        return _JUDGES if self.config.facmac.twin else _JUDGES[:1]

    @property
    def copies(self) -> Mapping[str, str]:  # type: ignore[override]
        names = ["agents", *(name for pair in self.judges for name in pair)]
        return {f"target_{name}": name for name in names}

    @property
    def rate_shares(self) -> Mapping[str, float]:
        return {"agents": self.config.facmac.actor_rate}

    def mixer(self, spec: EnvSpec) -> MonotonicMixer:
        kind = MonotonicMixer if self.config.facmac.mixer == "monotonic" else UnrestrictedMixer
        return kind(spec.n_agents, spec.state_dim, self.config.mixer)

    def networks(self, spec: EnvSpec) -> dict[str, nn.Module]:
        critics = critic_nets(self.config, spec)
        found = {"agents": agent_nets(self.config, spec), "critics": critics, "mixer": self.mixer(spec)}
        for critics, mixer in self.judges[1:]:
            found |= {critics: critic_nets(self.config, spec), mixer: self.mixer(spec)}
        return found

    def wanted(self, evolving: bool) -> dict[str, Wanted]:
        wanted = {"agents": Wanted(learning=True, dense_gradients=evolving, now=True, outputs=True)}
        wanted |= {critics: Wanted(learning=True, dense_gradients=evolving, now=True) for critics, _ in self.judges}
        targets = ("agents", *(critics for critics, _ in self.judges))
        return wanted | {f"target_{name}": Wanted(after=True) for name in targets}

    def next_value(self, seen: Seen) -> Tensor:
        """The mixed target critics at the target actors' actions; of two, the lesser value (Fujimoto et al. 2018).
        Nothing is reduced over actions: `target.operator` and `target.double_q` have nothing to say."""
        actions = encoded(seen.spec, decision(seen.spec, seen.after("target_agents"), seen.avail_after))
        if self.config.facmac.smoothing:
            actions = self._smoothed(seen, actions)
        found = [
            seen.mix_after(f"target_{mixer}", seen.value(f"target_{critics}", seen.after(f"target_{critics}"), actions))
            for critics, mixer in self.judges
        ]
        return torch.stack(found).amin(0)

    def _smoothed(self, seen: Seen, actions: Tensor) -> Tensor:
        """Actions with normal noise, cut at 2.5 deviations and at the bounds."""
        if seen.spec.box is None:
            return actions
        uniform = seen.uniform(seen.spec.n_agents, seen.spec.n_actions).clamp(min=1e-7)
        noise = self.config.facmac.smoothing * torch.special.ndtri(uniform).clamp(-2.5, 2.5)
        return (actions + noise).clamp(-1.0, 1.0).masked_fill(~seen.avail_after, 0.0)

    def fits(self, seen: Seen, y: Tensor) -> list[Fit]:
        pairs = zip(self.judges, ("loss", "twin_loss"), strict=False)
        return [Fit(mixer, critics, {name: Goal(y)}) for (critics, mixer), name in pairs]

    def ascents(self, seen: Seen) -> list[Ascent]:
        noise = None if seen.spec.box else seen.uniform(seen.spec.n_agents, seen.spec.n_actions)
        temperature = self.config.facmac.temperature
        actions = partial(present, avail=seen.avail_now, uniform=noise, temperature=temperature)
        return [Ascent("mixer", "critics", "agents", actions, self.config.facmac.action_penalty)]

    def decides(
        self, spec: EnvSpec, networks: Mapping[str, nn.Module], x: Tensor, avail: Tensor
    ) -> tuple[Tensor, Tensor]:
        actions = decision(spec, networks["agents"](x)[0], avail)
        critics, given = cast(CriticNets, networks["critics"]), encoded(spec, actions)
        memory = critics(x)[0]
        values = critics.value(memory.flatten(0, 1), given.flatten(0, 1), [memory[..., 0, 0].numel()])
        return actions, values.view(memory.shape[:-1])

    def passes(self, n_agents: int, n_actions: int) -> Passes:
        """Actors: online 1 + backward 2 + target 1. Critics and mixer: the fit's 3, the target's 1, and the climb's
        forward 1 and backward to the actions 1. The climb reads the fit's memory again: counted as a whole pass. Twins
        are not climbed."""
        twin = 4 if self.config.facmac.twin else 0
        return Passes(agents=4, critics=6, mixer=6, twin_critics=twin, twin_mixer=twin, reduced=0)


def decision(spec: EnvSpec, out: Tensor, avail: Tensor) -> Tensor:
    """What actors do without exploration: out, avail [...,N,A] -> actions as environments step them."""
    return (greedy if spec.box is None else squashed)(out, avail)


def present(out: Tensor, avail: Tensor, uniform: Tensor | None, temperature: float) -> Tensor:
    """What critics read of actors whose gradient is asked for: out, avail [...,N,A] -> [...,N,A].

    Components are squashed. uniform [...,N,A] in [0, 1): out are preferences among available choices; the one-hot of
    argmax(out + Gumbel noise), whose gradient is that of the softmax of the same at `temperature`.
    """
    if uniform is None:
        return squashed(out, avail)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1.0 - 1e-7)))
    soft = torch.softmax(((out + gumbel) / temperature).masked_fill(~avail, -torch.inf), -1)
    hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard + soft - soft.detach()
