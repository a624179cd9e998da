"""Continuous actions: the bounds of every agent, and the way between them and [-1, 1].

Everything but an environment sees a component as a number in [-1, 1], from its lower to its upper bound. Letters: N
agents, A components of the agent that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mast_train.settings.errors import UserError

Bounds = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Box:
    """low, high: of every agent's components, in the environment's units."""

    low: Bounds
    high: Bounds

    @classmethod
    def of(cls, where: str, agents: Sequence[str], low: Sequence[np.ndarray], high: Sequence[np.ndarray]) -> Box:
        """The bounds of a team. where, agents: what errors call them. Raises UserError for bounds that are not finite
        or have no width."""
        for agent, lows, highs in zip(agents, low, high, strict=True):
            for k, (a, b) in enumerate(zip(lows.ravel().tolist(), highs.ravel().tolist(), strict=True)):
                if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(b - a)):
                    raise UserError(
                        f"{where}: component {k} of agent {agent!r}'s actions has the bounds [{a:g}, {b:g}], expected "
                        "finite ones: actions are scaled to them; give its Box a low and a high"
                    )
                if a >= b:
                    raise UserError(
                        f"{where}: component {k} of agent {agent!r}'s actions has the bounds [{a:g}, {b:g}], which "
                        "leave it no choice; give them a width, or take the component out of its Box"
                    )
            if not lows.size:
                raise UserError(f"{where}: agent {agent!r} has no actions: its Box has shape {lows.shape}")
        flat = [tuple(tuple(map(float, values.ravel().tolist())) for values in bounds) for bounds in (low, high)]
        return cls(*flat)

    def __str__(self) -> str:
        """The bounds of all components, in short."""
        pairs = [f"[{a:g}, {b:g}]" for a, b in zip(sum(self.low, ()), sum(self.high, ()), strict=True)]
        return " ".join(dict.fromkeys(pairs))

    @property
    def width(self) -> int:
        """A."""
        return max(map(len, self.low))

    @cached_property
    def has(self) -> np.ndarray:
        """Which components an agent has [N,A] bool."""
        return np.arange(self.width) < np.array([[len(own)] for own in self.low])

    @cached_property
    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """low, high [N,A] float64; -1 and 1 where an agent has no such component."""
        low, high = np.full(self.has.shape, -1.0), np.full(self.has.shape, 1.0)
        low[self.has], high[self.has] = np.concatenate(self.low), np.concatenate(self.high)
        return low, high

    def bounded(self, actions: np.ndarray) -> np.ndarray:
        """actions [...,N,A] in [-1, 1] to the environment's units float64; what is outside goes to the bound."""
        low, high = self.padded
        return np.clip(low + 0.5 * (np.asarray(actions, np.float64) + 1.0) * (high - low), low, high)


def box_of(given: dict | None) -> Box | None:
    """The Box that a header holds (dataclasses.asdict, through JSON)."""
    return None if given is None else Box(*(tuple(map(tuple, given[name])) for name in ("low", "high")))
