"""Run by test_fused.py: Triton kernels in the interpreter ("persistent", "steps"), or built for sm_90 ("resources")."""

from __future__ import annotations

import sys

import torch
from oracles import loop_sequence
from test_fused import compare, problem

from mast_train.engines.fused.dense import StepTiles, Tiles, tiles


def persistent() -> None:
    for shape, ragged, channels in [
        ((1, 1, 1, 16), False, True),
        ((2, 4, 9, 16), True, True),
        ((6, 3, 11, 24), True, False),
        ((2, 3, 5, 40), False, True),
        ((1, 3, 17, 64), True, False),
    ]:
        gates, weight, bias, lengths, _, upstream = problem(*shape, 0.5, ragged)
        compare(gates, weight, bias, lengths, None, upstream, channels)
    gates, weight, bias, lengths, _, upstream = problem(2, 4, 3, 16, 0.5, True)
    plain = Tiles(rows=16, warps=4)
    options = {"forward_tiles": plain, "backward_tiles": plain}
    compare(
        gates, weight, bias, lengths, None, upstream, oracle=lambda *inputs: loop_sequence(*inputs, lengths), **options
    )


def steps() -> None:
    few = StepTiles(rows=8, warps=4, units=16, entries=16)
    for shape, ragged, channels, choice in [
        ((3, 3, 9, 40), True, True, few),
        ((1, 3, 3, 128), True, False, None),
        ((1, 2, 33, 100), False, True, None),
    ]:
        gates, weight, bias, lengths, _, upstream = problem(*shape, 0.5, ragged)
        weight *= 0.3
        compare(gates, weight, bias, lengths, None, upstream, channels, forward_tiles=choice, backward_tiles=choice)


def resources() -> None:
    from cross_compiled import resources as compiled

    from mast_train.engines.fused import dense_kernels, step_kernels

    kernels = {
        Tiles: (dense_kernels.forward_kernel, dense_kernels.backward_kernel),
        StepTiles: (step_kernels.forward_step, step_kernels.backward_step),
    }
    for hidden, precision, allowed in [(32, "ieee", 0), (64, "ieee", 128), (64, "tf32x3", 0), (256, "ieee", 0)]:
        choice = tiles(hidden, precision)
        for kernel in kernels[type(choice)]:
            flags = {"H": hidden, "ROWS": choice.rows, "PRECISION": precision, "RAGGED": True, "PACKED": True}
            flags |= {"KEEP": True} if "KEEP" in kernel.arg_names else {}
            if isinstance(choice, Tiles):
                flags |= {"P": hidden, "SPLIT": choice.split}
            else:
                flags |= {"UNITS": choice.units, "ENTRIES": choice.entries}
            found = compiled(kernel, flags, choice.warps, choice.stages)
            print(hidden, precision, kernel.fn.__name__, found)
            assert found.spilled_bytes <= allowed and found.shared_bytes <= 64 << 10


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"persistent": persistent, "steps": steps, "resources": resources}[sys.argv[1]]()
