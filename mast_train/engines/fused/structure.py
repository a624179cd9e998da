"""Where the connections of recurrent weights are, packed for the sparse kernels: what each block and warp walks.

Built on the device from masks, outside graphs; a structure keeps its buffers for life, so graphs that read them see the
connections of the last `update`. Letters: G groups, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mast_train.engines.fused.nvrtc import shared_limit
from mast_train.settings.errors import UserError

LANES = 32
SLACK = 2
"""Pairs a walk reads ahead of its last (sparse.cu)."""
PAIR_BYTES = 16
END = -(2**31)
"""The sign bit of a pair's second place: its segment ends here."""
GROWTH = 1.25
"""A block's capacity over the pairs it needs at first, as far as shared memory has room."""


@dataclass(frozen=True)
class Split:
    """How the units of a group are shared out: `cluster` blocks of `warps` warps; slots: units of a warp at most."""

    cluster: int
    warps: int
    slots: int

    @classmethod
    def of(cls, hidden: int, cluster: int, warps: int) -> Split:
        return cls(cluster, warps, -(-hidden // (cluster * warps)))

    def shared_bytes(self, hidden: int, capacity: int, backward: bool) -> int:
        """Shared memory of a block of `capacity` pairs."""
        own = self.warps * self.slots
        tiles = (3 * hidden + own) * LANES * 4 if backward else 2 * hidden * LANES * 4 + own * 16
        return (capacity + SLACK) * PAIR_BYTES + tiles

    def room(self, hidden: int, shared: int, backward: bool) -> int:
        """Pairs that a block with `shared` bytes can hold."""
        return (shared - self.shared_bytes(hidden, 0, backward)) // PAIR_BYTES


class Walks:
    """One direction's streams. Fixed buffers: place, source [P,2], starts [G,W+1], units [G,W*slots], all int32.

    W: warps of a group. place: an operand's byte in the tile of rows; source: its weight in the group's [3H,H], -1 of a
    filler; starts: where each warp's pairs begin and the last one's end; units: -1 where a warp has fewer than slots.
    """

    def __init__(
        self, groups: int, hidden: int, connections: int, split: Split, backward: bool, device: torch.device
    ) -> None:
        self.groups, self.hidden, self.split, self.backward = groups, hidden, split, backward
        segments = groups * hidden * (1 if backward else 3)
        warps = split.cluster * split.warps

        def buffer(*shape: int, fill: int = 0) -> Tensor:
            return torch.full(shape, fill, dtype=torch.int32, device=device)

        # A segment of n connections takes ceil(n / 2) pairs, an empty one takes one.
        self.total = connections // 2 + segments
        self.place, self.source = buffer(self.total, 2), buffer(self.total, 2, fill=-1)
        self.starts, self.units = buffer(groups, warps + 1), buffer(groups, warps * split.slots, fill=-1)

    def fill(self, masks: Tensor) -> int:
        """The streams of masks [G,3H,H]; returns the pairs of the fullest block."""
        h = self.hidden
        present = masks.mT.unsqueeze(2) if self.backward else masks.view(-1, 3, h, h).transpose(1, 2)
        counts = present.sum(-1)  # [G, unit, segment]
        pairs = (counts + 1).div(2, rounding_mode="floor").clamp(min=1)
        position = self._deal(pairs.sum(-1))
        begins = self._offsets(pairs.sum(-1), position)
        segment_begins = begins.unsqueeze(-1) + pairs.cumsum(-1) - pairs
        self.place.zero_()
        self.source.fill_(-1)
        self.place.view(-1)[2 * (segment_begins + pairs).flatten() - 1] = END
        group, unit, segment, entry = present.nonzero(as_tuple=True)
        flat = counts.flatten()
        before = (flat.cumsum(0) - flat).view_as(counts)[group, unit, segment]
        rank = torch.arange(len(group), device=masks.device) - before
        at = 2 * segment_begins[group, unit, segment] + rank
        self.place.view(-1)[at] |= (entry * LANES * 4).int()
        row, column = (entry, unit) if self.backward else (segment * h + unit, entry)
        self.source.view(-1)[at] = (row * h + column).int()
        blocks = self.starts[:, :: self.split.warps]
        return int((blocks[:, 1:] - blocks[:, :-1]).max())

    def _deal(self, work: Tensor) -> Tensor:
        """Deals units by falling work [G,H] to the warps, to and fro; fills `units`, returns the units' places."""
        warps, slots = self.split.cluster * self.split.warps, self.split.slots
        order = work.argsort(dim=-1, descending=True, stable=True)
        turn = torch.arange(self.hidden, device=work.device)
        lap, seat = turn.div(warps, rounding_mode="floor"), turn % warps
        # Neighbouring warps belong to one block: seats are spread over the blocks first.
        seat = torch.where(lap % 2 == 0, seat, warps - 1 - seat)
        warp = seat % self.split.cluster * self.split.warps + seat.div(self.split.cluster, rounding_mode="floor")
        places = (warp * slots + lap).expand_as(order)
        self.units.fill_(-1).scatter_(1, places, order.int())
        return torch.empty_like(order).scatter_(1, order, places)

    def _offsets(self, work: Tensor, position: Tensor) -> Tensor:
        """Pairs before the beginning of each unit [G,H], streams end to end; fills `starts`."""
        seats = torch.zeros_like(self.units, dtype=work.dtype).scatter_(1, position, work)
        ends = seats.flatten().cumsum(0).view_as(seats)
        begins = ends - seats
        self.starts[:, :-1] = begins[:, :: self.split.slots]
        self.starts[:, -1] = ends[:, -1]
        return begins.gather(1, position)


class Structure:
    """The connections of weight_hh [G,3H,H], and how blocks, warps and units are dealt out.

    `version` grows when an update needs more shared memory than launches so far were given; graphs recorded before must
    then be recorded again (they would stop with an error, not compute something else).
    """

    def __init__(self, masks: Tensor, *, cluster: int = 1, warps: int = 16, shared: int | None = None) -> None:
        """masks: bool [G,3H,H]; shared: bytes a block may have, the device's limit if None."""
        self.groups, self.hidden = len(masks), masks.shape[-1]
        self.connections = int(masks.sum())
        self.split = Split.of(self.hidden, cluster, warps)
        self.shared = shared_limit(masks.device) if shared is None else shared
        self.forward, self.backward = (
            Walks(self.groups, self.hidden, self.connections, self.split, way, masks.device) for way in (False, True)
        )
        self.capacity = {False: 0, True: 0}
        self.version = 0
        self.update(masks)

    def update(self, masks: Tensor) -> None:
        """The connections from now on, no more in total than at first. Waits for the device.

        Raises UserError where a block's connections do not fit into shared memory.
        """
        total = int(masks.sum())
        if total > self.connections:
            raise UserError(f"{total} connections, but the structure was made for {self.connections}: make a new one")
        grown = False
        for way, walks in ((False, self.forward), (True, self.backward)):
            need, room = walks.fill(masks), self.split.room(self.hidden, self.shared, way)
            if need > room:
                raise UserError(
                    f"{need} pairs of connections in a block, room for {room}: use the dense kernel or a larger cluster"
                )
            if need > self.capacity[way]:
                self.capacity[way], grown = min(room, int(need * GROWTH) + LANES), True
        self.version += grown


def fits(hidden: int, connections: int, shared: int, *, cluster: int = 1, warps: int = 16) -> bool:
    """Whether groups of about that many connections fit: with fillers, and a tenth more for uneven groups."""
    split = Split.of(hidden, cluster, warps)
    pairs = int(1.1 * (connections / 2 + 1.5 * hidden) / cluster)
    return all(pairs <= split.room(hidden, shared, way) for way in (False, True))
