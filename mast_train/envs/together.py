"""The environments of several seeds as one: equal parts, one after another, each drawing from its own random stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mast_train.envs.base import Observation, Stepped, Transition, VecEnv, check_any_actions
from mast_train.envs.smax import SmaxEnv, SmaxTogether


def together(envs: Sequence[VecEnv], places: int) -> Stepped:
    """Environments of one map and size. places: how many there were at first; a program compiled for them serves fewer.

    Episodes are what each would play alone. The random streams stay with `envs`: it is theirs that are saved.
    """
    if len(envs) == 1:
        return envs[0]
    battles = [env for env in envs if isinstance(env, SmaxEnv)]
    return SmaxTogether(battles, places) if len(battles) == len(envs) else InTurn(envs)


class InTurn:
    """Environments stepped one after another. One in which every episode is over is not stepped again until `reset`."""

    def __init__(self, envs: Sequence[VecEnv]) -> None:
        self._envs, first = list(envs), envs[0]
        self.spec, self.device, self._each = first.spec, first.device, first.num_envs
        self.num_envs = len(envs) * self._each
        self._last: list[Transition | None] = []

    def reset(self) -> Observation:
        """Start fresh episodes everywhere."""
        self._last = [None] * len(self._envs)
        return _joined([env.reset() for env in self._envs])

    def step(self, actions: Tensor) -> Transition:
        """actions [E,N] or [E,N,A] of all. Raises ValueError for a wrong shape, and before `reset`."""
        check_any_actions(actions, self.num_envs, self.spec)
        if not self._last:
            raise ValueError("step was called before reset")
        last = [
            env.step(own) if before is None or not _over(before) else _repeated(before)
            for env, before, own in zip(self._envs, self._last, actions.split(self._each), strict=True)
        ]
        self._last = [*last]
        won = [each.won for each in last if each.won is not None]
        return Transition(
            _joined([each.next for each in last]),
            torch.cat([each.reward for each in last]),
            torch.cat([each.terminated for each in last]),
            torch.cat([each.truncated for each in last]),
            torch.cat(won) if len(won) == len(last) else None,
        )


def _over(transition: Transition) -> bool:
    return bool((transition.terminated | transition.truncated).all())


def _repeated(transition: Transition) -> Transition:
    return replace(transition, reward=torch.zeros_like(transition.reward))


def _joined(parts: Sequence[Observation]) -> Observation:
    return Observation(
        torch.cat([part.obs for part in parts]),
        torch.cat([part.state for part in parts]),
        torch.cat([part.avail_actions for part in parts]),
    )
