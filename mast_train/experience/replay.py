"""Episode replay: a FIFO of whole episodes, and the paper's two buffers as two windows on it.

Every episode enters both the large buffer B1 and the small buffer B2 of the newest episodes (paper, section 4.3), so
B2 is always a suffix of B1: it needs no storage of its own. What several seeds' buffers do at once, they do in one
pass where they share a storage. Letters: K buffers, B episodes of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import OBSERVED, EpisodeBatch
from mast_train.experience.packed import Packed, locate, rounded
from mast_train.experience.segments import Pieces, draw_pieces, piece_rows, pieces
from mast_train.experience.storage import Storage, filled_steps
from mast_train.experience.transfer import sent
from mast_train.settings.config import ReplayConfig


class EpisodeBuffer:
    """The newest `capacity` episodes of one run."""

    def __init__(self, config: ReplayConfig, spec: EnvSpec, device: torch.device) -> None:
        """Raises UserError for a buffer that cannot be reserved."""
        self.config, self.spec, self.device = config, spec, device
        self.storage, self._first = Storage(config, spec, device), 0
        self._next = 0
        self.size = 0

    def add(self, episodes: EpisodeBatch) -> None:
        """`add` for this buffer alone."""
        add([self], episodes)

    def can_sample(self) -> bool:
        """True once a whole batch of different episodes is there; of pieces, once there are as many steps."""
        if self.config.segment:
            return int(self._lengths(self.size).sum()) >= self.config.batch
        return self.size >= self.config.batch

    def sample(self, generator: torch.Generator) -> EpisodeBatch:
        """batch - recent_batch episodes of all, recent_batch of the newest recent_capacity; no repeats within either.

        The share of the recent buffer follows the paper's b1:b2 (section 4.3).
        """
        return self.gather(self.draw(generator))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Which episodes a sample takes: their ages [replay.batch], for `gather`; of pieces also where in them
        [replay.batch,2] (experience/segments.py)."""
        recent, newest = self.config.recent_batch, min(self.size, self.config.recent_capacity)
        if segment := self.config.segment:
            counts = (self.size, self.config.batch - recent), (newest, recent)
            return torch.cat([draw_pieces(self._lengths(n), k, segment, generator) for n, k in counts])
        ages = _distinct(self.size, self.config.batch - recent, generator)
        if newest < recent:
            return torch.cat([torch.tensor(ages), torch.randint(newest, (recent,), generator=generator)])
        return torch.tensor(ages + _distinct(newest, recent, generator))

    def gather(self, ages: Tensor) -> EpisodeBatch:
        """The episodes that many additions old (0: the newest) as one padded batch."""
        return gather([self], [ages])

    def drop_oldest(self, n: int) -> None:
        """Forget the n oldest episodes (never below one batch)."""
        _forget([self], [min(n, self.size - min(self.size, self.batch_episodes))])

    @property
    def batch_episodes(self) -> int:
        """How many whole episodes are as much as a batch."""
        c = self.config
        return max(1, c.batch * c.segment // self.spec.episode_limit) if c.segment else c.batch

    def release(self) -> None:
        """Leave the memory of a shared storage to the others: every episode is forgotten. Alone, nothing happens."""
        if self.storage.places > 1:
            _forget([self], [self.size])

    def state_dict(self) -> dict[str, Tensor]:
        """Filled steps only, oldest episode first: flat tensors, lengths and flags."""
        slots, storage = self._oldest(self.size), self.storage
        length, rows = storage.lengths[slots], storage.rows[slots]
        state = {"length": length, "terminated": storage.terminated[slots]}
        for name, stored in storage.data.items():
            kept = rows[filled_steps(length + (name in OBSERVED), rows.shape[1])]
            state[name] = stored.index_select(0, kept.to(self.device))
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the contents. Raises ValueError when the episodes do not fit this buffer, UserError beyond memory."""
        lengths = state["length"]
        if len(lengths) > self.config.capacity or bool((lengths > self.spec.episode_limit).any()):
            longest = int(lengths.max())
            raise ValueError(f"{len(lengths)} episodes of up to {longest} steps do not fit this replay buffer")
        _forget([self], [self.size])
        _append([self], {name: state[name] for name in self.storage.data}, lengths, state["terminated"])

    def _lengths(self, n: int) -> Tensor:
        """Of the n newest episodes, the newest first."""
        return self.storage.lengths[self._slots(torch.arange(n))]

    def _slots(self, ages: Tensor) -> Tensor:
        slots = (self._next - 1 - ages) % self.config.capacity
        return slots + self._first if self._first else slots

    def _oldest(self, n: int) -> Tensor:
        """The slots of the n oldest episodes, the oldest first."""
        return self._first + (self._next - self.size + torch.arange(n)) % self.config.capacity

    def _move(self, storage: Storage, first: int) -> None:
        """Keep the episodes in another storage, in its slots from `first` on."""
        state = self.state_dict()
        self.storage, self._first, self._next, self.size = storage, first, 0, 0
        self.load_state_dict(state)


def share(buffers: Sequence[EpisodeBuffer]) -> None:
    """From here on the buffers keep their episodes in one storage. Raises UserError for more than can be reserved."""
    first = buffers[0]
    storage = Storage(first.config, first.spec, first.device, len(buffers))
    for place, buffer in enumerate(buffers):
        buffer._move(storage, place * first.config.capacity)


def add(buffers: Sequence[EpisodeBuffer], episodes: EpisodeBatch) -> None:
    """Append to each of K buffers its equal part of the episodes, in order, dropping its oldest.

    Of more than `capacity` the newest are kept. Raises ValueError for an episode without transitions, UserError for
    more steps than there is memory for.
    """
    lengths, terminated = torch.stack([episodes.lengths, episodes.terminated.any(1).long()]).cpu()
    if int(lengths.min()) < 1:
        raise ValueError("an episode without transitions cannot be stored")
    device, t = episodes.filled.device, episodes.filled.shape[1]
    newest = torch.arange(len(lengths)).view(len(buffers), -1)[:, -buffers[0].config.capacity :].flatten()
    groups = _sharing(buffers)
    for group, own in zip(groups, newest.tensor_split(len(groups)), strict=True):
        steps = {}
        for more in (1, 0):
            episode, step = filled_steps(lengths[own] + more, t + more).nonzero().unbind(1)
            at = sent(own[episode], device), sent(step, device)
            names = [name for name in buffers[0].storage.data if (name in OBSERVED) == bool(more)]
            steps |= {name: getattr(episodes, name)[at] for name in names}
        _append(group, steps, lengths[own], terminated[own].bool())


def gather(
    buffers: Sequence[EpisodeBuffer],
    ages: Sequence[Tensor],
    memory: dict[str, Tensor] | None = None,
    steps: Callable[[int], int] = int,
) -> EpisodeBatch:
    """Equally many episodes of each of K buffers, by age as of EpisodeBuffer.gather, as one padded batch; pieces of
    them where `ages` says where (EpisodeBuffer.draw): their burn-in is there and not `filled`.

    memory: what the batch is written into, kept by the caller for the next one; batches of one shape lie at one
    address. New memory of this size would be given back to the system every time, and its pages be cleared again.
    steps: how many the batch has, of its longest episode's, at most the map's limit.
    """
    device, c = buffers[0].device, buffers[0].config
    starts = torch.cat([own[:, 1] for own in ages]) if ages[0].dim() == 2 else None
    if starts is not None:
        ages = [own[:, 0] for own in ages]
    stored = _stored(buffers, ages)
    length = torch.cat([storage.lengths[own] for storage, own in stored])
    cut = None if starts is None else pieces(length, starts, c.segment, c.burn_in)
    length = length if cut is None else cut.count
    t = steps(int(length.max()))
    memory, longest = ({}, t) if memory is None else (memory, buffers[0].spec.episode_limit)

    def place(name: str, like: Tensor, entry: Sequence[int]) -> Tensor:
        more = name in OBSERVED
        count = len(length) * (t + more)
        if name not in memory or len(memory[name]) < count:
            memory[name] = like.new_empty(len(length) * (longest + more), *entry)
        return memory[name][:count].view(len(length), t + more, *entry)

    observed, acted = _rows(stored, cut, t, device)
    data = {name: place(name, whole, whole.shape[1:]) for name, whole in stored[0][0].data.items()}
    for name, whole in data.items():
        parts = whole.flatten(0, 1).tensor_split(len(stored))
        for (storage, _), index, part in zip(stored, observed if name in OBSERVED else acted, parts, strict=True):
            torch.index_select(storage.data[name], 0, index, out=part)
    ends = torch.cat([storage.terminated[own] for storage, own in stored])
    terminates = sent(ends if cut is None else ends & cut.last, device)[:, None]
    step, length = torch.arange(t, device=device), sent(length, device)[:, None]
    ended = step == length - 1
    filled, terminated, truncated = (place(name, ended, ()) for name in ("filled", "terminated", "truncated"))
    torch.lt(step, length, out=filled)
    if cut is not None:
        filled &= step >= sent(cut.skip, device)[:, None]
    torch.logical_and(ended, terminates, out=terminated)
    torch.gt(ended, terminates, out=truncated)
    return EpisodeBatch(**data, terminated=terminated, truncated=truncated, filled=filled)


def pack(buffers: Sequence[EpisodeBuffer], ages: Sequence[Tensor], memory: dict[str, Tensor]) -> Packed:
    """Equally many whole episodes of each of K buffers, by age as of EpisodeBuffer.gather, without their padding.

    memory: see `gather`.
    """
    stored, k, limit = _stored(buffers, ages), len(buffers), buffers[0].spec.episode_limit
    length, terminated = (
        torch.cat([getattr(storage, name)[own] for storage, own in stored]).view(k, -1)
        for name in ("lengths", "terminated")
    )
    length, order = length.sort(dim=1, descending=True, stable=True)
    slots = torch.cat([own for _, own in stored]).view(k, -1)
    about = torch.stack([length, terminated.gather(1, order), slots.gather(1, order)]).int()
    about, e = sent(about, buffers[0].device), length.shape[1]
    size, steps = rounded(int(length.sum(1).max()) + e, int(length.max()), limit)
    at = locate(about[0], size, steps)
    at_slot = about[2].long().gather(1, at.rank) * stored[0][0].rows.shape[1] + at.step

    def place(name: str, like: Tensor, most: int, shape: Sequence[int]) -> Tensor:
        if name not in memory or len(memory[name]) < most:
            memory[name] = like.new_empty(most, *shape)
        return memory[name]

    data, most = {}, k * rounded(e * (limit + 1), limit, limit)[0]
    each = [
        storage.rows_there.flatten().index_select(0, own.flatten()).masked_fill(~used.flatten(), 0)
        for (storage, _), own, used in zip(
            stored, *(x.tensor_split(len(stored)) for x in (at_slot, at.used)), strict=True
        )
    ]
    for name, whole in stored[0][0].data.items():
        fields = place(name, whole, most, whole.shape[1:])[: k * size]
        for (storage, _), own, part in zip(stored, each, fields.tensor_split(len(stored)), strict=True):
            torch.index_select(storage.data[name], 0, own, out=part)
        data[name] = fields.unflatten(0, (k, size))
    episodes = place(f"episodes {k}", about, 2, about.shape[1:]).copy_(about[:2])
    return Packed(**data, episodes=episodes, steps=steps)


def _stored(buffers: Sequence[EpisodeBuffer], ages: Sequence[Tensor]) -> list[tuple[Storage, Tensor]]:
    """Where the episodes of these ages are: storages, in order, and their slots."""
    if len(_sharing(buffers)) == 1:
        return [(buffers[0].storage, _slots(buffers, ages))]
    return [(buffer.storage, buffer._slots(own)) for buffer, own in zip(buffers, ages, strict=True)]


def _rows(
    stored: Sequence[tuple[Storage, Tensor]], cut: Pieces | None, t: int, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Row numbers in each storage of what t steps observed [B*(T+1)] and did [B*T]."""
    if cut is None:
        rows = [sent(storage.rows[own, : t + 1], device) for storage, own in stored]
        return [own.reshape(-1) for own in rows], [own[:, :t].reshape(-1) for own in rows]
    each = zip(*(values.tensor_split(len(stored)) for values in cut), strict=True)
    found = [piece_rows(*place, Pieces(*own), t) for place, own in zip(stored, each, strict=True)]
    observed, acted = zip(*found, strict=True)
    return [sent(own.reshape(-1), device) for own in observed], [sent(own.reshape(-1), device) for own in acted]


def _distinct(n: int, k: int, generator: torch.Generator) -> list[int]:
    """k different numbers below n, at most n, every set of them as likely: k draws whatever n is (Bentley and Floyd,
    Programming Pearls: A sample of brilliance, 1987)."""
    k = min(k, n)
    chosen: dict[int, None] = {}
    for last, share in zip(
        range(n - k, n), torch.rand(k, generator=generator, dtype=torch.float64).tolist(), strict=True
    ):
        number = int(share * (last + 1))
        chosen[last if number in chosen else number] = None
    return list(chosen)


def _sharing(buffers: Sequence[EpisodeBuffer]) -> list[Sequence[EpisodeBuffer]]:
    """All as one group where they share a storage, else each by itself."""
    shared = all(buffer.storage is buffers[0].storage for buffer in buffers)
    return [buffers] if shared else [[buffer] for buffer in buffers]


def _slots(buffers: Sequence[EpisodeBuffer], ages: Sequence[Tensor]) -> Tensor:
    """Of equally many ages of each of some buffers of one storage: [B]."""
    if len(buffers) == 1:
        return buffers[0]._slots(ages[0])
    newest = torch.tensor([[buffer._next - 1] for buffer in buffers])
    first = torch.tensor([[buffer._first] for buffer in buffers])
    return ((newest - torch.stack(list(ages))) % buffers[0].config.capacity + first).flatten()


def _append(buffers: Sequence[EpisodeBuffer], steps: dict[str, Tensor], lengths: Tensor, terminated: Tensor) -> None:
    """Equally many episodes to each of some buffers of one storage, in the places of its oldest: steps[name] as of
    `state_dict`, lengths [B], terminated [B]."""
    each, capacity = len(lengths) // len(buffers), buffers[0].config.capacity
    _forget(buffers, [max(0, buffer.size + each - capacity) for buffer in buffers])
    slots = torch.cat([buffer._first + (buffer._next + torch.arange(each)) % capacity for buffer in buffers])
    buffers[0].storage.put(slots, steps, lengths, terminated)
    for buffer in buffers:
        buffer._next = (buffer._next + each) % capacity
        buffer.size += each


def _forget(buffers: Sequence[EpisodeBuffer], counts: Sequence[int]) -> None:
    """Give the rows of each buffer's oldest episodes back to the storage that they share."""
    buffers[0].storage.drop(torch.cat([buffer._oldest(n) for buffer, n in zip(buffers, counts, strict=True)]))
    for buffer, n in zip(buffers, counts, strict=True):
        buffer.size -= n
