"""Lossless compaction: units that cannot change an action leave the network before it is written.

What leaves, and why nothing changes:

- fc1 units without inputs. Their output is relu(bias) for ever: 0 adds nothing, and a positive constant times its
  weights joins the GRU's input biases ("folded"). Only that sum is rounded in another order than before.
- GRU units that are 0 for ever: h starts at 0, and n = 0 where both biases of n are 0 and n reads nothing but such
  units; then h' = (1 - z) 0 + z 0. No other unit is constant: without inputs h_t = (1 - z) n + z h_{t-1} still moves.
- Units from which no path of connections leads to an action value, cycles among such units included.

Of a network without a memory the same of both layers: a constant of the second joins the biases of the action values.

Column blocks are outputs side by side, so where a layer has blocks only whole groups of outputs leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm

import numpy as np
from numpy.typing import NDArray

from mast_export.bounded import bounds
from mast_export.verify import Trace
from mast_runtime import Bundle, Layer, Network
from mast_runtime.measure.inspect import network_label

ROUNDING = 1e-5
"""Of a range: continuous actions nearer than this are the same, their sums rounded in another order."""


@dataclass(frozen=True, eq=False)
class Compacted:
    """A network, the trained units it keeps (increasing indices), and how many constant units were folded."""

    network: Network
    fc1: NDArray[np.intp]
    hidden: NDArray[np.intp]
    folded: int


@dataclass(frozen=True)
class Removed:
    """What compaction took from one network: units of fc1 and of the layer after it, out of the trained, and constants
    folded.

    label: the agent that runs it, or how many share it.
    """

    network: int
    label: str
    fc1: int
    hidden: int
    folded: int
    trained_fc1: int
    trained_hidden: int

    def __str__(self) -> str:
        folded = f" ({self.folded} constants folded into biases)" if self.folded else ""
        fc1 = f"{self.fc1} of {self.trained_fc1} fc1 units{folded}"
        return f"{self.label}: removed {fc1} and {self.hidden} of {self.trained_hidden} hidden units"


def compact(network: Network, fold: bool = True) -> Compacted:
    """The float32 network without units that cannot change an action; one unit of each layer always stays.

    fold: also fold positive constants into biases, which changes the rounding of sums. Without it every sum has the
    same addends in the same order, less exact zeros. Networks whose actions are searched for stay whole.
    """
    of_kind = {"gru": _compact_gru, "mlp": _compact_mlp}.get(network.architecture)
    return of_kind(network, fold) if of_kind else _whole(network)


def _compact_mlp(network: Network, fold: bool) -> Compacted:
    weight = {name: layer.dense() for name, layer in network.layers().items()}
    weight["mid"][~weight["fc2"].any(0)] = 0.0
    mid_bias, from_fc1 = _fold(weight, "fc1", network.fc1_bias, "mid", network.mid_bias, fold)
    fc2_bias, from_mid = _fold(weight, "mid", mid_bias, "fc2", network.fc2_bias, fold)
    hidden = np.flatnonzero(_whole_groups(np.any(weight["fc2"], axis=0), network.mid.block))
    fc1 = np.flatnonzero(_whole_groups(np.any(weight["mid"][hidden], axis=0), network.fc1.block))
    compacted = replace(
        network,
        fc1=_part(network.fc1, weight["fc1"], fc1, np.arange(network.fc1.inputs)),
        mid=_part(network.mid, weight["mid"], hidden, fc1),
        fc2=_part(network.fc2, weight["fc2"], np.arange(network.fc2.outputs), hidden),
        fc1_bias=network.fc1_bias[fc1],
        mid_bias=mid_bias[hidden],
        fc2_bias=fc2_bias,
    )
    return Compacted(compacted, fc1, hidden, from_fc1 + from_mid)


def _compact_gru(network: Network, fold: bool) -> Compacted:
    weight = {name: layer.dense() for name, layer in network.layers().items()}
    bias, reads = network.gru_bias, _readable(weight["weight_ih"])
    constant = ~weight["fc1"].any(1)
    output = np.where(constant, np.maximum(network.fc1_bias, 0.0), 0.0)
    change = (weight["weight_ih"].astype(np.float64) @ output).reshape(3, -1)
    if fold and (moved := _moved(bias, np.concatenate([change, np.zeros_like(change[:1])]))) is not None:
        bias = moved
    else:
        constant &= output == 0.0
    weight["weight_ih"][:, constant] = 0.0
    zero = _zero_units(weight, bias)
    weight["weight_hh"][:, zero] = weight["fc2"][:, zero] = 0.0
    live = _live_units(weight, lcm(network.weight_ih.block, network.weight_hh.block))
    read = np.any(reads[live], axis=0)
    folded = int(np.sum(read & constant & (output > 0.0)))
    fc1, hidden = np.flatnonzero(_whole_groups(read & ~constant, network.fc1.block)), np.flatnonzero(live)
    gates = (np.arange(3)[:, None] * network.hidden + hidden).ravel()
    compacted = replace(
        network,
        fc1=_part(network.fc1, weight["fc1"], fc1, np.arange(network.fc1.inputs)),
        weight_ih=_part(network.weight_ih, weight["weight_ih"], gates, fc1),
        weight_hh=_part(network.weight_hh, weight["weight_hh"], gates, hidden),
        fc2=_part(network.fc2, weight["fc2"], np.arange(network.fc2.outputs), hidden),
        fc1_bias=network.fc1_bias[fc1],
        gru_bias=bias[:, hidden],
    )
    return Compacted(compacted, fc1, hidden, folded)


def compact_bundle(bundle: Bundle, trace: Trace) -> tuple[Bundle, Trace, list[Removed]]:
    """The bundle with every network compacted, the trace of the units it keeps, and what left each network.

    The team of the result takes the same actions as `bundle`'s over the whole trace (continuous ones to ROUNDING), in
    the default backend and in the reference. Where folding changes one, nothing is folded; where removal alone does,
    the networks stay as they are.
    `info.trained_units` is the trained [fc1, hidden].
    """
    backends = ("auto", "reference")
    expected = [_actions(bundle, trace, backend) for backend in backends]
    for fold in (True, False):
        parts = [compact(network, fold) for network in bundle.networks]
        candidate = replace(bundle, networks=tuple(part.network for part in parts))
        if all(_same(bundle, _actions(candidate, trace, b), e) for b, e in zip(backends, expected, strict=True)):
            break
    else:
        parts, candidate = [_whole(network) for network in bundle.networks], bundle
    trained = [bundle.networks[0].fc1.outputs, bundle.networks[0].hidden]
    trace = trace.kept([parts[agent.network].hidden for agent in bundle.agents])
    removed = [_removed(bundle, i, part) for i, part in enumerate(parts)]
    return replace(candidate, info=bundle.info | {"trained_units": trained}), trace, removed


def _whole(network: Network) -> Compacted:
    return Compacted(network, np.arange(network.fc1.outputs), np.arange(network.hidden), 0)


def _removed(bundle: Bundle, i: int, part: Compacted) -> Removed:
    fc1, hidden = bundle.networks[i].fc1.outputs, bundle.networks[i].hidden
    gone = fc1 - part.fc1.size, hidden - part.hidden.size
    return Removed(i, network_label(bundle, i)[0], *gone, part.folded, fc1, hidden)


def _same(bundle: Bundle, given: NDArray, expected: NDArray) -> bool:
    """Equal choices; continuous actions within ROUNDING of their range."""
    head = bundle.contract.head
    if head is None:
        return np.array_equal(given, expected)
    low, high, _ = bounds(head, [agent.index for agent in bundle.agents], bundle.contract.n_actions)
    return bool(np.all(np.abs(given - expected) <= ROUNDING * (high - low)))


def _actions(bundle: Bundle, trace: Trace, backend: str) -> NDArray:
    """The team's own actions [T,N] or [T,N,A] on the trace's observations; its last actions are its own too."""
    team = bundle.team(backend=backend)
    if bundle.contract.head is not None:
        return np.array([team.act(obs) for obs in trace.obs])
    return np.array([team.act(*step) for step in zip(trace.obs, trace.avail_actions, strict=True)])


def _moved(bias: NDArray, change: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """The bias with constants added; None where that overflows float32."""
    with np.errstate(over="ignore"):
        narrow = (bias.astype(np.float64) + change).astype(np.float32)
    return narrow if np.isfinite(narrow).all() else None


def _fold(
    weight: dict[str, NDArray], layer: str, bias: NDArray, reader: str, reader_bias: NDArray, fold: bool
) -> tuple[NDArray[np.float32], int]:
    """Units of `layer` without inputs, whose output is constant, are read no more by `reader`, the layer after it: the
    biases that take their place, and how many of them are in there.
    """
    constant = ~weight[layer].any(1)
    output = np.where(constant, np.maximum(bias, 0.0), 0.0)
    moved = _moved(reader_bias, weight[reader].astype(np.float64) @ output) if fold else None
    if moved is None:
        constant, moved = constant & (output == 0.0), reader_bias
    folded = int((constant & (output > 0.0) & weight[reader].any(0)).sum())
    weight[reader][:, constant] = 0.0
    return moved, folded


def _zero_units(weight: dict[str, NDArray], bias: NDArray) -> NDArray[np.bool_]:
    """Hidden units that stay 0: the largest set whose candidates for n read the set alone."""
    from_input, from_hidden = (np.split(weight[name], 3)[2] for name in ("weight_ih", "weight_hh"))
    zero: NDArray[np.bool_] = ~np.any(bias[2:], axis=0) & ~np.any(from_input, axis=1)
    while np.any(leaves := zero & np.any(from_hidden[:, ~zero], axis=1)):
        zero &= ~leaves
    return zero


def _live_units(weight: dict[str, NDArray], size: int) -> NDArray[np.bool_]:
    """Hidden units from which a path leads to an action value, in whole groups of `size` with all that they read."""
    reads, live = _readable(weight["weight_hh"]), np.any(weight["fc2"], axis=0)
    while True:
        kept = _whole_groups(live, size)
        live = kept | np.any(reads[kept], axis=0)
        if np.array_equal(live, kept):
            return kept


def _readable(weight: NDArray) -> NDArray[np.bool_]:
    """[3 hidden, inputs] -> which inputs a hidden unit reads through any gate [hidden, inputs]."""
    return np.any(weight.reshape(3, -1, weight.shape[1]), axis=0)


def _whole_groups(chosen: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Every group of `size` that holds a chosen one; never none."""
    groups: NDArray[np.bool_] = np.any(np.pad(chosen, (0, -chosen.size % size)).reshape(-1, size), axis=1)
    groups[0] |= not groups.any()
    return groups.repeat(size)[: chosen.size]


def _part(layer: Layer, weight: NDArray, outputs: NDArray, inputs: NDArray) -> Layer:
    """`outputs` and `inputs` of a layer, without the columns that are zero in `weight` and were not before."""
    chosen = np.ix_(outputs, inputs)
    if layer.is_dense:
        return Layer.from_dense(weight[chosen], None, 1, layer.segments)
    cleared = layer.dense().any(0) & ~weight.any(0)
    return Layer.from_dense(weight[chosen], (layer.mask() & ~cleared)[chosen], layer.block, layer.segments)
