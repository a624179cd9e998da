"""Inference FLOPs and parameters, by the paper's convention and with everything counted. Plain numbers in and out.

The paper (section "FLOPs", S a layer's sparsity): Linear (1-S)(2I-1)O; GRU (1-S) 3h [2(h+I)-1]; parameters (1-S) I O
and (1-S) 3h(h+I). A GRU is therefore one matrix [3h, h+I], and both are nnz (2I-1)/I with I the matrix's inputs. The
paper leaves out biases, activations and the choice of the action, and multiplies by the one-hot inputs; `counted_*` is
all that a program which looks their columns up has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mast_runtime.bundle import Bundle
    from mast_runtime.network import Contract, Network

TANH = 23
"""One tanh as a 13/6 rational: clamp 2, square 1, numerator 6 multiply-adds and a product, denominator 3, division."""
SIGMOID = TANH + 3
"""0.5 + 0.5 tanh(x / 2)."""
GRU_ELEMENTWISE = 8
"""Per unit: x- and h-parts of r and z joined (2), r times and plus (2), (1-z) n + z h (4)."""


class Counts(Protocol):
    """A part of the model whose forward pass on one sample can be counted."""

    @property
    def paper_flops(self) -> float: ...
    @property
    def counted_flops(self) -> float: ...
    @property
    def paper_parameters(self) -> int: ...
    @property
    def counted_parameters(self) -> int: ...
    def dense(self) -> Counts: ...


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [outputs, inputs] with nnz connections."""

    outputs: int
    inputs: int
    nnz: int

    @staticmethod
    def full(outputs: int, inputs: int) -> Matrix:
        return Matrix(outputs, inputs, outputs * inputs)

    def dense(self) -> Matrix:
        """The same shape with every connection."""
        return Matrix.full(self.outputs, self.inputs)

    def thinned(self, sparsity: float) -> Matrix:
        """The same shape at `sparsity`, rounded to whole connections."""
        return replace(self, nnz=round((1.0 - sparsity) * self.outputs * self.inputs))

    @property
    def paper_flops(self) -> float:
        """(1-S)(2I-1)O with 1-S = nnz / (I O)."""
        return self.nnz * (2 * self.inputs - 1) / self.inputs

    @property
    def counted_flops(self) -> int:
        """A product and a sum per connection, a bias per output."""
        return 2 * self.nnz + self.outputs


@dataclass(frozen=True)
class AgentCounts:
    """One agent's network; `gru` is [3h, h + fc1 outputs]. `one_hots` are the parts of fc1 that read a one-hot.

    squashed: the outputs are actions, by tanh and their bounds; else one is chosen. valued: the layers that read an
    action, once for each of `candidates`, where actions are searched for. Without a memory (recurrent false)
    `gru` is the layer in its place, [h, fc1 outputs], and a ReLU.
    """

    fc1: Matrix
    gru: Matrix
    fc2: Matrix
    one_hots: tuple[Matrix, ...] = ()
    recurrent: bool = True
    squashed: bool = False
    valued: tuple[Matrix, ...] = ()
    candidates: int = 0

    @property
    def hidden(self) -> int:
        return self.gru.outputs // 3 if self.recurrent else self.gru.outputs

    @property
    def _biases(self) -> int:
        """Of the middle layer."""
        return 4 * self.hidden if self.recurrent else self.hidden

    @property
    def paper_flops(self) -> float:
        each = sum(layer.paper_flops for layer in self.valued)
        return self.fc1.paper_flops + self.gru.paper_flops + self.fc2.paper_flops + self.candidates * each

    @property
    def paper_parameters(self) -> int:
        return self.fc1.nnz + self.gru.nnz + self.fc2.nnz + sum(layer.nnz for layer in self.valued)

    @property
    def counted_parameters(self) -> int:
        """Connections and biases: fc1, the GRU's four (b_r, b_z, b_nx, b_nh), fc2."""
        last = self.valued[-1].outputs if self.valued else 0
        return self.paper_parameters + self.fc1.outputs + self._biases + self.fc2.outputs + last

    @property
    def counted_flops(self) -> float:
        """Multiply-adds, biases, activations, one column of sums per one-hot input (its mean), masked argmax.

        2 nnz - sum over one-hots (2 nnz_k - nnz_k / I_k) + biases + relu + 2h sigmoid + h tanh + 8h + (2A - 1)
        """
        matrices = self.fc1.counted_flops + 2 * self.gru.nnz + self._biases + self.fc2.counted_flops
        one_hots = sum(part.nnz / part.inputs - 2 * part.nnz for part in self.one_hots)
        each = 2 * SIGMOID + TANH + GRU_ELEMENTWISE if self.recurrent else 1
        activations = self.fc1.outputs + self.hidden * each
        decision = self.fc2.outputs * (TANH + 2) if self.squashed else 2 * self.fc2.outputs - 1
        if self.valued:  # a candidate: its components, both layers, a ReLU, and its place among the others
            each = 3 * self.valued[0].inputs + sum(2 * layer.nnz for layer in self.valued) + 2 * self.fc2.outputs + 1
            decision = self.candidates * each
        return matrices + one_hots + activations + decision

    def dense(self) -> AgentCounts:
        """The same shape with every connection."""
        one_hots = tuple(part.dense() for part in self.one_hots)
        return AgentCounts(
            self.fc1.dense(), self.gru.dense(), self.fc2.dense(), one_hots, self.recurrent, self.squashed,
            tuple(layer.dense() for layer in self.valued), self.candidates,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """FLOPs of one pass and parameters, both ways."""

    paper_flops: float
    counted_flops: float
    paper_parameters: int
    counted_parameters: int


def agent_counts(
    input_dim: int,
    n_actions: int,
    hidden: int = 64,
    fc1: int | None = None,
    nnz: Mapping[str, int] | None = None,
    one_hots: tuple[Matrix, ...] = (),
) -> AgentCounts:
    """One agent's network from its sizes and connections per layer (fc1, weight_ih, weight_hh, fc2; None: dense)."""
    fc1 = hidden if fc1 is None else fc1
    gru = Matrix.full(3 * hidden, hidden + fc1)
    counts = AgentCounts(Matrix.full(fc1, input_dim), gru, Matrix.full(n_actions, hidden), one_hots)
    if nnz is None:
        return counts
    return replace(
        counts,
        fc1=replace(counts.fc1, nnz=nnz["fc1"]),
        gru=replace(gru, nnz=nnz["weight_ih"] + nnz["weight_hh"]),
        fc2=replace(counts.fc2, nnz=nnz["fc2"]),
    )


def network_counts(contract: Contract, network: Network) -> AgentCounts:
    """The counts of one network of a bundle."""
    fc1 = network.fc1
    per_input, one_hots, start = fc1.mask().sum(0), [], contract.obs_dim
    chosen = contract.head is None  # a continuous last action is no one-hot
    for one_hot, width in (
        (chosen, contract.n_actions * contract.last_action),
        (True, contract.n_agents * contract.agent_id),
    ):
        if width and one_hot:
            one_hots.append(Matrix(fc1.outputs, width, int(per_input[start : start + width].sum())))
        start += width
    nnz = {name: layer.nnz for name, layer in network.layers().items()}
    search = None if contract.head is None else contract.head.search
    outputs = contract.n_actions if search is None else search.width
    if "mid" in network.parts.layers:
        first, mid, last = (Matrix(x.outputs, x.inputs, x.nnz) for x in (fc1, network.mid, network.fc2))
        counts = AgentCounts(first, mid, last, tuple(one_hots), False)
    else:
        counts = agent_counts(fc1.inputs, outputs, network.hidden, fc1.outputs, nnz, tuple(one_hots))
    if search is None:
        return replace(counts, squashed=not chosen)
    act, fc3 = (Matrix(x.outputs, x.inputs, x.nnz) for x in (network.act, network.fc3))
    return replace(counts, valued=(act, fc3), candidates=search.iterations * search.candidates)


def bundle_cost(bundle: Bundle) -> tuple[Cost, Cost]:
    """(as it is, dense of the same shape): FLOPs of one decision of every agent, parameters of every network."""
    counts = [network_counts(bundle.contract, network) for network in bundle.networks]
    return _team_cost(bundle, counts), _team_cost(bundle, [part.dense() for part in counts])


def _team_cost(bundle: Bundle, counts: list[AgentCounts]) -> Cost:
    return Cost(
        sum(counts[agent.network].paper_flops for agent in bundle.agents),
        sum(counts[agent.network].counted_flops for agent in bundle.agents),
        sum(part.paper_parameters for part in counts),
        sum(part.counted_parameters for part in counts),
    )
