"""A network in integers, for chips without a floating-point unit, and the step that they compute, bit for bit.

Weights have 10 bits, activations and memory 16, sums 32. A row of weights gives sum(w a) >> s, and a bias: s is
the row's own, so that its weights use their bits whatever their size. What the numbers stand for:

- observations: value * 2^bits, the bits of each its own, so that twice the largest recorded value fits (_obs_bits)
- last action: 2^14, or of continuous ones, from -1 to 1, u * 2^15, read by weights as u * 2^14
- hidden state: h * 2^15, read by weights as h * 2^12; before a gate: value * 2^12
- outputs of fc1, and of mid where there is no memory: each on a scale of its own, which the weights that read it divide
  by (Nagel et al. 2019, arXiv 1906.04721, section 4.1): the largest recorded one at most 2^12, so that eight times that
  fits
- tanh: straight lines between 129 points, sigmoid(x) = (1 + tanh(x / 2)) / 2; action values: q / unit, unit a power
  of two where tanh makes continuous actions of them

A weight is rounded up or down, whichever brings its row nearer to the real one on the recorded activations (Nagel et
al. 2020, arXiv 2004.10568, equation 13, by coordinate descent), and the mean error that is left joins the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.fixed_rows import MAX_BIAS, MAX_SHIFT, MAX_SHIFT_RANGE, Array, Rows, finest_units, rows_near
from mast_export.verify import Trace
from mast_runtime import Contract, Network
from mast_runtime.backends.reference import network_input
from mast_runtime.head import Head

INT16 = 32767
ONE = 1 << 14
"""The input that says which action was the last."""
MEMORY, READ = 1 << 15, 1 << 12
"""The hidden state's unit, and that of what weights read of it and of what goes into a gate."""
TANH_BITS = 13
"""tanh reads value * 2^13."""
TANH_ERROR = 8e-4
"""Its largest error, beyond +-4, where it stays what it is there."""
COMMON_BITS = 7
RIDGES = (0.1, 0.01, 0.0, 0.5, 2.0)
"""Weights of a rounding error's own size beside what it does to the recorded rows: those that are tried, in turn."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """A network in integers. obs_bits [O]; middle: rows r, z, n from the input, n from memory of unit 0, unit 1, ...

    over [fc1's outputs, hidden], or those of mid. An action value is `unit` times its integer. head: of continuous
    actions, one row.
    """

    obs_bits: NDArray[np.int8]
    last_action: bool
    fc1: Rows
    middle: Rows
    fc2: Rows
    unit: float
    recurrent: bool
    head: Head | None

    @property
    def hidden(self) -> int:
        """Units of the memory; 0 where there is none."""
        return self.fc2.weights.shape[1] if self.recurrent else 0

    @property
    def tanh_shift(self) -> int:
        """What q is shifted by, down, before tanh."""
        return int(np.log2(1.0 / self.unit)) - TANH_BITS

    def observation(self, obs: NDArray) -> Array:
        """[n,O] floats -> integers: halves away from zero, within +-32767."""
        scaled = obs.astype(np.float64) * 2.0 ** self.obs_bits.astype(np.float64)
        return np.sign(scaled) * np.minimum(np.floor(np.abs(scaled) + 0.5), INT16)

    def step(self, obs: NDArray, last_action: NDArray, hidden: NDArray) -> tuple[NDArray, NDArray]:
        """obs [n,O] float, last_action [n] (-1: none) or [n,A] in [-1, 1], hidden [n,H] int -> q [n,A] and the next
        hidden [n,H], int64.
        """
        given = [self.observation(obs)]
        if self.last_action and self.head:
            given.append(_scaled(whole(last_action), 1))
        elif self.last_action:
            given.append((last_action[:, None] == np.arange(len(self.fc2.weights))) * float(ONE))
        y = np.clip(self.fc1(np.concatenate(given, 1)), 0, INT16)
        if not self.recurrent:
            return self.fc2(np.clip(self.middle(y), 0, INT16)).astype(np.int64), hidden
        hidden = _gru(self.middle, y, hidden)
        return self.fc2(_read(hidden)).astype(np.int64), hidden.astype(np.int64)

    def squash(self, q: NDArray, last_action: NDArray) -> NDArray[np.int64]:
        """Continuous actions [n,A] of q [n,A] after last_action [n,A] in [-1, 1]: integers, times 2^15."""
        assert self.head is not None
        u, before = _tanh(np.floor(q / 2.0**self.tanh_shift)), whole(last_action)
        if self.head.rate_limit is not None:
            reach = np.rint(2.0 * self.head.rate_limit * MEMORY)
            u = np.clip(u, before - reach, before + reach)
        return u.astype(np.int64)

    def in_units(self, squashed: NDArray) -> NDArray[np.float32]:
        """Such integers in the units of the action."""
        assert self.head is not None
        low, high = (np.array(side[0]) for side in (self.head.low, self.head.high))
        actions = 0.5 * (low + high) + squashed * 0.5 * (high - low) / MEMORY
        return np.clip(actions, low, high).astype(np.float32)

    def play(self, trace: Trace) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
        """One agent's trace, after its last actions -> actions [T], q [T,A], hidden [T,H], as C computes them.

        Continuous actions are integers [T,A], times 2^15.
        """
        memory, found = np.zeros((1, self.hidden), np.int64), []
        for obs, last in zip(trace.obs, trace.last_actions, strict=True):
            q, memory = self.step(obs, last, memory)
            found.append((q[0], memory[0]))
        q, hidden = (np.array(part) for part in zip(*found, strict=True))
        if self.head is not None:
            return self.squash(q, trace.last_actions[:, 0]), q, hidden
        return np.where(trace.avail_actions[:, 0], q, np.iinfo(np.int64).min).argmax(1), q, hidden


def fix(contract: Contract, network: Network, trace: Trace) -> Fixed:
    """The float32 network of one agent, without agent id, in integers for what the trace (N = 1) recorded.

    Of the roundings that RIDGES give, the first that takes the most of the recorded actions. Raises ExportError for
    weights that integers cannot hold.
    """
    best, most = None, -np.inf
    for ridge in RIDGES:
        candidate = _fix(contract, network, trace, ridge)
        actions, wanted = candidate.play(trace)[0], trace.actions[:, 0]
        score = float((actions == wanted).sum()) if contract.head is None else -np.abs(actions / MEMORY - wanted).mean()
        if score > most:
            best, most = candidate, score
        if most == len(trace.obs):
            break
    assert best is not None
    return best


def whole(last_action: NDArray) -> Array:
    """Continuous actions from -1 to 1 as integers, times 2^15."""
    return np.clip(np.rint(last_action.astype(np.float64) * MEMORY), -INT16, INT16)


def _fix(contract: Contract, network: Network, trace: Trace, ridge: float) -> Fixed:
    weight = {name: layer.dense().astype(np.float64) for name, layer in network.layers().items()}
    obs_bits = _obs_bits(trace.obs[:, 0], weight["fc1"][:, : contract.obs_dim])
    fixed_x, x = _inputs(contract, trace, obs_bits)
    unit_x = np.full(contract.input_dim, float(ONE))
    unit_x[: contract.obs_dim] = 2.0**obs_bits
    y = x @ weight["fc1"].T + network.fc1_bias
    fc1, unit_y = _positive(weight["fc1"] / unit_x, network.fc1_bias, fixed_x, y, ONE, ridge)
    if network.architecture != "gru":
        middle, fc2, unit = _without_memory(
            weight, network, fc1(fixed_x), (np.maximum(y, 0.0), unit_y), contract, ridge
        )
        return Fixed(obs_bits.astype(np.int8), contract.last_action, fc1, middle, fc2, unit, False, contract.head)
    after = trace.hidden[:, 0].astype(np.float64)
    before = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
    fixed_y = np.clip(fc1(fixed_x), 0, INT16)
    gates = _gates(weight, network.gru_bias, unit_y, (np.maximum(y, 0.0), before), (fixed_y, before * READ), ridge)
    played = _memory(gates, fixed_y)
    q = after @ weight["fc2"].T + network.fc2_bias
    fc2, unit = _fc2(weight["fc2"] / READ, network.fc2_bias, _read(played), q, READ, contract, ridge)
    return Fixed(obs_bits.astype(np.int8), contract.last_action, fc1, gates, fc2, unit, True, contract.head)


def _without_memory(
    weight: dict[str, Array],
    network: Network,
    fixed_y: Array,
    fc1: tuple[Array, Array],
    contract: Contract,
    ridge: float,
) -> tuple[Rows, Rows, float]:
    """mid, fc2 and the unit of its sums. fixed_y [T,F]: integers; fc1: what they stand for [T,F], their units [F]."""
    (y, unit_y), fixed_y = fc1, np.clip(fixed_y, 0, INT16)
    z = y @ weight["mid"].T + network.mid_bias
    middle, unit_z = _positive(weight["mid"] / unit_y, network.mid_bias, fixed_y, z, READ, ridge)
    fixed_z = np.clip(middle(fixed_y), 0, INT16)
    q = np.maximum(z, 0.0) @ weight["fc2"].T + network.fc2_bias
    return middle, *_fc2(weight["fc2"] / unit_z, network.fc2_bias, fixed_z, q, INT16, contract, ridge)


def _gru(gates: Rows, y: Array, hidden: NDArray) -> Array:
    """The next hidden state [n,H], from fc1's outputs [n,F] and the one before."""
    r, z, n, m = np.moveaxis(gates(np.concatenate([y, _read(hidden)], 1)).reshape(len(y), -1, 4), 2, 0)
    reset = _scaled(_sigmoid(r) * np.clip(m, -65535, 65535), 15)
    new = _tanh(2 * np.clip(n + reset, -ONE, ONE))
    return new + _scaled(_sigmoid(z) * (hidden - new), 15)


def _memory(gates: Rows, y: Array) -> Array:
    """The hidden state after each step [T,H], from fc1's outputs [T,F], from zero."""
    hidden, found = np.zeros((1, len(gates.weights) // 4)), []
    for row in y[:, None]:
        hidden = _gru(gates, row, hidden)
        found.append(hidden[0])
    return np.array(found)


def _obs_bits(obs: NDArray, weight: Array) -> Array:
    """Of each observation [T,O]: twice the largest fits. weight [F,O], whatever the units.

    One that matters less than 1/256 of the one that matters most, as recorded, has the room to matter that much; one
    that was always 0, to matter as much. Where that takes no more than COMMON_BITS from any, all have the same.
    """
    largest, size = np.abs(obs).max(0).astype(np.float64), np.abs(weight).max(0)
    matters = largest * size
    most = matters.max() or size.max()
    room = np.where(largest, np.maximum(matters, most / 256), most) / np.where(size, size, 1.0)
    bits = np.clip(14.0 - np.ceil(np.log2(np.where(size, room, 1.0))), -100, 100)
    used = bits[size > 0] if size.any() else bits
    common = np.ptp(used) <= COMMON_BITS
    return np.full_like(bits, used.min()) if common else bits


def _inputs(contract: Contract, trace: Trace, obs_bits: Array) -> tuple[Array, Array]:
    """The network's recorded inputs [T,I] as integers, and as they are."""
    last, nobody = trace.last_actions[:, 0], np.zeros(len(trace.obs), np.int64)
    if contract.head is None:
        real = network_input(contract, trace.obs[:, 0], last, nobody)
    else:
        real = np.concatenate([trace.obs[:, 0], last[:, : contract.n_actions * contract.last_action]], 1)
    fixed = real.astype(np.float64) * ONE
    fixed[:, : contract.obs_dim] = np.clip(np.rint(trace.obs[:, 0] * 2.0**obs_bits), -INT16, INT16)
    return fixed, real.astype(np.float64)


def _positive(weight: Array, bias: NDArray, x: Array, y: Array, largest: int, ridge: float) -> tuple[Rows, Array]:
    """Rows near y [T,F] from integers x [T,I], and the unit of each output: integers for a real 1. The positive part of
    what inputs of size `largest` can make fits.
    """
    bound = np.maximum(np.abs(bias), bias + np.abs(weight).sum(1) * largest)
    fitting = np.minimum(READ / np.maximum(y.max(0), 1e-6), INT16 / np.maximum(bound, 1e-6))
    finest = np.where(weight.any(1), finest_units(weight, np.full(weight.shape[1], MEMORY)), fitting)
    shifts = np.clip(np.ceil(np.log2(finest / fitting)), 0, MAX_SHIFT)
    shifts = np.maximum(shifts, shifts.max() - MAX_SHIFT_RANGE)
    unit = np.where(weight.any(1), finest / 2.0**shifts, fitting)
    return rows_near(weight, unit, shifts, x, y, ridge), unit


def _gates(
    weight: dict[str, Array],
    bias: NDArray,
    unit_y: Array,
    real: tuple[Array, Array],
    fixed: tuple[Array, Array],
    ridge: float,
) -> Rows:
    """real, fixed: fc1's outputs [T,F] and the hidden state before [T,H], as they are and as rows read them."""
    units = np.concatenate([unit_y, np.full(weight["weight_hh"].shape[1], float(READ))])
    from_y, from_h = (np.split(weight[name], 3) for name in ("weight_ih", "weight_hh"))
    nothing_y, nothing_h = np.zeros_like(from_y[2]), np.zeros_like(from_h[2])
    kinds = [(from_y[0], from_h[0]), (from_y[1], from_h[1]), (from_y[2], nothing_h), (nothing_y, from_h[2])]
    exact = np.stack([np.concatenate(kind, 1) for kind in kinds], 1).reshape(-1, units.size)
    finest = finest_units(exact / units, np.where(np.arange(units.size) < unit_y.size, MEMORY, READ))
    shifts = np.minimum(np.floor(np.log2(finest / READ)), MAX_SHIFT)
    shifts = np.minimum(shifts, shifts.min() + MAX_SHIFT_RANGE)
    if shifts.min() < 0:
        raise ExportError("weights of the recurrent layer are too large for fixed point; export f32 or f16")
    wanted = np.concatenate(real, 1) @ exact.T + bias.T.ravel()
    return rows_near(exact / units, np.full(len(exact), float(READ)), shifts, np.concatenate(fixed, 1), wanted, ridge)


def _fc2(
    weight: Array, bias: NDArray, x: Array, q: Array, largest_x: int, contract: Contract, ridge: float
) -> tuple[Rows, float]:
    """Rows near q [T,A] from integers x [T,H] of at most largest_x, and what an action value of 1 stands for."""
    finest = finest_units(weight, np.full(weight.shape[1], float(largest_x)))
    largest = max(1e-6, float(np.abs(bias).max()), float(np.abs(q).max()))
    one = min(finest[weight.any(1)].min(initial=2.0**40), MAX_BIAS / 2 / largest)
    if contract.head is not None:
        one = 2.0 ** np.floor(np.log2(one))
        if one < 2.0**TANH_BITS:
            raise ExportError(f"outputs of {largest:.4g} are too large for fixed point; export f32 or f16")
    shifts = np.clip(np.floor(np.log2(finest / one)), 0, MAX_SHIFT_RANGE)
    return rows_near(weight, np.full(len(weight), one), shifts, x, q, ridge), 1.0 / one


def _scaled(x: Array, bits: int) -> Array:
    """x / 2^bits to the nearest, halves up."""
    return np.floor((x + (1 << bits >> 1)) / (1 << bits))


def _read(hidden: NDArray) -> Array:
    return _scaled(hidden.astype(np.float64), 3)


def tanh_table() -> NDArray[np.int64]:
    """tanh at -4, -4 + 1/16, ..., 4, times 2^15, moved by half the error of the straight lines between them."""
    points = np.arange(65) / 16.0
    value, middle = np.tanh(points), np.tanh((points[1:] + points[:-1]) / 2)
    short = middle - (value[1:] + value[:-1]) / 2
    value[1:-1] += (short[1:] + short[:-1]) / 4
    half = np.rint(value * MEMORY).astype(np.int64)
    return np.concatenate([-half[:0:-1], half])


def _tanh(x: Array) -> Array:
    """tanh(x / 2^13) * 2^15."""
    at, table = np.clip(x, -INT16, INT16).astype(np.int64) + MEMORY, tanh_table()
    low, high = table[at >> 9], table[(at >> 9) + 1]
    return (low + (((high - low) * (at & 511)) >> 9)).astype(np.float64)


def _sigmoid(x: Array) -> Array:
    return np.floor((MEMORY + _tanh(x)) / 2)
