"""Whole updates for gpu.py: every kernel that runs here, dense beside sparse, for 1, 8 and 64 seeds."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
import update as one_update
from gpu_rows import Options, Row, Rows

from mast_train.engines import native
from mast_train.engines.base import Wanted
from mast_train.engines.choice import KERNELS
from mast_train.experience.episodes import EpisodeBatch
from mast_train.learning.learner import Learner
from mast_train.learning.update import Update
from mast_train.settings.config import override
from mast_train.settings.methods import preset

SPARSE, DENSE = "mast-active", "dense"
STEPS = 32
"""Transitions that batches are padded to: one recorded length."""
UPDATES = 20
EAGER_UPDATES = 10
REPLAYS = 20
TOP = 8
AGREES = 1e-3
"""By how much losses may be apart, of the loss."""
THREADS = 8
"""Of a second row of our C pass, where the machine has them."""


@dataclass(frozen=True)
class Cell:
    hidden: int
    seeds: int
    method: str
    kernel: str
    threads: int = 1

    @property
    def name(self) -> str:
        kernel = self.kernel if self.threads == 1 else f"{self.kernel}/{self.threads}"
        return f"{self.hidden} {self.method} {kernel} {self.seeds}"


def cells(options: Options) -> Iterator[Cell]:
    """What is asked first comes first: many seeds, recorded updates. Eager ones take longest."""
    hidden, seeds = ((16,), (1, 2)) if options.tiny else ((64, 256), (64, 8, 1))
    recorded = [name for name, kernel in KERNELS.items() if kernel.graphs and options.device == "cuda"]
    others = [name for name, kernel in KERNELS.items() if kernel.device == "cuda" and not kernel.graphs]
    for h in hidden:
        for kernel in (*recorded, *(others if options.device == "cuda" else ())):
            methods = (SPARSE, DENSE) if kernel == "fused" else (SPARSE,)  # to torch both are the same work
            yield from (Cell(h, k, method, kernel) for k in seeds for method in methods)
        if native.available():
            yield from (Cell(h, k, SPARSE, "native") for k in sorted(seeds) if k <= 8)
            if (os.cpu_count() or 1) >= THREADS:
                yield Cell(h, 8, SPARSE, "native", THREADS)
    for h in hidden:
        yield from (Cell(h, k, SPARSE, "torch") for k in sorted(seeds))


def stage_update(rows: Rows, options: Options) -> None:
    for cell in cells(options):
        rows.measure(cell.name, lambda cell=cell: measure(cell, options), needs_s=3.0)


def joint_batch(seeds: int, device: torch.device, first: int = 0) -> EpisodeBatch:
    """32 random episodes of every seed, padded to one length."""
    parts = [one_update.random_batch(one_update.SPECS["3m"], first + k).padded(STEPS) for k in range(seeds)]
    fields = {name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    return EpisodeBatch(**{name: value.to(device) for name, value in fields.items()})


def new_learners(cell: Cell, device: torch.device, **settings: int) -> list[Learner]:
    usual = {"env.map": "3m", "net.hidden": cell.hidden, "kernel": cell.kernel, "target.start": 0.0, **settings}
    configs = [override(preset(cell.method), {**usual, "seed": seed}) for seed in range(cell.seeds)]
    return [Learner(config, one_update.SPECS["3m"], device) for config in configs]


def agreement(kernel: str, options: Options) -> Row:
    """Two seeds by a kernel and by plain torch on the same batches, through changes of the topology: how far the losses
    lie apart, in the updates before the first change and in the last as many, and the masks' equal share in the end."""
    updates, interval, device = 20 if options.tiny else 200, 10 if options.tiny else 20, torch.device(options.device)
    cells = [Cell(16 if options.tiny else 64, 2, SPARSE, name) for name in (kernel, "torch")]
    changes = {"sparse.update_interval": interval, "train.target_interval": 25}
    both = [Update(new_learners(cell, device, **changes)) for cell in cells]
    batches = [joint_batch(2, device, 2 * k) for k in range(4)]
    losses = [torch.stack([step(batches[k % 4], [1, 1])["loss"] for k in range(updates)]) for step in both]
    apart = ((losses[0] - losses[1]) / losses[1]).abs()
    masks = [
        torch.cat(
            [m.flatten() for own in step.learners for worn in own.masks.values() for m in worn.state_dict().values()]
        )
        for step in both
    ]
    early = float(apart[: interval - 1].max())
    row: Row = {"updates": updates, "early": early, "late": float(apart[-interval:].max())}
    row["masks_equal"] = float((masks[0] == masks[1]).float().mean())
    return row if early < AGREES else row | {"error": f"losses are {early:.1e} apart before the topology changes"}


def measure(cell: Cell, options: Options) -> Row:
    """Milliseconds of an update of all seeds, of its recording's replay, and of an update that evolves the topology."""
    device = torch.device("cpu" if cell.kernel == "native" else options.device)
    torch.set_num_threads(cell.threads)
    _forget(device)
    started = time.perf_counter()
    learners = new_learners(cell, device)
    step, batch = Update(learners), joint_batch(cell.seeds, device)

    def plain() -> None:
        for learner in learners:
            learner.updates = 0  # neither evolves the topology nor copies the targets
        step(batch, [1] * cell.seeds)

    def evolving() -> None:
        for learner in learners:
            learner.updates = learner.config.sparse.update_interval - 1
        step(batch, [1] * cell.seeds)

    for _ in range(3):
        plain()
    _wait(device)
    row: Row = {"setup_s": round(time.perf_counter() - started, 2)}
    graph = recorded_graph(step)
    few = graph is None and device.type == "cuda"
    row["ms"] = round(timed(plain, device, 2 if options.tiny else EAGER_UPDATES if few else UPDATES), 4)
    if graph is not None:
        row |= {"replay_ms": round(replay_ms(graph), 4)}
        row |= profiled(graph, cell.seeds >= 64)
    if cell.method == SPARSE and cell.kernel != "native" and (options.tiny or cell.seeds in (1, 64)):
        row["parts_ms"] = parts(step, batch, device)
    if cell.method == SPARSE and cell.kernel != "torch":
        evolving()
        row["evolving_ms"] = round(timed(evolving, device, 2), 3)
    if device.type == "cuda":
        row["peak_mb"] = torch.cuda.max_memory_allocated() >> 20
    return row


def parts(step: Update, batch: EpisodeBatch, device: torch.device) -> Row:
    """Milliseconds of what an update is made of, each by itself, as a graph where the update is one: the target agents'
    pass, the online agents' forward and backward, the optimisers. Mixers, targets and losses are the rest of it."""
    engine = step.engine
    rows = engine.rows(batch)

    def target() -> list[torch.Tensor]:
        engine.passes(batch, rows, {"target_agents": Wanted(after=True)})
        return []

    def agents() -> list[torch.Tensor]:
        engine.clear_gradients()
        values = engine.passes(batch, rows, {"agents": Wanted(learning=True)})["agents"]
        values.taken.sum().backward()  # type: ignore[union-attr]
        return []

    def optimise() -> list[torch.Tensor]:
        step._optimise()
        return []

    found: Row = {}
    for name, work in {"target agents": target, "agents": agents, "optimisers": optimise}.items():
        if recorded_graph(step) is not None:
            from gpu_problem import recorded

            found[name] = round(mean_ms(recorded(work)[0]), 4)
        else:
            found[name] = round(timed(work, device, 2), 4)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget(device: torch.device) -> None:
    """Give back what the cell before held, so that the peak is this one's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(work: Callable[[], object], device: torch.device, times: int) -> float:
    """The median in milliseconds, each waited for."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * median(seconds)


def recorded_graph(step: Update) -> torch.cuda.CUDAGraph | None:
    """Of the one length that was seen; None where updates are not recorded."""
    recorded = getattr(step._recorder, "_recorded", {})
    return next((each.graph for each in recorded.values()), None)


def replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    """The mean over replays, by the device's clock."""
    return mean_ms(graph.replay)


def mean_ms(replay: Callable[[], None]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPLAYS):
        replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / REPLAYS


def profiled(graph: torch.cuda.CUDAGraph, with_top: bool) -> Row:
    """How many kernels and copies a replay is; and which take longest [us, times, name]."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            graph.replay()
            torch.cuda.synchronize()
        events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    except Exception as error:  # the profiler may be taken or forbidden: a count less, no time
        return {"profiler": str(error)[:200]}
    row: Row = {"kernels": sum(event.count for event in events)}
    if with_top:
        row["top"] = [[round(event.device_time_total), event.count, event.key[:120]] for event in events[:TOP]]
    return row
