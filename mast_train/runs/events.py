"""What a training loop tells its surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """After a round of episodes and its updates. seconds: time spent so far on environment, acting and learning.

    With train.overlap these run at once: they add up to more than the time that passed, and include the round ahead.
    Of several seeds trained together each has an equal share. Around a GPU they are the host's: waiting for the device
    counts where it happens.
    """

    step: int
    updates: int
    epsilon: float
    metrics: dict[str, float]
    seconds: dict[str, float]


@dataclass
class Evaluation:
    """Greedy decentralised episodes. return_mean is undiscounted and in the learner's reward scale.

    wins and win_rate are None where no episode says whether it was won.
    value_estimate, value_realised: what the online networks expected of these episodes at their first step, and their
    discounted return; means, None where there is no mixer at hand. A truncated episode realises less than it was worth.
    """

    step: int
    episodes: int
    wins: int | None
    return_mean: float
    length_mean: float
    value_estimate: float | None = None
    value_realised: float | None = None

    @property
    def win_rate(self) -> float | None:
        return None if self.wins is None else self.wins / self.episodes


@dataclass
class Saved:
    """A resumable checkpoint is on the disk. reason: "interval", "interrupted" or "finished"."""

    step: int
    path: Path
    reason: str


Event = Progress | Evaluation | Saved


@dataclass
class Clock:
    environment: float = 0.0
    acting: float = 0.0
    learning: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return {"environment": self.environment, "acting": self.acting, "learning": self.learning}
