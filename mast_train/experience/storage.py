"""Steps of episodes, one to a row: memory follows the steps that are kept, not the longest episode of a map."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable

import torch
from torch import Tensor

from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import OBSERVED
from mast_train.experience.transfer import sent
from mast_train.settings.config import ReplayConfig
from mast_train.settings.errors import UserError


class Storage:
    """Rows of steps for the buffers of one or several seeds, and the tables of which rows are which episode's.

    data: field -> [rows,...] on the device. Row 0 is the padding of every batch. On a CPU address space for every
    episode at its longest is reserved, and memory used for what is written; elsewhere rows are added as steps come.

    The tables are the host's. Each buffer has `capacity` slots of them, one after another: `rows` [places * capacity,
    T+1] the row numbers of an episode, 0 behind its end; `lengths` and `terminated` [places * capacity]. The device has
    `rows_there`: the same as far as episodes go.
    """

    def __init__(self, config: ReplayConfig, spec: EnvSpec, device: torch.device, places: int = 1) -> None:
        """places: of buffers. Raises UserError for more than can be reserved."""
        self.device, self.places = device, places
        self._config, self._map = config, spec.map
        slots, length = places * config.capacity, spec.episode_limit + 1
        n, a = spec.n_agents, spec.n_actions
        self._shapes = {"obs": (n, spec.obs_dim), "state": (spec.state_dim,), "avail_actions": (n, a)}
        self._shapes |= {"actions": spec.action_shape, "reward": ()}
        self._types = {"avail_actions": torch.bool, "actions": spec.action_dtype}
        self._field_bytes = {
            name: math.prod(shape) * self._dtype(name).itemsize for name, shape in self._shapes.items()
        }
        self.row_bytes = sum(self._field_bytes.values())
        self.limit = 1 + slots * length
        self.held, self.episodes = 0, 0
        self._others_need = 0
        self.data: dict[str, Tensor] = {}
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self.terminated = torch.zeros(slots, dtype=torch.bool)
        self._free = torch.empty(0, dtype=torch.int64)
        self._used = 1
        if _reserves(device):
            try:
                self._lay(self.limit, _reserved)
                self.rows = _reserved(slots, (length,), torch.int64, device)
            except (RuntimeError, OSError, OverflowError, ValueError) as error:
                raise self._too_large(self.limit, memory(device, 0)) from error
            self.rows_there = self.rows
        else:
            self._lay(1, _empty)
            self.rows = torch.zeros(slots, length, dtype=torch.int64)
            try:
                self.rows_there = torch.zeros(slots, length, dtype=torch.int32, device=device)
            except torch.OutOfMemoryError as error:
                raise self._too_large(self.limit, memory(device, 0)) from error

    def _take(self, n: int, episodes: int) -> Tensor:
        """n row numbers for so many episodes: rows given back first, then rows never used. Raises UserError."""
        kept = max(0, len(self._free) - n)
        taken = self._free[kept:]
        end = self._used + n - len(taken)
        if end > self.held:
            self._grow(end, self.episodes + episodes)
        elif _reserves(self.device) and end * self.row_bytes > memory(self.device, 0):
            raise self._too_large(end, memory(self.device, 0))
        fresh = torch.arange(self._used, end)
        self._free, self._used = self._free[:kept], end
        return torch.cat([taken, fresh])

    def put(self, slots: Tensor, steps: dict[str, Tensor], lengths: Tensor, terminated: Tensor) -> None:
        """Episodes into empty slots [B]: steps[name] their filled steps one after another. Raises UserError beyond the
        device's memory."""
        rows = torch.zeros(len(slots), self.rows.shape[1], dtype=torch.int64)
        observed = filled_steps(lengths + 1, rows.shape[1])
        rows[observed] = self._take(int(lengths.sum()) + len(slots), len(slots))
        self.episodes += len(slots)
        self.rows[slots], self.lengths[slots], self.terminated[slots] = rows, lengths, terminated
        if self.rows_there is not self.rows:
            self.rows_there.index_copy_(0, sent(slots, self.device), sent(rows.int(), self.device))
        last = sent(rows[torch.arange(len(slots)), lengths], self.device)
        acted = sent(rows[filled_steps(lengths, rows.shape[1])], self.device)
        observed = sent(rows[observed], self.device)
        for name, stored in self.data.items():
            stored.index_copy_(0, observed if name in OBSERVED else acted, steps[name].to(self.device))
            if name not in OBSERVED:
                stored.index_fill_(0, last, 0)

    def drop(self, slots: Tensor) -> None:
        """Empty the slots of episodes: their rows are given back."""
        rows = self.rows[slots]
        self._free = torch.cat([self._free, rows[filled_steps(self.lengths[slots] + 1, rows.shape[1])]])
        self.rows[slots] = 0
        self.episodes -= len(slots)

    def _grow(self, rows: int, episodes: int) -> None:
        """Hold at least so many rows, and some more, so that growing is rare. Raises UserError."""
        expected, room = self._planned(rows, episodes)
        # Growing holds a field twice for a moment: a storage that will need most of the memory grows once.
        often = 2 * expected * self.row_bytes < room
        wanted = min(self.limit, max(rows, min(rows + rows // 2 if often else expected, room // self.row_bytes)))
        try:
            self._lay(wanted, _empty)
        except torch.OutOfMemoryError as error:
            raise self._too_large(expected, room) from error

    def check(self) -> None:
        """Plan again, with what others have taken since the last rows came or need for a while. Raises UserError."""
        if self.episodes and not _reserves(self.device):
            self._others_need = passing(self.device)
            self._planned(self._used, self.episodes)

    def _planned(self, rows: int, episodes: int) -> tuple[int, int]:
        """Rows that are needed once every slot has an episode as long as these, and bytes that there are.

        Raises UserError as soon as it can be foreseen: when they would not fit.
        """
        room = max(0, memory(self.device, self.held * self.row_bytes) - self._others_need)
        expected = min(self.limit, max(rows, len(self.rows) * rows // episodes))
        if expected * self.row_bytes > room:
            raise self._too_large(expected, room)
        return expected, room

    def _lay(self, rows: int, new: Callable[[int, tuple[int, ...], torch.dtype, torch.device], Tensor]) -> None:
        """The fields in memory of so many rows, what is there kept."""
        for name, shape in self._shapes.items():
            whole = new(rows, shape, self._dtype(name), self.device)
            if name in self.data:
                whole[: self.held] = self.data[name]
            else:
                whole[0] = name == "avail_actions"
            self.data[name] = whole
        self.held = rows

    def _dtype(self, field: str) -> torch.dtype:
        return self._types.get(field, torch.float32)

    def _too_large(self, rows: int, room: int) -> UserError:
        c, need = self._config, rows * self.row_bytes
        seeds = f" of {self.places} seeds" if self.places > 1 else ""
        less = max(c.batch, c.capacity // 4 if _reserves(self.device) else int(0.9 * c.capacity * room / need))
        return UserError(
            f"replay.capacity = {c.capacity}{seeds}: {rows:,} steps of {self._map} need {need / 1e9:.0f} GB, more than "
            f"the {room / 1e9:.0f} GB that {self.device} has for them; try --set replay.capacity={less}"
        )


def filled_steps(lengths: Tensor, steps: int) -> Tensor:
    """Which of the first `steps` steps are an episode's: lengths [B] -> [B,steps] bool."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def memory(device: torch.device, own: int) -> int:
    """Bytes that a storage which has `own` may have: of a GPU what nobody else has, else the host's physical memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what graphs hold stays theirs
        return torch.cuda.mem_get_info(device)[0] + own
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def passing(device: torch.device) -> int:
    """Bytes of a GPU that were taken for a while since `forget_peak` and will be again, as by an update that is not a
    graph."""
    if device.type != "cuda":
        return 0
    return torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)


def forget_peak(device: torch.device) -> None:
    """Before the first updates: what was taken until here, as by a replay that was loaded, will not be again."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _reserves(device: torch.device) -> bool:
    """Whether memory is committed only where it is written."""
    return device.type == "cpu"


def _empty(rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(rows, *shape, dtype=dtype, device=device)


def _reserved(rows: int, shape: tuple[int, ...], dtype: torch.dtype, _: torch.device) -> Tensor:
    """Address space of the host: the system commits a page when it is first written."""
    count = rows * math.prod(shape)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    pages = mmap.mmap(-1, max(1, count) * dtype.itemsize, flags=flags)
    return torch.frombuffer(pages, dtype=dtype, count=count).view(rows, *shape)


_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if os.uname().sysname == "Linux" else 0)
"""Without it Linux refuses to map more than the memory there is, used or not. Python names it from 3.13 on."""
