"""Training end to end for gpu.py: what `mast train --seeds K` does but for its folders, for a fixed time."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import torch
from gpu_rows import Options, Row, Rows

from mast_train.runs.events import Evaluation, Event, Progress
from mast_train.runs.loop import Loop
from mast_train.runs.malloc import keep_freed_memory
from mast_train.runs.run import Run, threads
from mast_train.settings.config import override
from mast_train.settings.methods import preset

TOTAL = 2_000_000
WARM_UPDATES = 32
"""Updates of a seed before the clock starts: programs are compiled, and the commonest lengths recorded."""
SHARES = {("3m", 64): 0.5, ("3m", 8): 0.6, ("3m", 1): 0.6, ("2s3z", 64): 0.5, ("2s3z", 8): 0.6, ("2s3z", 1): 0.95}
"""Map and seeds -> of the time that is left."""


def stage_train(rows: Rows, options: Options) -> None:
    if options.tiny:
        given = {"env.name": "matrix", "env.map": "climbing", "replay.batch": 4, "replay.recent_batch": 1}
        return rows.measure("tiny 2", lambda: train(rows, "tiny 2", given, 2, 1.5, options))
    for (name, seeds), share in SHARES.items():
        cell, seconds = f"{name} {seeds}", share * rows.left_s
        work = lambda c=cell, n=name, k=seeds, s=seconds: train(rows, c, {"env.map": n}, k, s, options)  # noqa: E731
        rows.measure(cell, work, needs_s=12.0)
    return None


def train(rows: Rows, cell: str, given: dict, seeds: int, seconds: float, options: Options) -> Row:
    """Environment steps and updates a second of all seeds once warm, shares of their clocks, and the wins at last."""
    started = time.perf_counter()
    gc.collect()
    keep_freed_memory()
    settings = {**given, "device": options.device, "train.total_steps": TOTAL, "train.eval_interval": 10**9}
    config = override(preset("mast-active"), {**settings, "train.eval_episodes": 32})
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with ExitStack() as stack:
        stack.enter_context(threads(config.threads))
        runs = [stack.enter_context(closing(Run(replace(config, seed=seed)))) for seed in range(seeds)]
        loop = stack.enter_context(closing(Loop(runs)))
        return watched(rows, cell, loop, started, seconds)


def watched(rows: Rows, cell: str, loop: Loop, started: float, seconds: float) -> Row:
    runs, events = loop.runs, loop.events()
    for run in runs:
        run.next_eval = TOTAL
    warm = WARM_UPDATES if seconds > 5.0 else 1
    advance(events, runs)
    while min(run.learner.updates for run in runs) < warm and time.perf_counter() - started < 0.6 * seconds:
        advance(events, runs)
    seen = [(time.perf_counter(), totals(runs))]
    row: Row = {"setup_s": round(seen[0][0] - started, 1)}
    while "env_steps_per_s" not in row or time.perf_counter() - started < seconds:
        advance(events, runs)
        seen.append((time.perf_counter(), totals(runs)))
        row |= rates(seen, len(runs))
        rows.keep(cell, row | {"unfinished": True})
    for run in runs:
        run.next_eval = 0  # the next thing that the loop does
    started = time.perf_counter()
    found = [event for _, event in zip(runs, evaluations(events), strict=False)]
    row["evaluation_s"] = round(time.perf_counter() - started, 2)
    wins = [event.win_rate for event in found if event.win_rate is not None]
    row |= {"steps_each": round(sum(run.step for run in runs) / len(runs))}
    row |= {"return_mean": round(sum(event.return_mean for event in found) / len(found), 2)}
    if wins:
        row |= {"win_rate_mean": round(sum(wins) / len(wins), 3), "win_rate_max": max(wins)}
    if runs[0].device.type == "cuda":
        row["peak_mb"] = torch.cuda.max_memory_allocated() >> 20
    return row


def advance(events: Iterator[tuple[Run, Event]], runs: list[Run]) -> None:
    """One round of all."""
    for run, event in events:
        if run is runs[-1] and isinstance(event, Progress):
            return


def evaluations(events: Iterator[tuple[Run, Event]]) -> Iterator[Evaluation]:
    return (event for _, event in events if isinstance(event, Evaluation))


def totals(runs: list[Run]) -> dict[str, float]:
    """Of all seeds; the clocks' seconds add up to the time that passed."""
    clocks = [run.clock.as_dict() for run in runs]
    found: dict[str, float] = {"steps": sum(run.step for run in runs)}
    found["updates"] = sum(run.learner.updates for run in runs)
    return found | {name: sum(clock[name] for clock in clocks) for name in clocks[0]}


def rates(seen: list[tuple[float, dict[str, float]]], seeds: int) -> Row:
    """Of a window, from (time, totals) at its start and after every round. Its later half has fewer first times in it,
    when updates of another length are recorded: the time to 2M steps goes by that."""

    def between(first: int) -> tuple[float, dict[str, float]]:
        (begun, before), (ended, after) = seen[first], seen[-1]
        return ended - begun, {name: after[name] - before[name] for name in after}

    seconds, done = between(0)
    later_s, later = between((len(seen) - 1) // 2)
    row: Row = {
        "env_steps_per_s": round(done["steps"] / seconds, 1),
        "updates_per_s": round(done["updates"] / seconds, 1),
    }
    row |= {f"share_{name}": round(done[name] / seconds, 3) for name in ("environment", "acting", "learning")}
    row |= {"window_s": round(seconds, 1), "later_env_steps_per_s": round(later["steps"] / later_s, 1)}
    return row | {"minutes_to_2m": round(seeds * TOTAL * later_s / later["steps"] / 60.0, 1)}
