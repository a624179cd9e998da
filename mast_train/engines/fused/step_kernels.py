"""Triton kernels of one step of the dense recurrence, for weights that do not fit on the chip. Launched by `dense`.

A program serves one group, ROWS of its rows and UNITS of its hidden units; it walks the H entries of its weights in
pieces of ENTRIES. Strides are of [G,places,C] tensors: group, place, channel; which place is whose is layout.Places'.
The program of the first rows clears, at step 0, what is behind all packed steps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mast_train.engines.fused.dense_kernels import begin, cell, cell_gradients, clear, product, row_lengths


@triton.jit(do_not_specialize=["t", "T", "places"])
def forward_step(
    gates, gates_g, gates_p, gates_c,
    states, states_g, states_p, states_c,
    saved, saved_g, saved_p, saved_c,
    weight, bias, lengths, begins, t, T, R, places,
    H: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, ENTRIES: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    group, first_row = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    row = first_row + tl.arange(0, ROWS)
    unit = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    units = (unit < H)[None, :]
    used, alive = (row < R)[:, None] & units, (t < length)[:, None] & units
    stored = alive if PACKED else used
    here = begin(begins, group, t, T, R, PACKED)
    out = states + group * states_g + (here + row)[:, None] * states_p
    kept = saved + group * saved_g + (here + row)[:, None] * saved_p + unit[None, :] * saved_c
    if t < tl.max(length):
        h_r = tl.zeros([ROWS, UNITS], tl.float32)
        h_z = tl.zeros([ROWS, UNITS], tl.float32)
        from_h = tl.zeros([ROWS, UNITS], tl.float32)
        own = tl.zeros([ROWS, UNITS], tl.float32)
        if t > 0:
            earlier = begin(begins, group, t - 1, T, R, PACKED)
            before = states + group * states_g + (earlier + row)[:, None] * states_p
            own = tl.load(before + unit[None, :] * states_c, mask=alive, other=0.0)
            for first in range(0, H, ENTRIES):
                entry = first + tl.arange(0, ENTRIES)
                known = (t < length)[:, None] & (entry < H)[None, :]
                inside = units & (entry < H)[:, None]
                w = weight + group * 3 * H * H + unit[None, :] * H + entry[:, None]
                h = tl.load(before + entry[None, :] * states_c, mask=known, other=0.0)
                h_r += product(h, tl.load(w, mask=inside, other=0.0), PRECISION)
                h_z += product(h, tl.load(w + H * H, mask=inside, other=0.0), PRECISION)
                from_h += product(h, tl.load(w + 2 * H * H, mask=inside, other=0.0), PRECISION)
        b = bias + group * 3 * H + unit
        h_r += tl.load(b, mask=unit < H, other=0.0)[None, :]
        h_z += tl.load(b + H, mask=unit < H, other=0.0)[None, :]
        from_h += tl.load(b + 2 * H, mask=unit < H, other=0.0)[None, :]
        x = gates + group * gates_g + (here + row)[:, None] * gates_p + unit[None, :] * gates_c
        x_r = tl.load(x, mask=alive, other=0.0)
        x_z = tl.load(x + H * gates_c, mask=alive, other=0.0)
        x_n = tl.load(x + 2 * H * gates_c, mask=alive, other=0.0)
        r, z, n, after = cell(x_r, x_z, x_n, h_r, h_z, from_h, own)
        tl.store(out + unit[None, :] * states_c, tl.where(alive, after, 0.0), mask=stored)
        if KEEP:
            tl.store(kept, r, mask=stored)
            tl.store(kept + H * saved_c, z, mask=stored)
            tl.store(kept + 2 * H * saved_c, n, mask=stored)
            tl.store(kept + 3 * H * saved_c, from_h, mask=stored)
            tl.store(kept + 4 * H * saved_c, own, mask=stored)
    else:
        tl.store(out + unit[None, :] * states_c, tl.zeros([ROWS, UNITS], tl.float32), mask=stored)
        if KEEP:
            tl.store(kept + 4 * H * saved_c, tl.zeros([ROWS, UNITS], tl.float32), mask=stored)
    if PACKED:  # noqa: SIM102 (a constant of the compiler, and a number)
        if t == 0:
            clear(
                states + group * states_g, states_p, unit[None, :] * states_c, begins, group, first_row, 0, T, R,
                places, row, units, used, PACKED, ROWS, UNITS,
            )  # fmt: skip
            if KEEP:
                clear(
                    saved + group * saved_g + 4 * H * saved_c, saved_p, unit[None, :] * saved_c, begins, group,
                    first_row, 0, T, R, places, row, units, used, PACKED, ROWS, UNITS,
                )  # fmt: skip


@triton.jit(do_not_specialize=["t", "T", "places"])
def backward_step(
    upstream, upstream_g, upstream_p, upstream_c,
    saved, saved_g, saved_p, saved_c,
    grads, grads_g, grads_p, grads_c,
    passed, weight, lengths, begins, t, T, R, places,
    H: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr, ENTRIES: tl.constexpr,
    PRECISION: tl.constexpr, RAGGED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """passed [G,R,H]: what the step after passed back by its update gate; overwritten."""
    group, first_row = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    row = first_row + tl.arange(0, ROWS)
    unit = tl.program_id(2) * UNITS + tl.arange(0, UNITS)
    length = row_lengths(lengths, group, row, T, R, RAGGED)
    units = (unit < H)[None, :]
    used, alive = (row < R)[:, None] & units, (t < length)[:, None] & units
    stored = alive if PACKED else used
    here = begin(begins, group, t, T, R, PACKED)
    out = grads + group * grads_g + (here + row)[:, None] * grads_p
    gate = H * grads_c
    back = passed + group * R * H + row[:, None] * H + unit[None, :]
    d_r = tl.zeros([ROWS, UNITS], tl.float32)
    d_z, d_n, d_h, carry = d_r, d_r, d_r, d_r
    if t < tl.max(length):
        dh = tl.zeros([ROWS, UNITS], tl.float32)
        if t + 1 < T:
            later = begin(begins, group, t + 1, T, R, PACKED)
            after = grads + group * grads_g + (later + row)[:, None] * grads_p
            for first in range(0, H, ENTRIES):
                entry = first + tl.arange(0, ENTRIES)
                known = (t + 1 < length)[:, None] & (entry < H)[None, :]
                inside = units & (entry < H)[:, None]
                w = weight + group * 3 * H * H + entry[:, None] * H + unit[None, :]
                d = after + entry[None, :] * grads_c
                for_r, for_z = tl.load(d, mask=known, other=0.0), tl.load(d + gate, mask=known, other=0.0)
                for_h = tl.load(d + 3 * gate, mask=known, other=0.0)
                dh += product(for_r, tl.load(w, mask=inside, other=0.0), PRECISION)
                dh += product(for_z, tl.load(w + H * H, mask=inside, other=0.0), PRECISION)
                dh += product(for_h, tl.load(w + 2 * H * H, mask=inside, other=0.0), PRECISION)
            dh += tl.load(back, mask=used, other=0.0)
        at = upstream + group * upstream_g + (here + row)[:, None] * upstream_p + unit[None, :] * upstream_c
        dh += tl.load(at, mask=alive, other=0.0)
        kept = saved + group * saved_g + (here + row)[:, None] * saved_p + unit[None, :] * saved_c
        r, z = tl.load(kept, mask=alive, other=0.0), tl.load(kept + H * saved_c, mask=alive, other=0.0)
        n = tl.load(kept + 2 * H * saved_c, mask=alive, other=0.0)
        from_h = tl.load(kept + 3 * H * saved_c, mask=alive, other=0.0)
        h = tl.load(kept + 4 * H * saved_c, mask=alive, other=0.0)
        d_r, d_z, d_n, d_h, carry = cell_gradients(dh, h, r, z, n, from_h)
        d_r, d_z = tl.where(alive, d_r, 0.0), tl.where(alive, d_z, 0.0)
        d_n, d_h = tl.where(alive, d_n, 0.0), tl.where(alive, d_h, 0.0)
        carry = tl.where(alive, carry, 0.0)
    place = out + unit[None, :] * grads_c
    tl.store(place, d_r, mask=stored)
    tl.store(place + gate, d_z, mask=stored)
    tl.store(place + 2 * gate, d_n, mask=stored)
    tl.store(place + 3 * gate, d_h, mask=stored)
    tl.store(back, carry, mask=used)
    if PACKED:  # noqa: SIM102 (a constant of the compiler, and a number)
        if t == 0:
            for number in tl.static_range(4):
                clear(
                    grads + group * grads_g + number * gate, grads_p, unit[None, :] * grads_c, begins, group,
                    first_row, 0, T, R, places, row, units, used, PACKED, ROWS, UNITS,
                )  # fmt: skip
