"""What the GPU benchmarks share: random problems, their answer in float64, passes recorded as graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mast_train.engines.fused.dense import StepTiles, Tiles
from mast_train.engines.fused.sequence import gru_sequence
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


def torch_sequence(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from mast_train.networks.agents import GRUSequence

    return GRUSequence.apply(gates, weight, bias)


def channel_major(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def sparse(problem: Problem, cluster: int, warps: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The sequence on a problem's connections; the structure is made at the first call."""
    made: list[Structure] = []

    def run(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not made:
            made.append(Structure(problem.masks, cluster=cluster, warps=warps))
        return gru_sequence(gates, weight, bias, problem.lengths, made[0])

    return run


def dense(problem: Problem, precision: str, tiles: Tiles | StepTiles | None) -> Callable[..., Tensor]:
    def run(gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options = {"forward_tiles": tiles, "backward_tiles": tiles}
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
