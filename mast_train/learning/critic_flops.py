"""FLOPs of networks other than the runtime's: agents without a memory, and critics of given actions. Plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from mast_runtime.measure.flops import GRU_ELEMENTWISE, SIGMOID, TANH, Matrix


@dataclass(frozen=True)
class PlainCounts:
    """fc1 -> ReLU -> mid -> ReLU -> fc2."""

    fc1: Matrix
    mid: Matrix
    fc2: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        return self.fc1, self.mid, self.fc2

    @property
    def paper_flops(self) -> float:
        return sum(matrix.paper_flops for matrix in self.matrices())

    @property
    def counted_flops(self) -> float:
        return sum(matrix.counted_flops for matrix in self.matrices()) + self.fc1.outputs + self.mid.outputs

    @property
    def paper_parameters(self) -> int:
        return sum(matrix.nnz for matrix in self.matrices())

    @property
    def counted_parameters(self) -> int:
        return sum(matrix.nnz + matrix.outputs for matrix in self.matrices())

    def dense(self) -> PlainCounts:
        return PlainCounts(*(matrix.dense() for matrix in self.matrices()))


@dataclass(frozen=True)
class CriticCounts:
    """fc1 -> ReLU -> GRU, one matrix [3h, 2h] as in AgentCounts, or mid -> ReLU; then fc2 on memory and action -> ReLU
    -> fc3. Once for one action; `another_flops` for each further one in the same memory."""

    fc1: Matrix
    gru: Matrix | None
    mid: Matrix | None
    fc2: Matrix
    fc3: Matrix

    def matrices(self) -> tuple[Matrix, ...]:
        return tuple(m for m in (self.fc1, self.gru, self.mid, self.fc2, self.fc3) if m is not None)

    @property
    def paper_flops(self) -> float:
        return sum(matrix.paper_flops for matrix in self.matrices())

    @property
    def counted_flops(self) -> float:
        hidden = self.fc1.outputs
        middle = hidden if self.gru is None else 3 * hidden + hidden * (2 * SIGMOID + TANH + GRU_ELEMENTWISE)
        return sum(matrix.counted_flops for matrix in self.matrices()) + hidden + middle + self.fc2.outputs

    @property
    def another_flops(self) -> float:
        """fc2's part of the action, as dense as the whole of fc2, a sum, ReLU, and fc3."""
        from_action = 2 * self.fc2.nnz * (self.fc2.inputs - self.fc1.outputs) / self.fc2.inputs
        return from_action + 2 * self.fc2.outputs + self.fc3.counted_flops

    @property
    def paper_parameters(self) -> int:
        return sum(matrix.nnz for matrix in self.matrices())

    @property
    def counted_parameters(self) -> int:
        """A GRU has a fourth bias."""
        more = 0 if self.gru is None else self.fc1.outputs
        return sum(matrix.nnz + matrix.outputs for matrix in self.matrices()) + more

    def dense(self) -> CriticCounts:
        gru, mid = (m and m.dense() for m in (self.gru, self.mid))
        return CriticCounts(self.fc1.dense(), gru, mid, self.fc2.dense(), self.fc3.dense())
