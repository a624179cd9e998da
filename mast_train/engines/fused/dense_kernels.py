"""Triton kernels of the dense recurrence with a group's weights on the chip for all steps. Launched by `dense`.

A program serves one group and ROWS of its rows. H hidden units, padded to P, a power of two. Strides are of
[G,places,C] tensors: group, place, channel; which place is whose is layout.Places'.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a [M,K] @ b [K,N] in float32, by the named precision."""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def split_product(a, b, ROWS: tl.constexpr, P: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """a [ROWS,P] @ b [SPLIT,P/SPLIT,P], the inner dimension in SPLIT parts that are summed last.

    Warps take parts, so each thread has a few columns of a part in registers, not of the whole.
    """
    if SPLIT == 1:
        return product(a, tl.reshape(b, [P, P]), PRECISION)
    else:
        parts = tl.permute(tl.reshape(a, [ROWS, SPLIT, P // SPLIT]), 1, 0, 2)
        return tl.sum(tl.dot(parts, b, input_precision=PRECISION), 0)


@triton.jit
def row_lengths(lengths, group, row, T, R, RAGGED: tl.constexpr):
    """Steps of each row, 0 beyond the last row."""
    if RAGGED:
        return tl.minimum(tl.load(lengths + group * R + row, mask=row < R, other=0), T)
    else:
        return tl.where(row < R, T, 0)


@triton.jit
def begin(begins, group, t, T, R, PACKED: tl.constexpr):
    """Where step t of a group's rows begins."""
    if PACKED:
        return tl.load(begins + group * (T + 1) + t).to(tl.int64)
    else:
        return t.to(tl.int64) * R


@triton.jit
def clear(
    base, base_p, base_c, begins, group, first, longest, T, R, places, row, unit, used,
    PACKED: tl.constexpr, ROWS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """0 where nobody's step is: behind the rows' ends, or packed, by the program of the first rows, behind all."""
    if PACKED:
        at = begin(begins, group, T, T, R, PACKED)
        while (at < places) & (first == 0):
            place = at + tl.arange(0, ROWS)
            inside = (place < places)[:, None] & unit
            tl.store(base + place[:, None] * base_p + base_c, tl.zeros([ROWS, P], tl.float32), mask=inside)
            at += ROWS
    else:
        t = longest
        while t < T:
            at = t.to(tl.int64) * R + row
            tl.store(base + at[:, None] * base_p + base_c, tl.zeros([ROWS, P], tl.float32), mask=used)
            t += 1


@triton.jit
def cell(x_r, x_z, x_n, h_r, h_z, from_h, h):
    """r, z, n and the next state."""
    r, z = tl.sigmoid(x_r + h_r), tl.sigmoid(x_z + h_z)
    n = 2.0 * tl.sigmoid(2.0 * (x_n + r * from_h)) - 1.0
    return r, z, n, n + z * (h - n)


@triton.jit
def cell_gradients(dh, h, r, z, n, from_h):
    """Of r, z and n before their functions and of from_h; of the state before, by the update gate alone."""
    d_n = dh * (1.0 - z) * (1.0 - n * n)
    return d_n * from_h * r * (1.0 - r), dh * (h - n) * z * (1.0 - z), d_n, d_n * r, dh * z


@triton.jit(do_not_specialize=["T", "places"])
def forward_kernel(
    gates, gates_g, gates_p, gates_c,
    states, states_g, states_p, states_c,
    saved, saved_g, saved_p, saved_c,
    weight, bias, lengths, begins, T, R, places,
    H: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    group, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    row, unit = first + tl.arange(0, ROWS), tl.arange(0, P)
    part: tl.constexpr = P // SPLIT
    entry = (tl.arange(0, SPLIT) * part)[:, None, None] + tl.arange(0, part)[None, :, None]
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    longest = tl.max(length)
    units = (unit < H)[None, :]
    used = (row < R)[:, None] & units

    w = weight + group * 3 * H * H + unit[None, None, :] * H + entry  # a gate's rows are the product's columns
    inside = (unit < H)[None, None, :] & (entry < H)
    w_r = tl.load(w, mask=inside, other=0.0)
    w_z = tl.load(w + H * H, mask=inside, other=0.0)
    w_n = tl.load(w + 2 * H * H, mask=inside, other=0.0)
    b = bias + group * 3 * H + unit
    b_r = tl.load(b, mask=unit < H, other=0.0)[None, :]
    b_z = tl.load(b + H, mask=unit < H, other=0.0)[None, :]
    b_n = tl.load(b + 2 * H, mask=unit < H, other=0.0)[None, :]

    x = gates + group * gates_g + row[:, None] * gates_p + unit[None, :] * gates_c
    out = states + group * states_g + row[:, None] * states_p + unit[None, :] * states_c
    kept = saved + group * saved_g + row[:, None] * saved_p + unit[None, :] * saved_c
    h = tl.zeros([ROWS, P], tl.float32)
    alive = (length > 0)[:, None] & units
    x_r = tl.load(x, mask=alive, other=0.0)  # the first step begins at place 0
    x_z = tl.load(x + H * gates_c, mask=alive, other=0.0)
    x_n = tl.load(x + 2 * H * gates_c, mask=alive, other=0.0)
    t = longest * 0
    here = begin(begins, group, t, T, R, PACKED)
    while t < longest:
        there = begin(begins, group, t + 1, T, R, PACKED)
        more = (t + 1 < length)[:, None] & units
        then = x + there * gates_p
        next_r = tl.load(then, mask=more, other=0.0)  # the next step's, so that their latency hides behind the products
        next_z = tl.load(then + H * gates_c, mask=more, other=0.0)
        next_n = tl.load(then + 2 * H * gates_c, mask=more, other=0.0)
        h_r = split_product(h, w_r, ROWS, P, SPLIT, PRECISION) + b_r
        h_z = split_product(h, w_z, ROWS, P, SPLIT, PRECISION) + b_z
        from_h = split_product(h, w_n, ROWS, P, SPLIT, PRECISION) + b_n
        r, z, n, after = cell(x_r, x_z, x_n, h_r, h_z, from_h, h)
        after = tl.where(alive, after, 0.0)
        stored = alive if PACKED else used
        tl.store(out + here * states_p, after, mask=stored)
        if KEEP:
            at = kept + here * saved_p
            tl.store(at, r, mask=stored)
            tl.store(at + H * saved_c, z, mask=stored)
            tl.store(at + 2 * H * saved_c, n, mask=stored)
            tl.store(at + 3 * H * saved_c, from_h, mask=stored)
            tl.store(at + 4 * H * saved_c, h, mask=stored)
        h, alive, here = after, more, there
        x_r, x_z, x_n = next_r, next_z, next_n
        t += 1
    clear(
        states + group * states_g, states_p, unit[None, :] * states_c, begins, group, first, longest, T, R, places,
        row, units, used, PACKED, ROWS, P,
    )  # fmt: skip
    if KEEP:
        clear(
            saved + group * saved_g + 4 * H * saved_c, saved_p, unit[None, :] * saved_c, begins, group, first, longest,
            T, R, places, row, units, used, PACKED, ROWS, P,
        )  # fmt: skip


@triton.jit(do_not_specialize=["T", "places"])
def backward_kernel(
    upstream, upstream_g, upstream_p, upstream_c,
    saved, saved_g, saved_p, saved_c,
    grads, grads_g, grads_p, grads_c,
    weight, lengths, begins, T, R, places,
    H: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    group, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    row, unit = first + tl.arange(0, ROWS), tl.arange(0, P)
    part: tl.constexpr = P // SPLIT
    entry = (tl.arange(0, SPLIT) * part)[:, None, None] + tl.arange(0, part)[None, :, None]
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    longest = tl.max(length)
    units = (unit < H)[None, :]
    used = (row < R)[:, None] & units

    w = weight + group * 3 * H * H + entry * H + unit[None, None, :]
    inside = (unit < H)[None, None, :] & (entry < H)
    w_r = tl.load(w, mask=inside, other=0.0)
    w_z = tl.load(w + H * H, mask=inside, other=0.0)
    w_n = tl.load(w + 2 * H * H, mask=inside, other=0.0)

    above = upstream + group * upstream_g + row[:, None] * upstream_p + unit[None, :] * upstream_c
    kept = saved + group * saved_g + row[:, None] * saved_p + unit[None, :] * saved_c
    out = grads + group * grads_g + row[:, None] * grads_p + unit[None, :] * grads_c
    carry = tl.zeros([ROWS, P], tl.float32)
    for gate in tl.static_range(4):
        clear(
            grads + group * grads_g + gate * H * grads_c, grads_p, unit[None, :] * grads_c, begins, group, first,
            longest, T, R, places, row, units, used, PACKED, ROWS, P,
        )  # fmt: skip
    t = longest - 1
    while t >= 0:
        here = begin(begins, group, t, T, R, PACKED)
        alive = (t < length)[:, None] & units
        at = kept + here * saved_p
        dh = carry + tl.load(above + here * upstream_p, mask=alive, other=0.0)
        r = tl.load(at, mask=alive, other=0.0)
        z = tl.load(at + H * saved_c, mask=alive, other=0.0)
        n = tl.load(at + 2 * H * saved_c, mask=alive, other=0.0)
        from_h = tl.load(at + 3 * H * saved_c, mask=alive, other=0.0)
        h = tl.load(at + 4 * H * saved_c, mask=alive, other=0.0)
        d_r, d_z, d_n, d_h, carry = cell_gradients(dh, h, r, z, n, from_h)
        d_r, d_z = tl.where(alive, d_r, 0.0), tl.where(alive, d_z, 0.0)
        d_n, d_h = tl.where(alive, d_n, 0.0), tl.where(alive, d_h, 0.0)
        place = out + here * grads_p
        stored = alive if PACKED else used
        tl.store(place, d_r, mask=stored)
        tl.store(place + H * grads_c, d_z, mask=stored)
        tl.store(place + 2 * H * grads_c, d_n, mask=stored)
        tl.store(place + 3 * H * grads_c, d_h, mask=stored)
        carry = tl.where(alive, carry, 0.0) + split_product(d_r, w_r, ROWS, P, SPLIT, PRECISION)
        carry += split_product(d_z, w_z, ROWS, P, SPLIT, PRECISION)
        carry += split_product(d_h, w_n, ROWS, P, SPLIT, PRECISION)
        t -= 1
