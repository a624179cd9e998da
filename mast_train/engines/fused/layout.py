"""Where the steps of rows lie: which places they have, and the two layouts in memory of a tensor of places, [G,P,C] to
its readers: groups, places, channels.

Channel-major: places adjacent, [G][C][P] in memory, what a product `weight @ inputs` writes. Place-major: [G][P][C].
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Places(NamedTuple):
    """Step t of row r has the place `t rows + r`, or `begins[t] + r` where there are begins. int32 tensors.

    lengths [G,R]: steps of each row; None: all. begins [G,steps+1], packed: rows that have ended have no place, so
    lengths fall from row to row, `begins` counts the rows that each step has, and behind `begins[steps]` nobody is.
    """

    rows: int
    steps: int
    lengths: Tensor | None = None
    begins: Tensor | None = None


def channel_major(x: Tensor) -> bool:
    """Whether x [G,P,C] has its places adjacent."""
    return x.stride(1) == 1


def as_channel_major(x: Tensor) -> Tensor:
    """x itself, or a copy that is channel-major."""
    return x if channel_major(x) else x.mT.contiguous().mT


def as_regular(x: Tensor) -> Tensor:
    """x itself where its places or its channels are adjacent, else a copy of which the channels are."""
    return x if channel_major(x) or x.stride(2) == 1 else x.contiguous()


def empty(like: Tensor, channels: int, places_adjacent: bool) -> Tensor:
    """An uninitialised [G,P,channels] of one of the layouts."""
    g, p, _ = like.shape
    return like.new_empty(g, channels, p).mT if places_adjacent else like.new_empty(g, p, channels)
