"""The network a policy is made of, as plain arrays: what every backend, file format and code generator reads.

One agent's network (paper, section 3; oxwhirl/pymarl rnn_agent):

    x  = obs ++ onehot(last_action) [++ onehot(agent_id)]
    y  = relu(fc1 x + b1)
    r  = sigmoid(W_ir y + W_hr h + b_r)        z = sigmoid(W_iz y + W_hz h + b_z)
    n  = tanh(W_in y + b_nx + r * (W_hn h + b_nh))
    h' = (1 - z) * n + z * h                   q = fc2 h' + b2

One without a memory, architecture "mlp", has relu(mid y + b) in the place of h' where q reads it; h stays as it is.

Where actions are continuous (mast_runtime.head), x has the last action's components in place of the one-hot.

Where they are searched for (mast_runtime.search), architectures "gru-critic" and "mlp-critic", q is no decision, but
what is added to act u for an action u, before ReLU and fc3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mast_runtime.arrays import ArrayField, buffer, plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mast_runtime.head import Head
    from mast_runtime.inputs import Inputs, Recording

LAYERS = ("fc1", "weight_ih", "weight_hh", "fc2")
SEGMENTS = {"fc1": 1, "weight_ih": 3, "weight_hh": 3, "mid": 1, "fc2": 1, "act": 1, "fc3": 1}
"""A block never spans two GRU gates: the 3 x hidden outputs are three segments (r, z, n), each cut into blocks."""


class Parts(NamedTuple):
    """What a network is made of, in the order of its computation: names of Network's fields."""

    layers: tuple[str, ...]
    biases: tuple[str, ...]


CRITIC = "-critic"
ARCHITECTURES = {
    "gru": Parts(LAYERS, ("fc1_bias", "gru_bias", "fc2_bias")),
    "mlp": Parts(("fc1", "mid", "fc2"), ("fc1_bias", "mid_bias", "fc2_bias")),
    f"gru{CRITIC}": Parts((*LAYERS, "act", "fc3"), ("fc1_bias", "gru_bias", "fc2_bias", "fc3_bias")),
    f"mlp{CRITIC}": Parts(("fc1", "mid", "fc2", "act", "fc3"), ("fc1_bias", "mid_bias", "fc2_bias", "fc3_bias")),
}


@dataclass(frozen=True)
class Contract:
    """What a policy reads and writes: observation, action and agent counts, and how its input is assembled.

    head: None where actions are chosen; else n_actions is the most components that an agent's action has.
    """

    obs_dim: int
    n_actions: int
    n_agents: int
    last_action: bool = True
    agent_id: bool = False
    head: Head | None = None

    def sizes(self) -> dict[str, int | bool]:
        """All but the head, by name."""
        return {key: value for key, value in vars(self).items() if key != "head"}

    @property
    def input_dim(self) -> int:
        return self.obs_dim + self.n_actions * self.last_action + self.n_agents * self.agent_id


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight matrix [outputs, inputs] stored by column blocks, or dense.

    A block is `block` consecutive outputs of one segment that share one input; the last block of a segment is short
    when `block` does not divide it, and its surplus values are zero. `block` = 1 is CSR.

    counts [block_rows] int32: blocks in each block row. columns [n_blocks] uint16, strictly increasing in a row.
    values [n_blocks, block] float32, float16 or int8; dense layers: columns is None and values is [outputs, inputs].
    scale [outputs] float32 multiplies int8 values, else None.
    """

    outputs: int
    inputs: int
    values: ArrayField[NDArray] = ArrayField()  # noqa: RUF009 - a descriptor
    counts: ArrayField[NDArray[np.int32] | None] = ArrayField(None)  # noqa: RUF009
    columns: ArrayField[NDArray[np.uint16] | None] = ArrayField(None)  # noqa: RUF009
    scale: ArrayField[NDArray[np.float32] | None] = ArrayField(None)  # noqa: RUF009
    block: int = 1
    segments: int = 1

    def stored(self, name: str) -> Any:
        """An array as it was given (ndarray, Buffer or None), without importing numpy."""
        return vars(self)[name]

    @property
    def is_dense(self) -> bool:
        return self.stored("columns") is None

    @property
    def block_rows(self) -> int:
        return self.segments * -(-(self.outputs // self.segments) // self.block)

    def block_spans(self) -> list[tuple[int, int]]:
        """First output and number of outputs of each block row; fewer than `block` only at the end of a segment."""
        size = self.outputs // self.segments
        return [
            (segment * size + first, min(self.block, size - first))
            for segment in range(self.segments)
            for first in range(0, size, self.block)
        ]

    @property
    def nnz(self) -> int:
        """Connections: stored weights without the padding of short blocks."""
        counts = self.stored("counts")
        if counts is None:
            return self.outputs * self.inputs
        return sum(n * length for n, (_, length) in zip(plain(counts, "i"), self.block_spans(), strict=True))

    @property
    def sparsity(self) -> float:
        return 1.0 - self.nnz / max(1, self.outputs * self.inputs)

    def __repr__(self) -> str:
        return f"Layer({self.inputs} -> {self.outputs}, {self.nnz} connections)"

    def mask(self) -> NDArray[np.bool_]:
        """Connections as a bool matrix [outputs, inputs]."""
        import numpy as np

        return self._scatter(np.ones(self.values.shape, np.float32)) != 0

    def dense(self) -> NDArray[np.float32]:
        """The matrix [outputs, inputs] in float32, int8 values scaled."""
        matrix = self._scatter(self.values.astype("float32"))
        return matrix if self.scale is None else matrix * self.scale[:, None]

    def _scatter(self, values: NDArray) -> NDArray[np.float32]:
        import numpy as np

        if self.columns is None or self.counts is None:
            return values.astype(np.float32)
        matrix = np.zeros((self.outputs, self.inputs), np.float32)
        row = np.repeat(np.arange(self.block_rows), self.counts)
        first, length = np.array(self.block_spans())[row].T
        for k in range(self.block):
            inside = k < length
            matrix[first[inside] + k, self.columns[inside]] = values[inside, k]
        return matrix

    @staticmethod
    def from_dense(weight: NDArray, mask: NDArray[np.bool_] | None, block: int = 1, segments: int = 1) -> Layer:
        """Encode [outputs, inputs] under its mask (None: dense). The mask must be made of whole blocks.

        Raises ValueError when a block is partly masked or a weight off the mask is not zero.
        """
        import numpy as np

        weight = np.ascontiguousarray(weight, np.float32)
        outputs, inputs = weight.shape
        if mask is None:
            return Layer(outputs, inputs, weight, block=1, segments=segments)
        if np.any(weight[np.logical_not(mask)]):
            raise ValueError("a weight off the mask is not zero")
        layer = Layer(outputs, inputs, np.zeros((0, block), np.float32), block=block, segments=segments)
        padded_mask = _pad_blocks(mask, block, segments)
        alive: NDArray[np.bool_] = np.any(padded_mask, axis=1)
        lengths = np.array(layer.block_spans())[:, 1]
        full = np.arange(block)[None, :, None] < lengths[:, None, None]
        if np.any(padded_mask != np.logical_and(alive[:, None, :], full)):
            raise ValueError(f"the mask is not made of whole {block}x1 blocks")
        row, column = np.nonzero(alive)
        values = _pad_blocks(weight, block, segments)[row, :, column]
        return replace(
            layer,
            values=np.ascontiguousarray(values),
            counts=alive.sum(1).astype(np.int32),
            columns=column.astype(np.uint16),
        )


def _pad_blocks(matrix: NDArray, block: int, segments: int) -> NDArray:
    """[outputs, inputs] -> [block_rows, block, inputs], each segment padded with zeros to whole blocks."""
    import numpy as np

    outputs, inputs = matrix.shape
    size = outputs // segments
    per_segment = -(-size // block)
    padded = np.zeros((segments, per_segment * block, inputs), matrix.dtype)
    padded[:, :size] = matrix.reshape(segments, size, inputs)
    return padded.reshape(segments * per_segment, block, inputs)


NO_BIAS = buffer("f", ())
NO_LAYER = Layer(0, 0, NO_BIAS)


@dataclass(frozen=True, eq=False)
class Network:
    """One agent's weights. gru_bias [4, hidden] holds b_r, b_z (input and hidden parts added), b_nx, b_nh.

    Without a memory weight_ih and weight_hh are NO_LAYER and gru_bias NO_BIAS; with one mid and mid_bias are. act, fc3
    and fc3_bias are a critic's, else NO_LAYER and NO_BIAS.
    inputs: what its training saw of obs; recording: an episode on which to try it; both where it was recorded.
    """

    fc1: Layer
    weight_ih: Layer
    weight_hh: Layer
    fc2: Layer
    fc1_bias: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    gru_bias: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    fc2_bias: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    inputs: Inputs | None = None
    recording: Recording | None = None
    mid: Layer = NO_LAYER
    mid_bias: ArrayField[NDArray[np.float32]] = ArrayField(NO_BIAS)  # noqa: RUF009
    act: Layer = NO_LAYER
    fc3: Layer = NO_LAYER
    fc3_bias: ArrayField[NDArray[np.float32]] = ArrayField(NO_BIAS)  # noqa: RUF009

    @property
    def architecture(self) -> str:
        """A key of ARCHITECTURES."""
        memory = "gru" if self.mid is NO_LAYER else "mlp"
        return memory if self.fc3 is NO_LAYER else memory + CRITIC

    @property
    def parts(self) -> Parts:
        """Its layers and biases."""
        return ARCHITECTURES[self.architecture]

    def bias(self, name: str) -> Any:
        """A bias as it was given (ndarray or Buffer), without importing numpy."""
        return vars(self)[name]

    @property
    def hidden(self) -> int:
        return self.fc2.inputs

    def layers(self) -> dict[str, Layer]:
        return {name: getattr(self, name) for name in self.parts.layers}

    @property
    def nnz(self) -> int:
        return sum(layer.nnz for layer in self.layers().values())

    @property
    def n_weights(self) -> int:
        return sum(layer.outputs * layer.inputs for layer in self.layers().values())

    @property
    def sparsity(self) -> float:
        return 1.0 - self.nnz / self.n_weights

    def __repr__(self) -> str:
        return f"Network({', '.join(f'{name}={layer!r}' for name, layer in self.layers().items())})"

    def densified(self) -> Network:
        """The same network with every weight stored, zeros too: the dense baseline of a benchmark."""
        dense = {
            name: Layer.from_dense(layer.dense(), None, 1, SEGMENTS[name]) for name, layer in self.layers().items()
        }
        return replace(self, **dense)
