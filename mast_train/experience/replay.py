"""Episode replay: a FIFO of whole episodes, and the paper's two buffers as two windows on it.

Every episode enters both the large buffer B1 and the small buffer B2 of the newest episodes (paper, section 4.3), so
B2 is always a suffix of B1: it needs no storage of its own.

Steps are stored one to a row and episodes are lists of row numbers, so memory follows the steps that are kept, not the
longest episode that a map allows. Row 0 is the padding of every batch.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import OBSERVED, EpisodeBatch
from mast_train.experience.transfer import sent
from mast_train.settings.config import ReplayConfig
from mast_train.settings.errors import UserError


class EpisodeBuffer:
    """The newest `capacity` episodes. On a CPU address space is reserved, and memory used for what episodes fill."""

    def __init__(self, config: ReplayConfig, spec: EnvSpec, device: torch.device) -> None:
        """Raises UserError for a buffer that cannot be reserved."""
        self.config, self.device, self._map = config, device, spec.map
        capacity, length = config.capacity, spec.episode_limit + 1
        n, a = spec.n_agents, spec.n_actions
        shapes = {"obs": (n, spec.obs_dim), "state": (spec.state_dim,), "avail_actions": (n, a), "actions": (n,)}
        dtypes = {"avail_actions": torch.bool, "actions": torch.int64}
        self._row_bytes = 4 * n * spec.obs_dim + 4 * spec.state_dim + n * a + 8 * n + 4
        try:
            self._data = {
                name: _reserve(1 + capacity * length, shape, dtypes.get(name, torch.float32), device)
                for name, shape in {**shapes, "reward": ()}.items()
            }
        except (RuntimeError, OSError, OverflowError, ValueError) as error:
            raise self._too_large(capacity * length) from error
        for name, rows in self._data.items():
            rows[0] = name == "avail_actions"
        self._rows = torch.zeros(capacity, length, dtype=torch.int64)
        self._length = torch.zeros(capacity, dtype=torch.int64)
        self._terminated = torch.zeros(capacity, dtype=torch.bool)
        self._free = torch.empty(0, dtype=torch.int64)
        self._used = 1
        self._next = 0
        self.size = 0

    def add(self, batch: EpisodeBatch) -> None:
        """Append the episodes in order, dropping the oldest: one write a field, however many there are.

        Of more than `capacity` the newest are kept. Raises ValueError for an episode without transitions, UserError
        for more steps than the machine has memory for.
        """
        newest = slice(-self.config.capacity, None)
        ends = torch.stack([batch.lengths, batch.terminated.any(1).long()])[:, newest]
        lengths, terminated = ends.cpu()
        if int(lengths.min()) < 1:
            raise ValueError("an episode without transitions cannot be stored")
        steps = {}
        for name in self._data:
            values = getattr(batch, name)[newest]
            episode, step = _filled(lengths + (name in OBSERVED), values.shape[1]).nonzero().unbind(1)
            steps[name] = values[sent(episode, values.device), sent(step, values.device)]
        self._append(steps, lengths, terminated.bool())

    def can_sample(self) -> bool:
        """True once a whole batch of different episodes is there."""
        return self.size >= self.config.batch

    def sample(self, generator: torch.Generator) -> EpisodeBatch:
        """batch - recent_batch episodes of all, recent_batch of the newest recent_capacity; no repeats within either.

        The share of the recent buffer follows the paper's b1:b2 (section 4.3).
        """
        return self.gather(self.draw(generator))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Which episodes a sample takes: their ages [replay.batch], for `gather`."""
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
        return torch.cat(ages)

    def gather(self, ages: Tensor) -> EpisodeBatch:
        """The episodes that many additions old (0: the newest) as one padded batch."""
        return gather([self], [ages])

    def _slots(self, ages: Tensor) -> Tensor:
        return (self._next - 1 - ages) % self.config.capacity

    def _oldest(self, n: int) -> Tensor:
        """The slots of the n oldest episodes, the oldest first."""
        return (self._next - self.size + torch.arange(n)) % self.config.capacity

    def drop_oldest(self, n: int) -> None:
        """Forget the n oldest episodes (never below one batch)."""
        self._forget(min(n, self.size - min(self.size, self.config.batch)))

    def state_dict(self) -> dict[str, Tensor]:
        """Filled steps only, oldest episode first: flat tensors, lengths and flags."""
        slots = self._oldest(self.size)
        length, rows = self._length[slots], self._rows[slots]
        state = {"length": length, "terminated": self._terminated[slots]}
        for name, stored in self._data.items():
            kept = rows[_filled(length + (name in OBSERVED), rows.shape[1])]
            state[name] = stored.index_select(0, kept.to(self.device))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the contents. Raises ValueError when the episodes do not fit this buffer."""
        lengths = state["length"]
        if len(lengths) > self.config.capacity or bool((lengths >= self._rows.shape[1]).any()):
            longest = int(lengths.max())
            raise ValueError(f"{len(lengths)} episodes of up to {longest} steps do not fit this replay buffer")
        self._forget(self.size)
        self._append({name: state[name] for name in self._data}, lengths, state["terminated"])

    def _append(self, steps: dict[str, Tensor], lengths: Tensor, terminated: Tensor) -> None:
        """Episodes in the places of the oldest: steps[name] as of `state_dict`, lengths [B], terminated [B]."""
        b = len(lengths)
        self._forget(max(0, self.size + b - self.config.capacity))
        slots = (self._next + torch.arange(b)) % self.config.capacity
        rows = torch.zeros(b, self._rows.shape[1], dtype=torch.int64)
        observed = _filled(lengths + 1, rows.shape[1])
        rows[observed] = self._take(int(lengths.sum()) + b)
        self._rows[slots], self._length[slots], self._terminated[slots] = rows, lengths, terminated
        last = sent(rows[torch.arange(b), lengths], self.device)
        acted = sent(rows[_filled(lengths, rows.shape[1])], self.device)
        observed = sent(rows[observed], self.device)
        for name, stored in self._data.items():
            stored.index_copy_(0, observed if name in OBSERVED else acted, steps[name].to(self.device))
            if name not in OBSERVED:
                stored.index_fill_(0, last, 0)
        self._next = (self._next + b) % self.config.capacity
        self.size += b

    def _forget(self, n: int) -> None:
        """Give the rows of the n oldest episodes back."""
        slots = self._oldest(n)
        rows = self._rows[slots]
        self._free = torch.cat([self._free, rows[_filled(self._length[slots] + 1, rows.shape[1])]])
        self._rows[slots] = 0
        self.size -= n

    def _take(self, n: int) -> Tensor:
        """n row numbers: rows given back first, then rows never used. Raises UserError beyond the machine's memory."""
        kept = max(0, len(self._free) - n)
        taken = self._free[kept:]
        fresh = torch.arange(self._used, self._used + n - len(taken))
        self._free = self._free[:kept]
        self._used += len(fresh)
        if self._used * self._row_bytes > _memory():
            raise self._too_large(self._used)
        return torch.cat([taken, fresh])

    def _too_large(self, rows: int) -> UserError:
        c = self.config
        return UserError(
            f"replay.capacity = {c.capacity}: {rows:,} steps of {self._map} need {rows * self._row_bytes / 1e9:.0f} "
            f"GB, more than this machine has; try --set replay.capacity={max(c.batch, c.capacity // 4)}"
        )


def gather(
    buffers: Sequence[EpisodeBuffer], ages: Sequence[Tensor], memory: dict[str, Tensor] | None = None
) -> EpisodeBatch:
    """Equally many episodes of each of several buffers, by age as of EpisodeBuffer.gather, as one padded batch.

    memory: what the batch is written into, kept by the caller for the next one. New memory of this size would be given
    back to the system every time, and its pages be cleared again.
    """
    memory = {} if memory is None else memory
    device, pairs = buffers[0].device, list(zip(buffers, map(EpisodeBuffer._slots, buffers, ages), strict=True))
    length = torch.cat([buffer._length[slots] for buffer, slots in pairs])
    t = int(length.max())
    rows = [sent(buffer._rows[slots, : t + 1], device) for buffer, slots in pairs]
    data = {}
    for name, stored in buffers[0]._data.items():
        steps = t + (name in OBSERVED)
        count = length.numel() * steps
        if name not in memory or len(memory[name]) < count:
            memory[name] = stored.new_empty(count, *stored.shape[1:])
        data[name] = memory[name][:count].view(length.numel(), steps, *stored.shape[1:])
        places = data[name].flatten(0, 1).tensor_split(len(buffers))
        for buffer, index, place in zip(buffers, rows, places, strict=True):
            torch.index_select(buffer._data[name], 0, index[:, :steps].reshape(-1), out=place)
    terminates = sent(torch.cat([buffer._terminated[slots] for buffer, slots in pairs]), device)
    step, length = torch.arange(t, device=device), sent(length, device)
    filled, ended = step < length[:, None], step == length[:, None] - 1
    terminated = ended & terminates[:, None]
    return EpisodeBatch(**data, terminated=terminated, truncated=ended & ~terminated, filled=filled)


def _filled(lengths: Tensor, steps: int) -> Tensor:
    """Which of the first `steps` steps are an episode's: lengths [B] -> [B,steps] bool."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def _reserve(rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[rows, *shape]. On a CPU the system commits a page only when it is written; elsewhere memory is taken at once."""
    if device.type != "cpu":
        return torch.empty(rows, *shape, dtype=dtype, device=device)
    count = rows * math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    pages = mmap.mmap(-1, max(1, count) * torch.empty(0, dtype=dtype).element_size(), flags=flags)
    return torch.frombuffer(pages, dtype=dtype, count=count).view(rows, *shape)


_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if os.uname().sysname == "Linux" else 0)
"""Without it Linux refuses to map more than the memory there is, used or not. Python names it from 3.13 on."""


def _memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
