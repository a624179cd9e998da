"""Updates as CUDA graphs: one launch for the networks, the targets, the gradients and the optimisers' steps.

A graph repeats recorded kernels on recorded addresses: batches are padded to a few lengths and copied into buffers that
stay where they are, every shape follows from a batch's own, and nothing between the batch and the new weights is read
back by the host. Updates that evolve the topology, one in `sparse.update_interval`, run outside; they change masks and
weights in place.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mast_train.experience.episodes import EpisodeBatch

if TYPE_CHECKING:
    from mast_train.learning.update import Cohort

STEPS = 16
"""Batches are padded to a multiple of this many steps: as many graphs as an episode's limit has multiples."""


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    batch: EpisodeBatch
    rows: list[dict[str, Tensor]]


class Graphs:
    """A cohort's updates, recorded once for each length of batch and stage of the targets."""

    def __init__(self, cohort: Cohort, limit: int) -> None:
        """limit: of an episode's steps. Every learner must have taken an ordinary update in this process before."""
        self._cohort, self._limit = weakref.proxy(cohort), limit
        self._recorded: dict[tuple[int, bool], _Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def update(self, batch: EpisodeBatch, delayed: bool) -> list[dict[str, Tensor]]:
        """New weights of every learner; of each, scalars for the log, on the device."""
        padded = batch.padded(padded_steps(batch.filled.shape[1], self._limit))
        key = padded.filled.shape[1], delayed
        if key not in self._recorded:
            self._recorded[key] = self._record(padded, delayed)
        recorded = self._recorded[key]
        recorded.batch.copy_(padded)
        recorded.graph.replay()
        return [{name: value.clone() for name, value in row.items()} for row in recorded.rows]

    def _record(self, batch: EpisodeBatch, delayed: bool) -> _Recorded:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up on first use, which cannot be recorded
            for _ in range(2):
                self._cohort.recordable_gradients(batch, delayed)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads (JAX, train.overlap) go on using the GPU.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            rows = self._cohort.recordable_gradients(batch, delayed)
            rows = [row | more for row, more in zip(rows, self._cohort.recordable_steps(), strict=True)]
        return _Recorded(graph, batch, rows)


def padded_steps(steps: int, limit: int) -> int:
    """The length that a batch of `steps` transitions is padded to."""
    return min(limit, -(-steps // STEPS) * STEPS)
