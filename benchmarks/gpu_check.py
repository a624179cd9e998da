"""The fused kernels against float64 on the card: odd shapes, ragged rows, NaN in the padding, replays after changes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gpu_problem import DEVICE, Problem, channel_major, dense, errors, one_line, recorded, sparse
from torch import Tensor

from mast_train.engines.fused.sequence import gru_sequence
from mast_train.engines.fused.structure import Structure

SHAPES = [
    (1, 1, 16, 1), (3, 5, 24, 33), (2, 7, 40, 7), (6, 9, 64, 32), (2, 33, 64, 70), (5, 12, 37, 32),
    (2, 6, 100, 9), (3, 8, 128, 33), (2, 5, 256, 40), (1, 4, 250, 32),
]  # fmt: skip
"""Groups, steps, hidden units, rows."""
SPLITS = [(1, 16), (1, 8), (2, 16), (4, 8), (8, 16), (1, 32)]
LIMITS = {"sparse": 1e-5, "ieee": 1e-5, "tf32x3": 1e-4}


def check_cases() -> Iterator[tuple[str, Problem, dict]]:
    """(family, problem, how); layouts and ragged rows take turns where every kind needs a compilation."""
    for number, (g, t, h, r) in enumerate(SHAPES):
        problems = [Problem(g, t, h, r, 0.9 if h < 100 else 0.95, ragged) for ragged in (False, True)]
        for problem in problems:
            for split in SPLITS:
                yield "sparse", problem, {"split": split, "channels": problem.ragged}
        yield "ieee", problems[number % 2], {"channels": number % 3 == 0}
        if number % 2:
            yield "tf32x3", problems[1], {"channels": number % 3 == 0}


def check_case(family: str, problem: Problem, how: dict) -> None:
    """Raises AssertionError where a recorded pass differs from float64 or is not zero where nobody's step is; of ragged
    rows packed, too."""
    check_pass(family, problem, how, False)
    if problem.ragged:
        check_pass(family, problem, how, True)


def check_pass(family: str, problem: Problem, how: dict, packed: bool) -> None:
    alive, wanted = problem.alive(), problem.reference()
    gates, upstream, at = problem.gates, problem.upstream, None
    if packed:
        at, pack = problem.packed()
        gates, upstream = pack(gates, torch.nan), pack(upstream, torch.nan)
        wanted[:2] = (pack(x, 0.0) for x in wanted[:2])
        alive = pack(alive.expand(-1, -1, problem.rows, 1).float(), 0.0) > 0
    layout = channel_major if how["channels"] else lambda x: x
    gates = layout(torch.where(alive, gates, torch.nan)).requires_grad_()
    upstream = layout(torch.where(alive, upstream, torch.nan))
    run = sparse(problem, *how["split"], at) if "split" in how else dense(problem, family, None, at)
    inputs = (gates, problem.weight, problem.bias)

    def both() -> list[Tensor]:
        states = run(*inputs)
        return [states.detach(), *torch.autograd.grad(states, inputs, upstream)]

    replay, found = recorded(both)
    for tensor in found:
        tensor.fill_(torch.nan)
    replay()
    worst = max(errors(found, wanted), key=lambda error: error if error == error else float("inf"))
    padding = [x.masked_select(~alive.expand_as(x)).abs().sum().item() for x in found[:2]]
    if not (worst < LIMITS[family] and sum(padding) == 0.0):
        raise AssertionError(f"error {worst:.1e}, padding sums to {padding}")


def check() -> int:
    """Failures over odd shapes."""
    failures = cases = 0
    for family, problem, how in check_cases():
        cases += 1
        try:
            check_case(family, problem, how)
        except Exception as error:
            failures += 1
            shape = (problem.groups, problem.steps, problem.hidden, problem.rows, problem.ragged)
            print(f"  FAILED {family} {how} {shape}: {one_line(error)}", flush=True)
    print(f"check: {cases - failures} of {cases} cases agree with float64", flush=True)
    try:
        check_changes()
    except Exception as error:
        failures += 1
        print(f"  FAILED after changes: {one_line(error)}", flush=True)
    return failures


def check_changes() -> None:
    """A recorded pass after its weights and its structure have changed."""
    problem = Problem(3, 6, 64, ragged=True)
    structure = Structure(problem.masks, cluster=2)
    inputs = (channel_major(problem.gates).requires_grad_(), problem.weight, problem.bias)

    def both() -> list[Tensor]:
        states = gru_sequence(*inputs, problem.lengths, structure)
        return [states.detach(), *torch.autograd.grad(states, inputs, channel_major(problem.upstream))]

    replay, found = recorded(both)
    version = structure.version
    with torch.no_grad():
        shuffled = torch.randperm(problem.masks.numel(), device=DEVICE)
        problem.masks = problem.masks.flatten()[shuffled].view_as(problem.masks)
        problem.weight.copy_(torch.randn_like(problem.weight) * problem.masks)
    structure.update(problem.masks)
    replay()
    worst = max(errors(found, problem.reference()))
    if not (worst < LIMITS["sparse"] and structure.version == version):
        raise AssertionError(f"error {worst:.1e}, version {version} -> {structure.version}")
    print(f"check: a replay after new weights and connections agrees, error {worst:.1e}", flush=True)
