"""What one environment shows its team, in numpy: environments that are stepped one by one are stacked from these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Frame(NamedTuple):
    """One episode after a reset or a step: obs [N,O] and state [S] float32, avail_actions [N,A] bool."""

    obs: np.ndarray
    state: np.ndarray
    avail_actions: np.ndarray
