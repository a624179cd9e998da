"""How the agents of a PettingZoo environment act: by choices, Discrete(n) each, or continuously, a Box each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mast_train.envs.box import Box
from mast_train.settings.errors import UserError

EXPECTED = "expected Discrete(n), or a Box of floating-point numbers, for every agent"


class Acts:
    """counts: each agent's choices, or components. box: the bounds of components; None: choices."""

    def __init__(self, label: str, agents: Sequence[Any], spaces: Sequence[Any]) -> None:
        """label: what errors call the environment. Raises UserError for other spaces, a mixed team, and bounds that
        are infinite or without width."""
        kinds = [_kind(space) for space in spaces]
        for agent, space, kind in zip(agents, spaces, kinds, strict=True):
            if not kind:
                raise UserError(f"{label}: agent {agent!r} acts in {space}, {EXPECTED}")
        if len(set(kinds)) > 1:
            other = kinds.index(next(kind for kind in kinds if kind != kinds[0]))
            raise UserError(
                f"{label}: agent {agents[0]!r} acts in {spaces[0]} and agent {agents[other]!r} in {spaces[other]}: a "
                "team whose actions are partly continuous cannot be trained; make them all Discrete or all Box"
            )
        self._spaces, self.box = list(spaces), None
        if kinds[0] == "box":
            names = [str(agent) for agent in agents]
            self.box = Box.of(label, names, [space.low for space in spaces], [space.high for space in spaces])
            self.counts = [len(own) for own in self.box.low]
        else:
            self.counts = [int(space.n) for space in spaces]

    def given(self, index: int, action: Any) -> Any:
        """What the environment gets of an agent: a choice from its first on, or its components [its shape] within their
        bounds; action: a number, or components in [-1, 1], padding included."""
        space = self._spaces[index]
        if self.box is None:
            return int(getattr(space, "start", 0)) + action
        low, high = (side[index, : self.counts[index]] for side in self.box.padded)
        share = 0.5 * (np.asarray(action[: self.counts[index]], np.float64) + 1.0)
        return np.clip(low + share * (high - low), low, high).astype(space.dtype).reshape(space.shape)


def _kind(space: Any) -> str:
    """ "discrete", "box", or "" for what no policy here acts in."""
    if isinstance(getattr(space, "n", None), (int, np.integer)) and getattr(space, "shape", ()) == ():
        return "discrete"
    floats = np.issubdtype(getattr(space, "dtype", None) or np.int64, np.floating)
    return "box" if hasattr(space, "low") and hasattr(space, "high") and floats else ""
