"""Environments and agents to whole episodes, of one seed or of several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec, Observation, Stepped, verdicts
from mast_train.experience.episodes import OBSERVED, EpisodeBatch
from mast_train.experience.exploration import Exploration, Explorer
from mast_train.experience.transfer import Flags
from mast_train.networks.heads import Head, greedy
from mast_train.settings.errors import UserError

Policy = Callable[[int, Observation, Sequence[bool]], Tensor]
"""(step index, observation of E environments, which seeds still play) -> actions as the environments step them.

Step 0 starts an episode. The environments of several seeds are in equal parts, one after another. Looking at which of
them play may wait for a device: what needs it comes last. Actions for nobody are ignored.
"""


@dataclass
class Rollout:
    """One episode per environment. won [E] bool (None: no episode says whether it was won).

    returns [E] float, undiscounted, as the learner sees rewards. says [E] bool: which episodes said whether they were
    won (None: all or, without `won`, none).
    """

    episodes: EpisodeBatch
    won: Tensor | None
    returns: Tensor
    says: Tensor | None = None

    @property
    def steps(self) -> int:
        """Environment steps taken, summed over environments."""
        return int(self.episodes.filled.sum())

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for a safetensors file."""
        state = {name: tensor.contiguous() for name, tensor in vars(self.episodes).items()}
        verdict = {"won": self.won, "says": self.says}
        return state | {"returns": self.returns} | {name: x for name, x in verdict.items() if x is not None}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], device: torch.device) -> Rollout:
        """What `state_dict` gave. Raises KeyError."""
        state = {name: tensor.to(device) for name, tensor in state.items()}
        episodes = EpisodeBatch(**{field.name: state[field.name] for field in fields(EpisodeBatch)})
        return cls(episodes, state.get("won"), state["returns"], state.get("says"))

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Which episodes were won, and which said so or not, each [E] bool."""
        return verdicts(self.won, self.says, self.returns.numel(), self.returns.device)


class Rollouts(Sequence[Rollout]):
    """One round of several seeds: each seed's Rollout, over episodes that lie together, the seeds in equal parts."""

    def __init__(
        self, episodes: EpisodeBatch, won: Tensor | None, ends: Sequence[int], says: Tensor | None = None
    ) -> None:
        """episodes: [B,...] of all. won, says: [B]. ends: the steps of each seed's longest episode."""
        self.episodes, self.won, self._ends, self._says = episodes, won, ends, says

    @classmethod
    def of(cls, alone: Rollout) -> Rollouts:
        """A round of one seed."""
        return cls(alone.episodes, alone.won, [alone.episodes.filled.shape[1]], alone.says)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        end = self._ends[index]  # IndexError ends an iteration
        each = len(self.episodes.filled) // len(self)
        own = slice(index % len(self) * each, (index % len(self) + 1) * each)
        episodes = crop(EpisodeBatch(**{name: tensor[own] for name, tensor in vars(self.episodes).items()}), end)
        won, says = (None if x is None else x[own] for x in (self.won, self._says))
        if says is not None and not says.any():
            won = None
        return Rollout(episodes, won, episodes.reward.sum(1), says)

    @cached_property
    def steps(self) -> list[int]:
        """Environment steps that each seed took."""
        return self.episodes.lengths.view(len(self), -1).sum(1).tolist()

    def means(self) -> list[dict[str, float]]:
        """For the log of each seed: the mean return, and the share of episodes won where any says so."""
        rewards = self.episodes.reward.cpu().tensor_split(len(self))
        rows = [
            {"train_return": float(own[:, :end].sum(1).mean())} for own, end in zip(rewards, self._ends, strict=True)
        ]
        verdict = verdicts(self.won, self._says, len(self.episodes.reward), self.episodes.reward.device)
        for row, won, says in zip(rows, *(x.cpu().tensor_split(len(self)) for x in verdict), strict=True):
            if says.any():
                row["train_win_rate"] = float(won.float().mean())
        return rows


def rollout(env: Stepped, policy: Policy) -> Rollout:
    """Play one episode in every environment. Environments that finish early wait, unrecorded."""
    return rollouts(env, policy, 1)[0]


def rollouts(env: Stepped, policy: Policy, seeds: int) -> Rollouts:
    """`rollout` in the environments of several seeds at once; the result of each is as long as its own episodes."""
    storage = _allocate(env.spec, env.num_envs, env.device)
    observation = env.reset()
    _record(storage, 0, observation)
    over, won, says = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device), None, None
    t, ends = 0, [0] * seeds
    while True:
        playing = Flags(~over.view(seeds, -1).all(1))
        if playing.here and not any(playing):
            break
        actions = policy(t, observation, playing)
        if not any(playing):  # on a GPU seen only now: it had a decision to work on while the host waited
            break
        transition = env.step(actions)
        observation, won, says = transition.next, transition.won, transition.says
        over = transition.terminated | transition.truncated
        storage.actions[:, t] = actions
        for name in ("reward", "terminated", "truncated"):
            getattr(storage, name)[:, t] = getattr(transition, name)
        t += 1
        ends = [end + plays for plays, end in zip(playing, ends, strict=True)]
        _record(storage, t, observation)
    episodes = crop(storage, t)
    _blank_afterwards(episodes)
    return Rollouts(episodes, None if won is None else won.clone(), ends, says)


def random_policy(spec: EnvSpec, generator: torch.Generator) -> Policy:
    """Uniform over available actions: the floor every learned policy is compared with."""

    def act(_: int, observation: Observation, playing: Sequence[bool]) -> Tensor:
        avail = observation.avail_actions
        if not any(playing):
            return torch.zeros_like(avail, dtype=torch.float32) if spec.box else avail.int().argmax(-1)
        if spec.box:
            return (2.0 * _uniform(avail, generator) - 1.0).masked_fill(~avail, 0.0)
        return random_actions(avail, generator)

    return act


def random_actions(avail: Tensor, generator: torch.Generator) -> Tensor:
    """One uniformly random available action per row: avail [...,A] bool -> [...] int64."""
    return _uniform(avail, generator).masked_fill(~avail, -1.0).argmax(-1)


def _uniform(avail: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1) of the same shape."""
    return torch.rand(avail.shape, generator=generator, device=generator.device).to(avail.device)


def _allocate(spec: EnvSpec, e: int, device: torch.device) -> EpisodeBatch:
    """Room for e episodes; zeros where actions, rewards and flags go. Raises UserError for more than fits."""
    t, n, a = spec.episode_limit, spec.n_agents, spec.n_actions
    try:
        return EpisodeBatch(
            torch.empty(e, t + 1, n, spec.obs_dim, device=device),
            torch.empty(e, t + 1, spec.state_dim, device=device),
            torch.empty(e, t + 1, n, a, dtype=torch.bool, device=device),
            torch.zeros(e, t, *spec.action_shape, dtype=spec.action_dtype, device=device),
            torch.zeros(e, t, device=device),
            *(torch.zeros(e, t, dtype=torch.bool, device=device) for _ in range(3)),
        )
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
            raise
        raise too_many(spec, e, device) from error


def too_many(spec: EnvSpec, e: int, device: torch.device) -> UserError:
    """What to say when e episodes do not fit."""
    t = spec.episode_limit
    size = 4 * e * (t + 1) * (spec.n_agents * spec.obs_dim + spec.state_dim) / 1e9
    return UserError(
        f"{e:,} episodes at once of up to {t} steps of {spec.map} need {size:,.0f} GB on {device}, more than there "
        "is: lower env.num_envs"
    )


def _blank_afterwards(episodes: EpisodeBatch) -> None:
    """Fill in `filled`, and take out in place what was recorded after an episode's end."""
    ended = episodes.terminated | episodes.truncated
    torch.eq(ended.cumsum(1), ended, out=episodes.filled)  # no end before this step
    episodes.terminated &= episodes.filled
    episodes.truncated &= episodes.filled
    episodes.reward.masked_fill_(~episodes.filled, 0.0)
    over = ~episodes.filled
    episodes.actions.masked_fill_(over.view(*over.shape, *[1] * (episodes.actions.dim() - 2)), 0)


def _record(storage: EpisodeBatch, t: int, observation: Observation) -> None:
    storage.obs[:, t] = observation.obs
    storage.state[:, t] = observation.state
    storage.avail_actions[:, t] = observation.avail_actions


def crop(storage: EpisodeBatch, t: int) -> EpisodeBatch:
    """The first t transitions."""
    return EpisodeBatch(**{name: value[:, : t + (name in OBSERVED)] for name, value in vars(storage).items()})


class Actor(Protocol):
    """One decision of the networks: x [B,N,I], hidden [G,R,H] -> q [B,N,A], or what else the run's head reads, and the
    next hidden [G,R,H]."""

    def initial_hidden(self, batch: int, n_agents: int) -> Tensor: ...

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]: ...


class AgentPolicy:
    """Decisions of the agents' networks, some of them explored; keeps the recurrent state and last actions of an
    episode."""

    def __init__(
        self,
        agents: Actor,
        inputs: Callable[[Tensor, Tensor | None], Tensor],
        exploration: Sequence[Exploration] = (),
        decide: Head = greedy,
    ) -> None:
        """exploration: of each seed; none: as the networks say. decide: what they say (networks/heads.py)."""
        self._agents, self._inputs, self._decide = agents, inputs, decide
        self._explore = Explorer(exploration)
        self.seconds = 0.0

    @torch.no_grad()
    def __call__(self, t: int, observation: Observation, playing: Sequence[bool]) -> Tensor:
        started = time.perf_counter()
        avail = observation.avail_actions
        e, n, _ = avail.shape
        if t == 0:
            self._hidden = self._agents.initial_hidden(e, n)
            self._last = None
        out, self._hidden = self._agents.step(self._inputs(observation.obs, self._last), self._hidden)
        self._last = self._explore(t, avail, self._decide(out, avail), playing)
        self.seconds += time.perf_counter() - started
        return self._last
