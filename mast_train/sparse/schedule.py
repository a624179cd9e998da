"""When the topology changes, and by which fraction."""

from __future__ import annotations

import math


def drop_fraction(progress: float, initial: float, stop: float) -> float:
    """zeta_t = zeta_0 / 2 (1 + cos(pi t / T_end)) (RigL, Evci et al. 2020, section 3), 0 from T_end on.

    progress: share of the run in [0, 1]; stop: T_end as a share of the run.
    """
    if progress >= stop:
        return 0.0
    return 0.5 * initial * (1.0 + math.cos(math.pi * progress / stop))


def evolves_at(update: int, interval: int, progress: float, stop: float) -> bool:
    """True at every `interval`-th learner update (counted from 1) before the end of evolution."""
    return update % interval == 0 and progress < stop
