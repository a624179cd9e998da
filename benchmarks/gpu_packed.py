"""Batches with and without padding for gpu.py: drawn, gathered and learnt from, as training does, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
import update as one_update
from gpu_rows import Options, Row, Rows
from gpu_update import Cell, new_learners, replay_ms

from mast_train.engines.fused_engine import FusedEngine
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.replay import EpisodeBuffer, add, gather, pack, share
from mast_train.learning.update import Update

SHORTEST, MEAN = 5, 16.6
"""Of an exploring team's episodes on 3m: as many transitions on average as benchmarks/results/gpu-h100.json has an
episode, and an exponential tail up to the map's limit."""
KEPT = 200
"""Episodes in each seed's replay."""
ROUNDS, UPDATES = 5, 20
CELLS = ((64, 64, "mast-active"), (64, 8, "mast-active"), (64, 64, "dense"), (256, 8, "mast-active"))
"""Hidden units, seeds, method."""


@dataclass
class Way:
    """One way to take updates: `step` of batches by `make`."""

    step: Update
    make: Callable[[], object]
    ms: list[float]

    def time(self, updates: int, device: torch.device) -> None:
        """So many updates one after another, waited for once."""
        started = time.perf_counter()
        for _ in range(updates):
            for learner in self.step.learners:
                learner.updates = 0  # neither evolves the topology nor copies the targets
            self.step(self.make(), [1] * len(self.step.learners))  # type: ignore[arg-type]
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.ms.append(1e3 * (time.perf_counter() - started) / updates)


def stage_packed(rows: Rows, options: Options) -> None:
    for hidden, seeds, method in ((16, 2, "dense"),) if options.tiny else CELLS:
        cell = Cell(hidden, seeds, method, "fused")
        rows.measure(f"{hidden} {method} {seeds}", lambda cell=cell: both(cell, options), needs_s=6.0)


def both(cell: Cell, options: Options) -> Row:
    """Milliseconds an update takes in a row of them, either way, and the replays of the last graphs alone."""
    device, tiny = torch.device(options.device), options.tiny
    ways = {"padded": new_way(cell, device, False), "packed": new_way(cell, device, True)}
    for way in ways.values():  # records the commonest shapes
        way.time(2 if tiny else UPDATES, device)
        way.ms.clear()
    for _ in range(2 if tiny else ROUNDS):
        for way in ways.values():
            way.time(2 if tiny else UPDATES, device)
    found = {name: way.ms for name, way in ways.items()}
    row: Row = {f"{name}_ms": round(median(ms), 4) for name, ms in found.items()}
    pairs = zip(found["padded"], found["packed"], strict=True)
    row["gain"] = round(median(padded / packed for padded, packed in pairs), 3)
    for name, way in ways.items():
        if device.type == "cuda":
            graphs = [each.graph for each in way.step._recorder._recorded.values()]  # type: ignore[union-attr]
            row |= {f"{name}_graphs": len(graphs), f"{name}_replay_ms": round(replay_ms(graphs[-1]), 4)}
    return row


def new_way(cell: Cell, device: torch.device, packs: bool) -> Way:
    """Learners, their replay of random episodes, and how they take batches from it."""
    step = new_update(cell, device)
    spec, config = one_update.SPECS["3m"], step.learners[0].config.replay
    buffers = [EpisodeBuffer(replace(config, capacity=KEPT), spec, device) for _ in range(cell.seeds)]
    if cell.seeds > 1 and device.type != "cpu":
        share(buffers)
    for number in range(KEPT // one_update.EPISODES):
        parts = [random_episodes(spec, number * cell.seeds + seed) for seed in range(cell.seeds)]
        steps = max(part.filled.shape[1] for part in parts)
        padded = [part.padded(steps) for part in parts]
        fields = {name: torch.cat([getattr(part, name) for part in padded]) for name in vars(padded[0])}
        add(buffers, EpisodeBatch(**{name: value.to(device) for name, value in fields.items()}))
    generators, memory = [torch.Generator().manual_seed(seed) for seed in range(cell.seeds)], {}

    def make() -> object:
        ages = [buffer.draw(generator) for buffer, generator in zip(buffers, generators, strict=True)]
        return pack(buffers, ages, memory) if packs else gather(buffers, ages, memory, step.steps)

    return Way(step, make, [])


def new_update(cell: Cell, device: torch.device) -> Update:
    """By the fused kernel; on a CPU by the same engine with its recurrence in torch."""
    if device.type == "cuda":
        return Update(new_learners(cell, device))
    step = Update(new_learners(replace(cell, kernel="torch"), device))
    first = step.learners[0]
    step.engine = FusedEngine(first.config, first.spec, [each.parts for each in step.learners])
    return step


def random_episodes(spec: EnvSpec, seed: int) -> EpisodeBatch:
    """Of random contents, as long as an exploring team's."""
    generator = torch.Generator().manual_seed(seed)
    tail = torch.empty(one_update.EPISODES, 1).exponential_(1.0 / (MEAN - SHORTEST), generator=generator)
    lengths = (SHORTEST + tail.round().long()).clamp(max=spec.episode_limit)
    return one_update.random_batch(spec, seed, lengths)
