"""Triton kernels of one step of the dense recurrence, for weights that do not fit on the chip. Launched by `dense`.

A program serves one group, ROWS of its rows and UNITS of its hidden units; it walks the H entries of its weights in
pieces of ENTRIES. Strides are of [G,T,R,C] tensors: group, step, row, channel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mast_train.engines.fused.dense_kernels import cell, cell_gradients, product, row_lengths


@triton.jit(do_not_specialize=["t", "T"])
def forward_step(
    gates, gates_g, gates_t, gates_r, gates_c,
    states, states_g, states_t, states_r, states_c,
    saved, saved_g, saved_t, saved_r, saved_c,
    weight, bias, lengths, t, T, R,
    H: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, ENTRIES: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    group, step = tl.program_id(0).to(tl.int64), t.to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    used = (row < R)[:, None] & (unit < H)[None, :]
    out = states + group * states_g + step * states_t + row[:, None] * states_r
    if t < tl.max(length):
        h_r = tl.zeros([ROWS, UNITS], tl.float32)
        h_z = tl.zeros([ROWS, UNITS], tl.float32)
        from_h = tl.zeros([ROWS, UNITS], tl.float32)
        before = out - states_t
        if t > 0:
            for first in range(0, H, ENTRIES):
                entry = first + tl.arange(0, ENTRIES)
                known = (row < R)[:, None] & (entry < H)[None, :]
                inside = (unit < H)[None, :] & (entry < H)[:, None]
                w = weight + group * 3 * H * H + unit[None, :] * H + entry[:, None]
                h = tl.load(before + entry[None, :] * states_c, mask=known, other=0.0)
                h_r += product(h, tl.load(w, mask=inside, other=0.0), PRECISION)
                h_z += product(h, tl.load(w + H * H, mask=inside, other=0.0), PRECISION)
                from_h += product(h, tl.load(w + 2 * H * H, mask=inside, other=0.0), PRECISION)
        b = bias + group * 3 * H + unit
        h_r += tl.load(b, mask=unit < H, other=0.0)[None, :]
        h_z += tl.load(b + H, mask=unit < H, other=0.0)[None, :]
        from_h += tl.load(b + 2 * H, mask=unit < H, other=0.0)[None, :]
        x = gates + group * gates_g + step * gates_t + row[:, None] * gates_r + unit[None, :] * gates_c
        x_r = tl.load(x, mask=used, other=0.0)
        x_z = tl.load(x + H * gates_c, mask=used, other=0.0)
        x_n = tl.load(x + 2 * H * gates_c, mask=used, other=0.0)
        own = tl.load(before + unit[None, :] * states_c, mask=used & (t > 0), other=0.0)
        r, z, n, after = cell(x_r, x_z, x_n, h_r, h_z, from_h, own)
        tl.store(out + unit[None, :] * states_c, tl.where((t < length)[:, None], after, 0.0), mask=used)
        if KEEP:
            kept = saved + group * saved_g + step * saved_t + row[:, None] * saved_r + unit[None, :] * saved_c
            tl.store(kept, r, mask=used)
            tl.store(kept + H * saved_c, z, mask=used)
            tl.store(kept + 2 * H * saved_c, n, mask=used)
            tl.store(kept + 3 * H * saved_c, from_h, mask=used)
    else:
        tl.store(out + unit[None, :] * states_c, tl.zeros([ROWS, UNITS], tl.float32), mask=used)


@triton.jit(do_not_specialize=["t", "T"])
def backward_step(
    upstream, upstream_g, upstream_t, upstream_r, upstream_c,
    states, states_g, states_t, states_r, states_c,
    saved, saved_g, saved_t, saved_r, saved_c,
    grads, grads_g, grads_t, grads_r, grads_c,
    passed, weight, lengths, t, T, R,
    H: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, ENTRIES: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """passed [G,R,H]: what the step after passed back by its update gate; overwritten."""
    group, step = tl.program_id(0).to(tl.int64), t.to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    unit = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    used = (row < R)[:, None] & (unit < H)[None, :]
    out = grads + group * grads_g + step * grads_t + row[:, None] * grads_r
    gate = H * grads_c
    here = passed + group * R * H + row[:, None] * H + unit[None, :]
    d_r = tl.zeros([ROWS, UNITS], tl.float32)
    d_z, d_n, d_h, carry = d_r, d_r, d_r, d_r
    if t < tl.max(length):
        dh = tl.zeros([ROWS, UNITS], tl.float32)
        if t + 1 < T:
            after = out + grads_t
            for first in range(0, H, ENTRIES):
                entry = first + tl.arange(0, ENTRIES)
                known = (row < R)[:, None] & (entry < H)[None, :]
                inside = (unit < H)[None, :] & (entry < H)[:, None]
                w = weight + group * 3 * H * H + entry[:, None] * H + unit[None, :]
                d = after + entry[None, :] * grads_c
                for_r, for_z = tl.load(d, mask=known, other=0.0), tl.load(d + gate, mask=known, other=0.0)
                for_h = tl.load(d + 3 * gate, mask=known, other=0.0)
                dh += product(for_r, tl.load(w, mask=inside, other=0.0), PRECISION)
                dh += product(for_z, tl.load(w + H * H, mask=inside, other=0.0), PRECISION)
                dh += product(for_h, tl.load(w + 2 * H * H, mask=inside, other=0.0), PRECISION)
            dh += tl.load(here, mask=used, other=0.0)
        at = upstream + group * upstream_g + step * upstream_t + row[:, None] * upstream_r + unit[None, :] * upstream_c
        dh += tl.load(at, mask=used, other=0.0)
        before = states + group * states_g + (step - 1) * states_t + row[:, None] * states_r + unit[None, :] * states_c
        h = tl.load(before, mask=used & (t > 0), other=0.0)
        kept = saved + group * saved_g + step * saved_t + row[:, None] * saved_r + unit[None, :] * saved_c
        r, z = tl.load(kept, mask=used, other=0.0), tl.load(kept + H * saved_c, mask=used, other=0.0)
        n = tl.load(kept + 2 * H * saved_c, mask=used, other=0.0)
        from_h = tl.load(kept + 3 * H * saved_c, mask=used, other=0.0)
        alive = (t < length)[:, None]
        d_r, d_z, d_n, d_h, carry = cell_gradients(dh, h, r, z, n, from_h)
        d_r, d_z = tl.where(alive, d_r, 0.0), tl.where(alive, d_z, 0.0)
        d_n, d_h = tl.where(alive, d_n, 0.0), tl.where(alive, d_h, 0.0)
        carry = tl.where(alive, carry, 0.0)
    place = out + unit[None, :] * grads_c
    tl.store(place, d_r, mask=used)
    tl.store(place + gate, d_z, mask=used)
    tl.store(place + 2 * gate, d_n, mask=used)
    tl.store(place + 3 * gate, d_h, mask=used)
    tl.store(here, carry, mask=used)
