"""Updates as CUDA graphs: one launch for the networks, the targets, the gradients and the optimisers' steps.

A graph repeats recorded kernels on recorded addresses: batches come in a few shapes and lie where the first of their
shape lay, or are copied there, every other shape follows from a batch's own, and nothing between the batch and the new
weights is read back by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.packed import Batch

STEPS = 16
"""Padded batches are of a multiple of this many steps: as many graphs as an episode's limit has multiples."""

Gradients = Callable[[Batch], dict[str, Tensor]]
Steps = Callable[[], dict[str, Tensor]]


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    log: dict[str, Tensor]


class Recorder:
    """Updates recorded once for each shape of batch."""

    def __init__(self, limit: int) -> None:
        """limit: of an episode's steps."""
        self._limit = limit
        self._recorded: dict[tuple[int, ...], _Recorded] = {}
        self._version = 0
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # one for all: each that cuBLAS runs on takes a workspace of its own

    def __call__(self, batch: Batch, gradients: Gradients, steps: Steps, version: int) -> dict[str, Tensor]:
        """`gradients` of the batch, then `steps`, from a recording of both where there is one; both logs in one.

        What they read besides the batch must stay at one address, and be what it was or be changed in place, as long
        as the version is the same.
        """
        if version != self._version:
            self._recorded, self._version = {}, version
        if isinstance(batch, EpisodeBatch):
            batch = batch.padded(self.steps(batch.filled.shape[1]))
        if batch.shape not in self._recorded:
            self._recorded[batch.shape] = self._record(batch, gradients, steps)
        recorded = self._recorded[batch.shape]
        recorded.batch.copy_(batch)  # type: ignore[arg-type] (of one kind: shapes differ in what they count)
        recorded.graph.replay()
        return {name: value.clone() for name, value in recorded.log.items()}

    def steps(self, steps: int) -> int:
        """The length that a batch of so many steps is padded to."""
        return padded_steps(steps, self._limit)

    def _record(self, batch: Batch, gradients: Gradients, steps: Steps) -> _Recorded:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # libraries set themselves up on first use, which cannot be recorded
            for _ in range(2):
                gradients(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads (JAX, train.overlap) go on using the GPU.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            log = gradients(batch) | steps()
        return _Recorded(graph, batch, log)


def padded_steps(steps: int, limit: int) -> int:
    """The length that a batch of `steps` transitions is padded to."""
    return min(limit, -(-steps // STEPS) * STEPS)
