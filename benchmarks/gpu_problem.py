"""What the GPU benchmarks share: random problems, their answer in float64, passes recorded as graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mast_train.engines.fused.dense import StepTiles, Tiles
from mast_train.engines.fused.layout import Places
from mast_train.engines.fused.sequence import gru_places, gru_sequence
from mast_train.engines.fused.structure import Structure

ROWS = 32
SPARSITY = 0.95
DEVICE = "cuda"


@dataclass
class Problem:
    """Random inputs of a cell. gates row-major [G,T,R,3H]; weights 0 off the masks [G,3H,H]."""

    groups: int
    steps: int
    hidden: int
    rows: int = ROWS
    sparsity: float = SPARSITY
    ragged: bool = False

    def __post_init__(self) -> None:
        g, t, h, r = self.groups, self.steps, self.hidden, self.rows
        self.masks = torch.rand(g, 3 * h, h, device=DEVICE) >= self.sparsity
        scale = (h * (1 - self.sparsity)) ** -0.5
        self.weight = (torch.randn(g, 3 * h, h, device=DEVICE) * scale * self.masks).requires_grad_()
        self.bias = torch.randn(g, 3 * h, device=DEVICE).mul_(0.1).requires_grad_()
        self.gates = torch.randn(g, t, r, 3 * h, device=DEVICE)
        self.upstream = torch.randn(g, t, r, h, device=DEVICE)
        self.lengths = torch.randint(0, t + 1, (g, r), device=DEVICE, dtype=torch.int32) if self.ragged else None

    def alive(self) -> Tensor:
        """bool [G,T,R,1]: the steps of each row."""
        if self.lengths is None:
            return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=DEVICE)
        return (torch.arange(self.steps, device=DEVICE)[None, :, None] < self.lengths[:, None]).unsqueeze(-1)

    def reference(self) -> list[Tensor]:
        """States and gradients of gates, weight and bias, in float64."""
        inputs = [x.detach().double().requires_grad_() for x in (self.gates, self.weight, self.bias)]
        states = torch_sequence(*inputs) * self.alive()
        return [states.detach(), *torch.autograd.grad(states, inputs, self.upstream.double() * self.alive())]

    def packed(self) -> tuple[Places, Callable[[Tensor, float], Tensor]]:
        """Of the rows' steps without padding, the longest row first, and 7 places that are nobody's; and what packs
        [G,T,R,C], with a number where nobody is."""
        assert self.lengths is not None
        lengths, order = self.lengths.sort(dim=1, descending=True, stable=True)
        alive = torch.arange(self.steps, device=DEVICE)[None, :, None] < lengths[:, None]
        begins = torch.nn.functional.pad(alive.sum(2).cumsum(1), (1, 0)).int()
        index = torch.full((self.groups, int(begins.max()) + 7), -1, device=DEVICE)
        group, step, row = alive.nonzero(as_tuple=True)
        index[group, begins[group, step] + row] = step * self.rows + order[group, row]

        def pack(x: Tensor, nobody: float) -> Tensor:
            at = index.clamp(min=0).unsqueeze(2).expand(-1, -1, x.shape[-1])
            return x.flatten(1, 2).gather(1, at).masked_fill(index.unsqueeze(2) < 0, nobody)

        return Places(self.rows, self.steps, lengths, begins), pack


def torch_sequence(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from mast_train.networks.agents import GRUSequence

    return GRUSequence.apply(gates, weight, bias)


def channel_major(x: Tensor) -> Tensor:
    """[G,...,C] with the channels second in memory."""
    return x.movedim(-1, 1).contiguous().movedim(1, -1)


def sparse(problem: Problem, cluster: int, warps: int, at: Places | None = None) -> Callable[..., Tensor]:
    """The sequence on a problem's connections, or `gru_places`; the structure is made at the first call."""
    made: list[Structure] = []

    def run(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not made:
            made.append(Structure(problem.masks, cluster=cluster, warps=warps))
        if at is not None:
            return gru_places(gates, weight, bias, at, made[0])
        return gru_sequence(gates, weight, bias, problem.lengths, made[0])

    return run


def dense(
    problem: Problem, precision: str, tiles: Tiles | StepTiles | None, at: Places | None = None
) -> Callable[..., Tensor]:
    def run(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"forward_tiles": tiles, "backward_tiles": tiles}
        if at is not None:
            return gru_places(gates, weight, bias, at, precision=precision, **options)
        return gru_sequence(gates, weight, bias, problem.lengths, precision=precision, **options)

    return run


@cache
def side_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def recorded(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """A replay of `work` as a CUDA graph, and what the recorded pass returned."""
    stream = side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work()
    return graph.replay, found


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Relative error of states and of the gradients of gates, weight and bias; nan where anything is nan."""
    return [float((a.double() - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(found, wanted, strict=True)]


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
