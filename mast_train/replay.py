"""Episode replay: a FIFO of whole episodes, and the paper's two buffers as two windows on it.

Every episode enters both the large buffer B1 and the small buffer B2 of the newest episodes (paper, section 4.3), so
B2 is always a suffix of B1: it needs no storage of its own.
"""

from __future__ import annotations

import torch

from mast_train.config import ReplayConfig
from mast_train.envs.base import EnvSpec
from mast_train.episodes import EpisodeBatch
from mast_train.errors import UserError

_FIELDS = ("obs", "state", "avail_actions", "actions", "reward")


class EpisodeBuffer:
    """The newest `capacity` episodes. Memory is reserved, but the system commits only what episodes really fill."""

    def __init__(self, config: ReplayConfig, spec: EnvSpec, device: torch.device) -> None:
        self.config, self.device = config, device
        capacity, t = config.capacity, spec.episode_limit
        n, a = spec.n_agents, spec.n_actions
        try:
            self._data = {
                "obs": torch.empty(capacity, t + 1, n, spec.obs_dim, device=device),
                "state": torch.empty(capacity, t + 1, spec.state_dim, device=device),
                "avail_actions": torch.empty(capacity, t + 1, n, a, dtype=torch.bool, device=device),
                "actions": torch.empty(capacity, t, n, dtype=torch.int64, device=device),
                "reward": torch.empty(capacity, t, device=device),
            }
        except RuntimeError as error:
            steps = capacity * (t + 1) / 1e9
            size = steps * (4 * n * spec.obs_dim + 4 * spec.state_dim + n * spec.n_actions + 8 * n + 4)
            raise UserError(
                f"replay.capacity = {capacity}: so many of {spec.map} need up to {size:.0f} GB, more than this "
                f"machine has; try --set replay.capacity={max(config.batch, capacity // 4)}"
            ) from error
        self._length = torch.zeros(capacity, dtype=torch.int64)
        self._terminated = torch.zeros(capacity, dtype=torch.bool)
        self._next = 0
        self.size = 0

    def add(self, batch: EpisodeBatch) -> None:
        """Append the episodes in order, dropping the oldest. Raises ValueError for an episode without transitions."""
        lengths = batch.lengths.cpu()
        if int(lengths.min()) < 1:
            raise ValueError("an episode without transitions cannot be stored")
        terminated = batch.terminated.any(1).cpu()
        for i, length in enumerate(lengths.tolist()):
            slot = self._next
            for name in _FIELDS:
                steps = length if name in ("actions", "reward") else length + 1
                self._data[name][slot, :steps] = getattr(batch, name)[i, :steps]
            self._length[slot], self._terminated[slot] = length, terminated[i]
            self._next = (slot + 1) % self.config.capacity
            self.size = min(self.size + 1, self.config.capacity)

    def can_sample(self) -> bool:
        """True once a whole batch of different episodes is there."""
        return self.size >= self.config.batch

    def sample(self, generator: torch.Generator) -> EpisodeBatch:
        """batch - recent_batch episodes of all, recent_batch of the newest recent_capacity; no repeats within either.

        The share of the recent buffer follows the paper's b1:b2 (section 4.3).
        """
        recent = self.config.recent_batch
        newest = min(self.size, self.config.recent_capacity)
        ages = [torch.randperm(self.size, generator=generator)[: self.config.batch - recent]]
        if recent:
            repeat = newest < recent
            ages.append(
                torch.randint(newest, (recent,), generator=generator)
                if repeat
                else torch.randperm(newest, generator=generator)[:recent]
            )
        return self.gather(torch.cat(ages))

    def gather(self, ages: torch.Tensor) -> EpisodeBatch:
        """The episodes that many additions old (0: the newest) as one padded batch."""
        slots = (self._next - 1 - ages) % self.config.capacity
        length = self._length[slots]
        t = int(length.max())
        index, data = slots.to(self.device), {}
        for name in _FIELDS:
            steps = t if name in ("actions", "reward") else t + 1
            data[name] = self._data[name][:, :steps][index]
        length = length.to(self.device)
        step = torch.arange(t + 1, device=self.device)
        filled = step[:t] < length[:, None]
        ended = step[:t] == length[:, None] - 1
        terminated = ended & self._terminated[slots].to(self.device)[:, None]
        padding = step > length[:, None]
        data["avail_actions"] |= padding[:, :, None, None]
        data["actions"] *= filled[:, :, None]
        data["reward"] = torch.where(filled, data["reward"], 0.0)
        for name in ("obs", "state"):
            data[name].masked_fill_(padding.view(*padding.shape, *[1] * (data[name].ndim - 2)), 0.0)
        return EpisodeBatch(**data, terminated=terminated, truncated=ended & ~terminated, filled=filled)

    def drop_oldest(self, n: int) -> None:
        """Forget the n oldest episodes (never below one batch)."""
        self.size = max(min(self.size, self.config.batch), self.size - n)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Filled steps only, oldest episode first: flat tensors, lengths and flags."""
        slots = (self._next - self.size + torch.arange(self.size)) % self.config.capacity
        length = self._length[slots]
        state = {"length": length, "terminated": self._terminated[slots]}
        for name in _FIELDS:
            extra = 0 if name in ("actions", "reward") else 1
            parts = [self._data[name][slot, : int(n) + extra] for slot, n in zip(slots, length, strict=True)]
            state[name] = torch.cat(parts) if parts else self._data[name][:0].flatten(0, 1)
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Replace the contents. Raises ValueError when the episodes do not fit this buffer."""
        lengths = state["length"].tolist()
        if len(lengths) > self.config.capacity or any(n > self._data["reward"].shape[1] for n in lengths):
            raise ValueError(f"{len(lengths)} episodes of up to {max(lengths)} steps do not fit this replay buffer")
        for name in _FIELDS:
            extra = 0 if name in ("actions", "reward") else 1
            parts = torch.split(state[name].to(self.device), [n + extra for n in lengths])
            for slot, part in enumerate(parts):
                self._data[name][slot, : part.shape[0]] = part
        self.size = len(lengths)
        self._length[: self.size], self._terminated[: self.size] = state["length"], state["terminated"]
        self._next = self.size % self.config.capacity
