"""The recurrence of grouped GRUs on a CUDA GPU: torch beside the fused kernels, dense and on 95 % sparse connections.

    python benchmarks/gpu_kernels.py [--check] [--seconds 80] [--hidden 64 128 256] [--groups 3 24 192] [--json FILE]

Every cell is a pass over T steps of 32 rows a group, recorded as a CUDA graph (but "eager") and timed by events over
replays: "forward/all" in microseconds, all with the gradients of gates, weights and biases ("weights": the part of the
last two). The weights are masked uniformly at random; dense kernels multiply the zeros too. Errors are
||found - float64|| / ||float64||, the worst of states and gradients. "cudnn" is nn.GRU with one network for all rows,
input projections included: a yardstick, not the same work. --check first compares odd shapes, ragged lengths and
changing structures on the card.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from gpu_check import check
from gpu_problem import DEVICE, Problem, channel_major, dense, errors, one_line, recorded, sparse, torch_sequence
from torch import Tensor

from mast_train.engines.fused.dense import StepTiles, Tiles
from mast_train.engines.fused.sequence import weight_gradients

REPLAYS = 20
COLUMNS = ("eager", "graph", "cell", "ieee", "tf32x3", "sparse", "weights", "cudnn")


def cell_sequence(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """torch's fused pointwise cell after one batched product a step."""
    g, _, r, width = gates.shape
    h = gates.new_zeros(g, r, width // 3)
    states = []
    for x in gates.transpose(0, 1).contiguous():
        projected = torch.baddbmm(bias.unsqueeze(1), h, weight.mT)
        flat = (x.flatten(0, 1), projected.flatten(0, 1), h.flatten(0, 1))
        h = torch.ops.aten._thnn_fused_gru_cell(*flat)[0].view(g, r, -1)
        states.append(h)
    return torch.stack(states, 1)


@dataclass(frozen=True)
class Candidate:
    """column: of the table; name: which of its variants; run: gates, weight, bias -> states."""

    column: str
    name: str
    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    channels: bool = False
    graph: bool = True


def dense_tiles(hidden: int) -> Iterator[tuple[str, Tiles | StepTiles]]:
    """(precision, tiles) worth trying."""
    if hidden <= 64:
        yield "ieee", Tiles(rows=8, warps=8, split=4)
        yield "ieee", Tiles(rows=8, warps=4, split=4)
        yield "ieee", StepTiles(rows=32, warps=4, units=16, entries=64)
        yield "tf32x3", Tiles(rows=16, warps=8)
        yield "tf32x3", Tiles(rows=32, warps=8)
        return
    yield "ieee", StepTiles(rows=32, warps=4, units=16, entries=64)
    yield "ieee", StepTiles(rows=32, warps=4, units=32, entries=32)
    yield "ieee", StepTiles(rows=16, warps=4, units=16, entries=64)
    yield "tf32x3", StepTiles(rows=32, warps=4, units=16, entries=64)
    yield "tf32x3", StepTiles(rows=32, warps=8, units=32, entries=64)


def short(tiles: Tiles | StepTiles) -> str:
    """Rows x units x entries for a step, rows x all for all steps, then warps."""
    size = f"{tiles.units}x{tiles.entries}" if isinstance(tiles, StepTiles) else f"all/{tiles.split}"
    return f"{tiles.rows}x{size}/{tiles.warps}w"


def splits(problem: Problem) -> Iterator[tuple[int, int]]:
    """(cluster, warps) of the sparse kernel worth trying: more blocks where groups are few."""
    yield 1, 16
    yield 1, 32
    for cluster in (2, 4, 8):
        if problem.groups * cluster <= 2 * 132:
            yield cluster, 16
    if problem.hidden <= 64:
        yield 1, 8


def candidates(problem: Problem) -> Iterator[Candidate]:
    for cluster, warps in splits(problem):
        yield Candidate("sparse", f"{cluster}x{warps}", sparse(problem, cluster, warps), True)
    for precision, tiles in dense_tiles(problem.hidden):
        yield Candidate(precision, short(tiles), dense(problem, precision, tiles))
    yield Candidate("graph", "", torch_sequence)
    yield Candidate("cell", "", cell_sequence)
    yield Candidate("eager", "", torch_sequence, graph=False)


def median_us(work: Callable[[], object]) -> float:
    """Median time of a call by events, after three to warm up."""
    times = []
    for _ in range(REPLAYS + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return median(1e3 * begin.elapsed_time(end) for begin, end in times[3:])


def passes(problem: Problem, candidate: Candidate) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """The forward pass, and the pass with gradients: states, then gradients of gates, weight and bias."""
    layout = channel_major if candidate.channels else lambda x: x
    gates, upstream = layout(problem.gates).requires_grad_(), layout(problem.upstream)
    inputs = (gates, problem.weight, problem.bias)

    def both() -> list[Tensor]:
        states = candidate.run(*inputs)
        return [states.detach(), *torch.autograd.grad(states, inputs, upstream)]

    return lambda: [candidate.run(*inputs).detach()], both


def measure(problem: Problem, candidate: Candidate, wanted: list[Tensor]) -> dict:
    forward, both = passes(problem, candidate)
    if not candidate.graph:
        found = both()
        return {"forward_us": median_us(forward), "all_us": median_us(both), "errors": errors(found, wanted)}
    replay, _ = recorded(forward)
    forward_us = median_us(replay)
    replay, found = recorded(both)
    all_us = median_us(replay)
    return {"forward_us": forward_us, "all_us": all_us, "errors": errors(found, wanted)}


def cudnn(problem: Problem) -> dict:
    """nn.GRU, one network for the rows of all groups."""
    network = torch.nn.GRU(problem.hidden, problem.hidden, device=DEVICE)
    rows = problem.groups * problem.rows
    x = torch.randn(problem.steps, rows, problem.hidden, device=DEVICE, requires_grad=True)
    upstream = torch.randn_like(x)
    parameters = (x, *network.parameters())

    def both() -> list[Tensor]:
        states = network(x)[0]
        return [states.detach(), *torch.autograd.grad(states, parameters, upstream)]

    forward, _ = recorded(lambda: [network(x)[0]])
    times = {"forward_us": median_us(forward)}
    replay, _ = recorded(both)
    return times | {"all_us": median_us(replay), "errors": []}


def weights(problem: Problem) -> dict:
    """The gradients of weights and biases alone, a part of every fused pass."""
    shape, h = (problem.groups, problem.steps * problem.rows), problem.hidden
    grads, before = (torch.randn(shape[0], c * h, shape[1], device=DEVICE).mT for c in (4, 1))
    replay, _ = recorded(lambda: list(weight_gradients(grads, before)))
    time_us = median_us(replay)
    return {"forward_us": time_us, "all_us": time_us, "errors": []}


def cell_rows(problem: Problem, deadline: float) -> list[dict]:
    """Every candidate of a cell, each surviving the failure of another."""
    wanted, rows = problem.reference(), []
    for candidate in candidates(problem):
        if time.monotonic() > deadline:
            break
        row = {"column": candidate.column, "name": candidate.name}
        try:
            row |= measure(problem, candidate, wanted)
        except Exception as error:
            row |= {"error": one_line(error)}
            print(f"  {candidate.column} {candidate.name}: {row['error']}", flush=True)
        rows.append(row)
    for column, yardstick in (("weights", weights), ("cudnn", cudnn)):
        try:
            rows.append({"column": column, "name": ""} | yardstick(problem))
        except Exception as error:
            print(f"  {column}: {one_line(error)}", flush=True)
    return rows


def line(problem: Problem, rows: list[dict]) -> str:
    """The fastest variant of every column."""
    text, worst, best = f"{problem.hidden:4} {problem.groups:4} {problem.steps:3}", 0.0, ""
    for column in COLUMNS:
        own = [row for row in rows if row["column"] == column and "all_us" in row]
        if not own:
            text += f"{'-':>16}"
            continue
        fastest = min(own, key=lambda row: row["all_us"])
        text += f"{fastest['forward_us']:8.0f}/{fastest['all_us']:<7.0f}"
        if column in ("ieee", "tf32x3", "sparse"):
            worst = max([worst, *(error for row in own for error in row["errors"])])
            best = f"{fastest['name']}" if column == "sparse" else best
    return f"{text} {worst:8.1e} {best}"


def variants(rows: list[dict]) -> str:
    """All of a cell: microseconds of the whole pass, error."""
    done = (row for row in rows if "all_us" in row)
    return "  " + "; ".join(
        f"{row['column']} {row['name']} {row['forward_us']:.0f}/{row['all_us']:.0f}"
        + (f" {max(row['errors']):.0e}" if row["errors"] else "")
        for row in done
    )


def benchmark(options: argparse.Namespace) -> list[dict]:
    deadline, results, lines = time.monotonic() + options.seconds, [], []
    for steps in (64, 32):
        for hidden in options.hidden:
            for groups in options.groups:
                if time.monotonic() > deadline:
                    continue
                torch.manual_seed(hidden + groups)
                problem = Problem(groups, steps, hidden)
                try:
                    rows = cell_rows(problem, deadline)
                except Exception as error:
                    print(f"  cell {hidden} {groups} {steps}: {one_line(error)}", flush=True)
                    continue
                results.append({"hidden": hidden, "groups": groups, "steps": steps, "rows": rows})
                lines.append(line(problem, rows))
                print(f"H {hidden} G {groups} T {steps}", flush=True)
                print(variants(rows), flush=True)
                torch.cuda.empty_cache()
    header = f"{'H':>4} {'G':>4} {'T':>3}" + "".join(f"{column:>16}" for column in COLUMNS)
    print("\n".join([f"{header}  error  sparse split", *lines]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256, 128])
    parser.add_argument("--groups", type=int, nargs="+", default=[3, 24, 192])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import triton

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}", flush=True)
    failures = check() if options.check else 0
    results = benchmark(options) if options.seconds > 0 else []
    if options.json:
        found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
        options.json.write_text(json.dumps(found | {"check_failures": failures, "cells": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
