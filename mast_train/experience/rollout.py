"""Environments and agents to whole episodes, of one seed or of several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec, Observation, Stepped
from mast_train.experience.episodes import OBSERVED, EpisodeBatch
from mast_train.experience.transfer import Flags
from mast_train.settings.errors import UserError

Policy = Callable[[int, Observation, Sequence[bool]], Tensor]
"""(step index, observation of E environments, which seeds still play) -> actions [E,N] int64, each available.

Step 0 starts an episode. The environments of several seeds are in equal parts, one after another. Looking at which of
them play may wait for a device: what needs it comes last. Actions for nobody are ignored.
"""


@dataclass
class Rollout:
    """One episode per environment. won [E] bool (None: the environment does not say what winning is).

    returns [E] float, undiscounted, as the learner sees rewards.
    """

    episodes: EpisodeBatch
    won: Tensor | None
    returns: Tensor

    @property
    def steps(self) -> int:
        """Environment steps taken, summed over environments."""
        return int(self.episodes.filled.sum())

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors, for a safetensors file."""
        state = {name: tensor.contiguous() for name, tensor in vars(self.episodes).items()}
        return state | {"returns": self.returns} | ({} if self.won is None else {"won": self.won})

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], device: torch.device) -> Rollout:
        """What `state_dict` gave. Raises KeyError."""
        state = {name: tensor.to(device) for name, tensor in state.items()}
        episodes = EpisodeBatch(**{field.name: state[field.name] for field in fields(EpisodeBatch)})
        return cls(episodes, state.get("won"), state["returns"])


def rollout(env: Stepped, policy: Policy) -> Rollout:
    """Play one episode in every environment. Environments that finish early wait, unrecorded."""
    return rollouts(env, policy, 1)[0]


def rollouts(env: Stepped, policy: Policy, seeds: int) -> list[Rollout]:
    """`rollout` in the environments of several seeds at once; the result of each is as long as its own episodes."""
    storage = _allocate(env.spec, env.num_envs, env.device)
    observation = env.reset()
    _record(storage, 0, observation)
    over, won = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device), None
    t, ends = 0, [0] * seeds
    while True:
        playing = Flags(~over.view(seeds, -1).all(1))
        if playing.here and not any(playing):
            break
        actions = policy(t, observation, playing)
        if not any(playing):  # on a GPU seen only now: it had a decision to work on while the host waited
            break
        transition = env.step(actions)
        observation, won, over = transition.next, transition.won, transition.terminated | transition.truncated
        storage.actions[:, t] = actions
        for name in ("reward", "terminated", "truncated"):
            getattr(storage, name)[:, t] = getattr(transition, name)
        t += 1
        ends = [end + plays for plays, end in zip(playing, ends, strict=True)]
        _record(storage, t, observation)
    _blank_afterwards(_crop(storage, t))
    wins = [None] * seeds if won is None else won.clone().tensor_split(seeds)
    parts = zip(storage.split(seeds), wins, ends, strict=True)
    return [Rollout(_crop(part, end), won, part.reward[:, :end].sum(1)) for part, won, end in parts]


def random_policy(spec: EnvSpec, generator: torch.Generator) -> Policy:
    """Uniform over available actions: the floor every learned policy is compared with."""

    def act(_: int, observation: Observation, playing: Sequence[bool]) -> Tensor:
        avail = observation.avail_actions
        return random_actions(avail, generator) if any(playing) else avail.int().argmax(-1)

    return act


def random_actions(avail: Tensor, generator: torch.Generator) -> Tensor:
    """One uniformly random available action per row: avail [...,A] bool -> [...] int64."""
    noise = torch.rand(avail.shape, generator=generator, device=generator.device).to(avail.device)
    return noise.masked_fill(~avail, -1.0).argmax(-1)


def _allocate(spec: EnvSpec, e: int, device: torch.device) -> EpisodeBatch:
    """Room for e episodes; zeros where actions, rewards and flags go. Raises UserError for more than fits."""
    t, n, a = spec.episode_limit, spec.n_agents, spec.n_actions
    try:
        return EpisodeBatch(
            torch.empty(e, t + 1, n, spec.obs_dim, device=device),
            torch.empty(e, t + 1, spec.state_dim, device=device),
            torch.empty(e, t + 1, n, a, dtype=torch.bool, device=device),
            torch.zeros(e, t, n, dtype=torch.int64, device=device),
            torch.zeros(e, t, device=device),
            *(torch.zeros(e, t, dtype=torch.bool, device=device) for _ in range(3)),
        )
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
            raise
        size = 4 * e * (t + 1) * (n * spec.obs_dim + spec.state_dim) / 1e9
        raise UserError(
            f"{e:,} episodes at once of up to {t} steps of {spec.map} need {size:,.0f} GB on {device}, more than there "
            "is: lower env.num_envs"
        ) from error


def _blank_afterwards(episodes: EpisodeBatch) -> None:
    """Fill in `filled`, and take out in place what was recorded after an episode's end."""
    ended = episodes.terminated | episodes.truncated
    torch.eq(ended.cumsum(1), ended, out=episodes.filled)  # no end before this step
    episodes.terminated &= episodes.filled
    episodes.truncated &= episodes.filled
    episodes.reward.masked_fill_(~episodes.filled, 0.0)
    episodes.actions.masked_fill_(~episodes.filled.unsqueeze(-1), 0)


def _record(storage: EpisodeBatch, t: int, observation: Observation) -> None:
    storage.obs[:, t] = observation.obs
    storage.state[:, t] = observation.state
    storage.avail_actions[:, t] = observation.avail_actions


def _crop(storage: EpisodeBatch, t: int) -> EpisodeBatch:
    return EpisodeBatch(**{name: value[:, : t + (name in OBSERVED)] for name, value in vars(storage).items()})


class Actor(Protocol):
    """One decision of the networks: x [B,N,I], hidden [G,R,H] -> q [B,N,A], next hidden [G,R,H]."""

    def initial_hidden(self, batch: int, n_agents: int) -> Tensor: ...

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]: ...


class Exploration(NamedTuple):
    """The share of one seed's actions that are random, and the stream that they are drawn from."""

    epsilon: float
    generator: torch.Generator


class AgentPolicy:
    """Epsilon-greedy decisions of the agents' networks; keeps the recurrent state and last actions of an episode."""

    def __init__(
        self, agents: Actor, inputs: Callable[[Tensor, Tensor], Tensor], exploration: Sequence[Exploration] = ()
    ) -> None:
        """exploration: of each seed; none: greedy."""
        self._agents, self._inputs, self._exploration = agents, inputs, exploration
        self.seconds = 0.0

    @torch.no_grad()
    def __call__(self, t: int, observation: Observation, playing: Sequence[bool]) -> Tensor:
        started = time.perf_counter()
        avail = observation.avail_actions
        e, n, _ = avail.shape
        if t == 0:
            self._hidden = self._agents.initial_hidden(e, n)
            self._last = torch.full((e, n), -1, device=avail.device)
        q, self._hidden = self._agents.step(self._inputs(observation.obs, self._last), self._hidden)
        self._last = q.masked_fill(~avail, -torch.inf).argmax(-1)
        if self._exploration:
            each = e // len(playing)
            parts = zip(self._exploration, avail.split(each), self._last.split(each), playing, strict=True)
            # A seed whose episodes are over draws no more numbers: its stream goes on as it would without the others.
            self._last = torch.cat(
                [_explore(own, free, greedy) if plays else greedy for own, free, greedy, plays in parts]
            )
        self.seconds += time.perf_counter() - started
        return self._last


def _explore(exploration: Exploration, avail: Tensor, greedy: Tensor) -> Tensor:
    epsilon, generator = exploration
    if epsilon <= 0.0:
        return greedy
    explore = torch.rand(greedy.shape, generator=generator, device=generator.device).to(avail.device)
    return torch.where(explore < epsilon, random_actions(avail, generator), greedy)
