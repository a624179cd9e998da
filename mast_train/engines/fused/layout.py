"""The two layouts in memory of a tensor of rows, [G,T,R,C] to its readers: groups, steps, rows, channels.

Channel-major: rows adjacent, [G][C][T][R] in memory, what a product `weight @ inputs` writes. Row-major: [G][T][R][C].
"""

from __future__ import annotations

from torch import Tensor


def channel_major(x: Tensor) -> bool:
    """Whether x [G,T,R,C] has its rows adjacent and steps, each a whole row of them, next to each other."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def row_major(x: Tensor) -> bool:
    """Whether x [G,T,R,C] has its channels adjacent and its rows in order."""
    return x.stride(3) == 1 and x.stride(1) == x.shape[2] * x.stride(2)


def as_channel_major(x: Tensor) -> Tensor:
    """x itself, or a copy that is channel-major."""
    return x if channel_major(x) else x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def as_regular(x: Tensor) -> Tensor:
    """x itself where it is in one of the two layouts, else a row-major copy."""
    return x if channel_major(x) or row_major(x) else x.contiguous()


def empty(like: Tensor, channels: int, rows_adjacent: bool) -> Tensor:
    """An uninitialised [G,T,R,channels] of one of the layouts."""
    g, t, r, _ = like.shape
    if rows_adjacent:
        return like.new_empty(g, channels, t, r).permute(0, 2, 3, 1)
    return like.new_empty(g, t, r, channels)
