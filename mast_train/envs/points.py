"""A small continuous game with a known optimum: a robot in the plane and one on a rail come together.

Letters as in base.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec, Observation, Transition, check_any_actions
from mast_train.envs.box import Box
from mast_train.envs.scene import Circle, Line, Scene
from mast_train.settings.errors import check_choice

STEPS = 8
BOX = Box(((-0.25, -0.25), (-0.1,)), ((0.25, 0.25), (0.3,)))
"""Velocities: along and across the rail; along the rail, faster to the right than to the left."""
NEAR = 0.05
"""The L1 distance at the end that counts as together."""


class PointsEnv:
    """E copies. The reward of a step is minus the L1 distance after it; an episode is STEPS long and terminates.

    The rover is at (x, y) in [-1, 1]^2, the trolley at (z, 0), drawn uniformly. Both see x, y, z and the time left.
    `optimum` is the best return of the episodes as they begin: either closes the gap as fast as it can.
    """

    def __init__(self, map_name: str, num_envs: int, seed: int, device: torch.device) -> None:
        """Raises UserError for an unknown map."""
        check_choice("points map", map_name, self.maps())
        self.spec = EnvSpec("points", map_name, 2, 4, 4, BOX.width, STEPS, ("rover", "trolley"), box=BOX)
        self.num_envs, self.device = num_envs, device
        self._random = torch.Generator().manual_seed(seed)
        self._avail = torch.from_numpy(BOX.has).to(device).expand(num_envs, -1, -1)
        self._time = STEPS

    @staticmethod
    def maps() -> tuple[str, ...]:
        """The one game."""
        return ("meet",)

    def reset(self) -> Observation:
        """Start E episodes, each from places drawn from the environment's own stream."""
        self._at = (2.0 * torch.rand(self.num_envs, 3, generator=self._random) - 1.0).to(self.device)
        self._time = 0
        return self._seen()

    def step(self, actions: Tensor) -> Transition:
        """actions [E,2,2] in [-1, 1]. Raises ValueError for a wrong shape, UserError for one that is not a number."""
        check_any_actions(actions, self.num_envs, self.spec)
        over = self._time >= STEPS
        if not over:
            moves = torch.from_numpy(BOX.bounded(actions.cpu().numpy())).float().to(self.device)
            self._at = self._at + torch.stack([moves[:, 0, 0], moves[:, 0, 1], moves[:, 1, 0]], 1)
            self._time += 1
        distance = self._distance()
        ended = torch.full((self.num_envs,), self._time >= STEPS, device=self.device)
        reward = torch.zeros_like(distance) if over else -distance
        return Transition(self._seen(), reward, ended, torch.zeros_like(ended), ended & (distance < NEAR))

    def optimum(self) -> Tensor:
        """The best return from here on [E], before the first step."""
        across, along = self._at[:, 1].abs(), self._at[:, 2] - self._at[:, 0]
        speed = 0.25 + torch.where(along > 0, 0.1, 0.3)
        t = torch.arange(1, STEPS + 1, device=self.device).unsqueeze(1)
        return -((across - 0.25 * t).clamp(min=0.0) + (along.abs() - speed * t).clamp(min=0.0)).sum(0)

    def state_dict(self) -> dict[str, Any]:
        """The generator that draws where they begin."""
        return {"random": self._random.get_state().tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.set_state(torch.tensor(state["random"], dtype=torch.uint8))

    def picture(self) -> Scene:
        """The first copy: the rail, the trolley on it, the rover."""
        x, y, z = self._at[0].tolist()
        shapes = (
            Line((-3.0, 0.0), (3.0, 0.0), (200, 200, 195), 0.02),
            Circle((z, 0.0), 0.12, (214, 126, 44), "1"),
            Circle((x, y), 0.12, (40, 100, 200), "0"),
        )
        return Scene(shapes, corners=((-1.5, -1.2), (1.5, 1.2)))

    def close(self) -> None:
        """Nothing to release."""

    def _distance(self) -> Tensor:
        x, y, z = self._at.unbind(1)
        return (x - z).abs() + y.abs()

    def _seen(self) -> Observation:
        left = torch.full((self.num_envs, 1), 1.0 - self._time / STEPS, device=self.device)
        state = torch.cat([self._at, left], 1)
        return Observation(state.unsqueeze(1).expand(-1, 2, -1), state, self._avail)
