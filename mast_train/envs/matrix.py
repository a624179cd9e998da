"""Small cooperative games with a known optimum, as tables: two agents, one or a few steps, microseconds each.

Letters as in base.py, and K states, J = A * A joint actions (joint = a0 * A + a1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mast_train.envs.base import EnvSpec, Observation, Transition, check_actions
from mast_train.settings.errors import check_choice

N_AGENTS = 2
END = -1


@dataclass(frozen=True)
class Game:
    """One game as tables. An episode starts in one of `starts`, drawn uniformly, and stops where `next` is END.

    obs [K,N,O] float32, avail_actions [K,N,A] bool, reward [K,J] float32, next [K,J] int64, horizon in steps.
    The world state is the one-hot of K.
    """

    starts: tuple[int, ...]
    obs: torch.Tensor
    avail_actions: torch.Tensor
    reward: torch.Tensor
    next: torch.Tensor
    horizon: int


def _one_step(payoff: list[list[float]]) -> Game:
    reward = torch.tensor(payoff)
    n_actions = reward.shape[0]
    return Game(
        starts=(0,),
        obs=torch.ones(1, N_AGENTS, 1),
        avail_actions=torch.ones(1, N_AGENTS, n_actions, dtype=torch.bool),
        reward=reward.reshape(1, -1),
        next=torch.full((1, n_actions * n_actions), END),
        horizon=1,
    )


def climbing() -> Game:
    """The climbing game: the optimum is surrounded by penalties, so no monotonic mixer represents it.

    Source: Claus and Boutilier, The Dynamics of Reinforcement Learning in Cooperative Multiagent Systems, AAAI 1998.
    """
    return _one_step([[11.0, -30.0, 0.0], [-30.0, 7.0, 6.0], [0.0, 0.0, 5.0]])


def coordination() -> Game:
    """A monotonic game, payoff (a0 + 1)(a1 + 1): each agent's best action is best whatever the other does.

    QMIX represents it; VDN does not represent the values but finds the best joint action.
    """
    return _one_step([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, 6.0, 9.0]])


def two_step() -> Game:
    """Agent 0's first action picks the second game: always 7, or [[0, 1], [1, 8]]. QMIX reaches 8, VDN only 7.

    Both agents observe the state. Source: Rashid et al., QMIX, ICML 2018, the two-step game.
    """
    return Game(
        starts=(0,),
        obs=torch.eye(3).unsqueeze(1).repeat(1, N_AGENTS, 1),
        avail_actions=torch.ones(3, N_AGENTS, 2, dtype=torch.bool),
        reward=torch.tensor([[0.0, 0.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0], [0.0, 1.0, 1.0, 8.0]]),
        next=torch.tensor([[1, 1, 2, 2], [END] * 4, [END] * 4]),
        horizon=2,
    )


def recall() -> Game:
    """Each agent sees its own cue at t = 0, nothing at t = 1, and must name the cue at t = 2, for 1/2 each.

    Actions: 0 wait, 1 and 2 the two cues. Only waiting is available before t = 2, so the last action cannot carry the
    cue: an agent without memory earns 1/2 on average. State = 4 * t + 2 * cue0 + cue1; obs = cue one-hot ++ t one-hot.
    """
    steps, cues = 3, 2
    n_states = steps * cues**N_AGENTS
    obs = torch.zeros(n_states, N_AGENTS, cues + steps)
    avail = torch.zeros(n_states, N_AGENTS, 1 + cues, dtype=torch.bool)
    reward = torch.zeros(n_states, (1 + cues) ** N_AGENTS)
    following = torch.full_like(reward, END, dtype=torch.int64)
    for state in range(n_states):
        t, cue = state // 4, (state // 2 % 2, state % 2)
        obs[state, :, cues + t] = 1.0
        if t == 0:
            obs[state, [0, 1], list(cue)] = 1.0
        if t < steps - 1:
            avail[state, :, 0] = True
            following[state] = state + 4
        else:
            avail[state, :, 1:] = True
            for joint in range(reward.shape[1]):
                reward[state, joint] = 0.5 * (joint // 3 == 1 + cue[0]) + 0.5 * (joint % 3 == 1 + cue[1])
    return Game(tuple(range(4)), obs, avail, reward, following, steps)


def masked() -> Game:
    """Two steps in which the available actions differ by agent and time; the reward is the sum of the two actions.

    Available at t = 0: {0} and {1, 2}; at t = 1: {1, 2} and {0, 3}. The optimum is 0 + 2, then 2 + 3.
    """
    avail = torch.zeros(2, N_AGENTS, 4, dtype=torch.bool)
    for t, agent, actions in ((0, 0, [0]), (0, 1, [1, 2]), (1, 0, [1, 2]), (1, 1, [0, 3])):
        avail[t, agent, actions] = True
    values = torch.arange(4.0)
    return Game(
        starts=(0,),
        obs=torch.eye(2).unsqueeze(1).repeat(1, N_AGENTS, 1),
        avail_actions=avail,
        reward=(values[:, None] + values).reshape(1, -1).repeat(2, 1),
        next=torch.tensor([[1] * 16, [END] * 16]),
        horizon=2,
    )


GAMES: dict[str, Callable[[], Game]] = {
    "climbing": climbing,
    "coordination": coordination,
    "two_step": two_step,
    "recall": recall,
    "masked": masked,
}
OPTIMAL_RETURN = {"climbing": 11.0, "coordination": 9.0, "two_step": 8.0, "recall": 1.0, "masked": 7.0}


class MatrixEnv:
    """E copies of one game. `won` is the optimal return attained; nothing is ever truncated.

    A row is appended to every table for the finished episode: it observes zeros, offers every action, pays 0 and
    leads to itself, which is what freezes a finished environment.
    """

    def __init__(self, map_name: str, num_envs: int, seed: int, device: torch.device) -> None:
        """Raises UserError for an unknown map."""
        check_choice("matrix map", map_name, GAMES)
        game = GAMES[map_name]()
        n_states, _, n_actions = game.avail_actions.shape
        self.spec = EnvSpec(
            env="matrix",
            map=map_name,
            n_agents=N_AGENTS,
            obs_dim=game.obs.shape[-1],
            state_dim=n_states,
            n_actions=n_actions,
            episode_limit=game.horizon,
            agent_types=("agent",) * N_AGENTS,
        )
        self.num_envs, self.device = num_envs, device
        self._rng = np.random.default_rng(seed)
        self._starts, self._end = np.array(game.starts), n_states
        self._obs = _append(game.obs, 0.0).to(device)
        self._state = _append(torch.eye(n_states), 0.0).to(device)
        self._avail = _append(game.avail_actions, True).to(device)
        self._reward = _append(game.reward, 0.0).to(device)
        self._next = _append(torch.where(game.next == END, n_states, game.next), n_states).to(device)
        self._optimum = OPTIMAL_RETURN[map_name] - 1e-6
        self._at = torch.full((num_envs,), self._end, device=device)
        self._returns = torch.zeros(num_envs, device=device)

    @staticmethod
    def maps() -> tuple[str, ...]:
        """The games."""
        return tuple(GAMES)

    def reset(self) -> Observation:
        """Start E episodes, each from a start state drawn uniformly."""
        starts = self._starts[self._rng.integers(len(self._starts), size=self.num_envs)]
        self._at = torch.from_numpy(starts).to(self.device)
        self._returns = torch.zeros(self.num_envs, device=self.device)
        return self._observe()

    def step(self, actions: torch.Tensor) -> Transition:
        """actions [E,N] int64. Raises ValueError for a wrong shape or an action that is not available."""
        check_actions(actions, self.num_envs, N_AGENTS)
        if not self._avail[self._at].gather(2, actions.unsqueeze(2)).all():
            raise ValueError(f"an action in {actions.tolist()} is not available, see avail_actions")
        joint = actions[:, 0] * self.spec.n_actions + actions[:, 1]
        reward = self._reward[self._at, joint]
        self._at = self._next[self._at, joint]
        self._returns = self._returns + reward
        terminated = self._at == self._end
        won = terminated & (self._returns >= self._optimum)
        return Transition(self._observe(), reward, terminated, torch.zeros_like(terminated), won)

    def state_dict(self) -> dict[str, Any]:
        """The generator that draws the start states."""
        return {"generator": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["generator"]

    def picture(self) -> None:
        """A table has no picture."""

    def close(self) -> None:
        """Nothing to release."""

    def _observe(self) -> Observation:
        return Observation(self._obs[self._at], self._state[self._at], self._avail[self._at])


def _append(table: torch.Tensor, value: float | bool) -> torch.Tensor:
    return torch.cat([table, torch.full_like(table[:1], value)])
