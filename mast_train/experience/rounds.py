"""Rounds of one episode in every environment of several seeds: step by step, or SMAX's as one compiled program.

Which of the two is decided here. Letters as in envs/base.py, and K seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

import torch
from torch import Tensor

from mast_train.envs.base import VecEnv
from mast_train.envs.smax import SmaxEnv, SmaxRounds
from mast_train.envs.together import together
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.exploration import Exploration
from mast_train.experience.rollout import Actor, AgentPolicy, Rollouts, crop, rollouts, too_many
from mast_train.experience.scaling import Scaling
from mast_train.networks.agents import AgentNets
from mast_train.networks.build import agent_inputs
from mast_train.networks.heads import head
from mast_train.settings.config import Config

Inputs = Callable[[Tensor, Tensor | None], Tensor]


class Rounds:
    """Rounds in environments of one map and size. Episodes are what each seed would play alone; the random streams stay
    with the environments and with the explorations."""

    def __init__(self, envs: Sequence[VecEnv], places: int, config: Config) -> None:
        """places: how many seeds there were at first; a program compiled for them serves fewer."""
        self._envs, self._stepped = list(envs), together(envs, places)
        self._config, self._inputs = config, partial(agent_inputs, config, self._stepped.spec)
        battles = [env for env in envs if isinstance(env, SmaxEnv) and env.compiled_rounds]
        self._program: SmaxRounds | None = None
        if len(battles) == len(envs):
            self._program = SmaxRounds(battles, places, config.net.last_action, config.net.shared)
        self.acting = 0.0
        """Seconds of the last round that decisions took; 0.0 where they are part of a program."""

    def at_once(self, actor: Actor) -> bool:
        """Whether this actor's rounds are one program, which takes as long for one seed as for all of its places."""
        return self._program is not None and isinstance(actor, AgentNets) and actor.recurrent

    def play(self, actor: Actor, exploration: Sequence[Exploration] = (), scaling: Scaling | None = None) -> Rollouts:
        """One round of each seed. exploration: of each; none: greedy. scaling: of what the actor sees, not of what is
        recorded. Raises UserError for more than memory holds.

        Networks that run in C act step by step. In a program a seed with epsilon above 0 draws, for all steps that its
        map allows, E x N x (1 + A) numbers.
        """
        if self.at_once(actor):
            self.acting = 0.0
            try:
                return self._compiled(actor, exploration, scaling)
            except RuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, torch.OutOfMemoryError):
                    raise
                raise too_many(self._stepped.spec, self._stepped.num_envs, self._stepped.device) from error
        decide = head(self._config, self._stepped.spec, actor)
        policy = AgentPolicy(actor, _scaled(self._inputs, scaling), exploration, decide)
        played = rollouts(self._stepped, policy, len(self._envs))
        self.acting = policy.seconds
        return played

    def _compiled(self, nets: Actor, exploration: Sequence[Exploration], scaling: Scaling | None) -> Rollouts:
        program = self._program
        assert program is not None and isinstance(nets, AgentNets)
        epsilons = [own.epsilon for own in exploration] or [0.0] * len(self._envs)
        weights: dict[str, Tensor] = dict(nets.named_parameters())
        if scaling is not None:
            first = scaling.fold(weights["fc1_weight"], weights["fc1_bias"])
            weights["fc1_weight"], weights["fc1_bias"] = first
        recorded, steps = program.play(weights, epsilons, self._noise(exploration))
        whole = {field.name: getattr(recorded, field.name).flatten(0, 1) for field in fields(EpisodeBatch)}
        whole["actions"] = whole["actions"].long()
        return Rollouts(crop(EpisodeBatch(**whole), max(steps)), recorded.won.flatten(), steps)

    def _noise(self, exploration: Sequence[Exploration]) -> Tensor:
        """Numbers in [0, 1) [K,T,E,N,1+A], each seed's from its own stream."""
        spec, each = self._stepped.spec, self._envs[0].num_envs
        shape = (len(self._envs), spec.episode_limit, each, spec.n_agents, 1 + spec.n_actions)
        noise = torch.zeros(shape, device=self._stepped.device)
        for own, each in zip(noise, exploration, strict=False):
            if each.epsilon > 0.0:
                own.uniform_(generator=each.generator)
        return noise


def _scaled(inputs: Inputs, scaling: Scaling | None) -> Inputs:
    """`inputs` of observations that are scaled first."""
    if scaling is None:
        return inputs
    return lambda obs, last_action: inputs(scaling.observed(obs), last_action)
