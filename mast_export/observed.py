"""What a bundle says of its observations: names, statistics of training, and a recorded episode (docs/format.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mast_export.errors import ExportError
from mast_export.verify import Trace
from mast_runtime import Bundle, Contract, Network
from mast_runtime.backends import compile_network, make_agent
from mast_runtime.head import TOLERANCE
from mast_runtime.inputs import LEVELS, MAX_EXPANDED_BYTES, MAX_NAME_CHARACTERS, Inputs, Recording, is_name
from mast_runtime.search import Searcher, Values

RECORDED_STEPS = 32
MARGIN = 1e-3
"""Of the largest |q|, or of 1: actions nearer in value than this may change places in another engine's rounding."""
UNSTEADY = 2.0**-17
"""Of the largest output: what another engine's rounding may amount to, where a search goes on from it."""
FINE = 64
"""float16 holds a range that is at least one FINE-th of its largest value."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What training saw of each agent's inputs: low, high, total and squares [N,O] float64, count [N].

    count: observations that are not all zero, over which the sums go; low and high are of all.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: NDArray[np.float64]

    @classmethod
    def of(cls, obs: NDArray[np.float32]) -> Seen:
        """Of recorded observations [T,N,O]."""
        wide = obs.astype(np.float64)
        count = np.any(obs != 0.0, axis=2).sum(0).astype(np.float64)
        return cls(wide.min(0), wide.max(0), wide.sum(0), np.square(wide).sum(0), count)

    def pooled(self, agents: Sequence[int]) -> tuple[NDArray[np.float64], ...]:
        """low, high, mean and deviation [O] of these agents together."""
        chosen = list(agents)
        count = max(1.0, self.count[chosen].sum())
        mean = self.total[chosen].sum(0) / count
        variance = self.squares[chosen].sum(0) / count - mean**2
        return self.low[chosen].min(0), self.high[chosen].max(0), mean, np.sqrt(np.maximum(variance, 0.0))


def with_inputs(bundle: Bundle, seen: Seen, names: Sequence[Sequence[tuple[str, str]]] = ()) -> Bundle:
    """Every network with what the agents that run it saw. names: of each agent's inputs (name, unit), or none."""

    def inputs(i: int) -> Inputs:
        agents = [k for k, agent in enumerate(bundle.agents) if agent.network == i]
        own = names[agents[0]] if names else ()
        return Inputs(
            *_stored(*seen.pooled(agents)), names=tuple(name for name, _ in own), units=tuple(unit for _, unit in own)
        )

    return replace(bundle, networks=tuple(replace(x, inputs=inputs(i)) for i, x in enumerate(bundle.networks)))


def _stored(low: NDArray, high: NDArray, mean: NDArray, deviation: NDArray) -> list[NDArray[np.float32]]:
    """The statistics [O] as float16 holds them, the range rounded outwards; as float32 where it is too coarse."""
    wide = [x.astype(np.float32) for x in (low, high, mean, deviation)]
    with np.errstate(over="ignore"):
        down, up, *middle = (x.astype(np.float16) for x in wide)
    down = np.where(down > wide[0], np.nextafter(down, np.float16(-np.inf)), down)
    up = np.where(up < wide[1], np.nextafter(up, np.float16(np.inf)), up)
    narrow = [x.astype(np.float32) for x in (down, up, *middle)]
    coarse = (high > low) & (FINE * (high - low) < np.maximum(abs(low), abs(high)))
    return wide if coarse.any() or not np.isfinite(narrow).all() else narrow


def with_recording(bundle: Bundle, trace: Trace) -> Bundle:
    """Every network, which has its inputs, with an episode from the trace's beginning and its own actions there.

    To be made of the weights as they are stored: other weights act otherwise.
    """
    c = bundle.contract
    each = len(bundle.networks) * (c.obs_dim + (1 if c.head is None else 4) * c.n_actions + 3)
    steps = min(RECORDED_STEPS, len(trace.obs), MAX_EXPANDED_BYTES // each)
    if steps == 0:
        return bundle

    def recorded(i: int, network: Network) -> Recording | None:
        row, agent = next((k, agent) for k, agent in enumerate(bundle.agents) if agent.network == i)
        starts = np.arange(steps) == 0 if trace.starts is None else trace.starts[:steps]
        part = trace.obs[:steps, row], trace.avail_actions[:steps, row], starts
        return _record(c, network, agent.index, *part)

    found = [recorded(i, network) for i, network in enumerate(bundle.networks)]
    if None in found:
        return bundle
    pairs = zip(bundle.networks, found, strict=True)
    return replace(bundle, networks=tuple(replace(network, recording=own) for network, own in pairs))


def _record(
    contract: Contract,
    network: Network,
    agent_id: int,
    obs: NDArray[np.float32],
    avail: NDArray[np.bool_],
    starts: NDArray[np.bool_],
) -> Recording | None:
    """obs [T,O], avail [T,A], starts [T]: rounded to what is stored first, then acted on.

    None: of a search that float32 sums may lead elsewhere, whatever is seen.
    """
    inputs, steps = network.inputs, len(obs)
    assert inputs is not None
    low, high = inputs.low.astype(np.float64), inputs.high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    codes = np.clip(np.rint((obs - low) / width * LEVELS), 0, LEVELS).astype(np.uint8).T.tobytes()
    if contract.head is not None and contract.head.search is not None:
        return _record_searched(contract, network, agent_id, codes, starts)
    if contract.head is not None:
        return _record_continuous(contract, network, agent_id, codes, starts)
    blank = Recording(codes, avail.T.tobytes(), starts.astype(np.uint8).tobytes(), (0,) * steps)
    _, step = compile_network(contract, network, "reference")
    hidden, actions, kept = np.zeros((1, network.hidden), np.float32), [-1], np.array(avail)
    for t, stored in enumerate(blank.steps(inputs)):
        if stored.start:
            hidden, last = np.zeros_like(hidden), -1
        else:
            last = actions[-1]
        q, hidden = step(np.array([stored.obs], np.float32), np.array([last]), np.array([agent_id]), hidden)
        actions.append(_decide(q[0], kept[t]))
    return Recording(codes, kept.T.tobytes(), blank.starts, tuple(actions[1:]))


def _record_continuous(
    contract: Contract, network: Network, agent_id: int, codes: bytes, starts: NDArray[np.bool_]
) -> Recording:
    """Every stored observation acted on, with the last actions that follow."""
    assert network.inputs is not None
    blank = Recording(codes, b"", starts.astype(np.uint8).tobytes(), ((),) * len(starts))
    agent: Any = make_agent(contract, network, agent_id, "reference")
    actions = []
    for stored in blank.steps(network.inputs):
        if stored.start:
            agent.reset()
        actions.append(tuple(agent.act(stored.obs).tolist()))
    return replace(blank, actions=tuple(actions))


def _record_searched(
    contract: Contract, network: Network, agent_id: int, codes: bytes, starts: NDArray[np.bool_]
) -> Recording | None:
    """The same; where float32 sums may lead the search elsewhere, an earlier observation is seen again."""
    assert network.inputs is not None and contract.head is not None and contract.head.search is not None
    flags, columns = starts.astype(np.uint8).tobytes(), np.frombuffer(codes, np.uint8).reshape(contract.obs_dim, -1)
    stored = list(Recording(codes, b"", flags, ((),) * len(starts)).steps(network.inputs))
    agent: Any = make_agent(contract, network, agent_id, "reference")
    has = np.arange(contract.n_actions)[None] < len(contract.head.low[agent_id])
    find, seen, actions, first = Searcher(contract.head.search, Values.of([network]), has), [], [], 0
    for t in range(len(stored)):
        first = t if stored[t].start else first
        for source in range(t, -1, -1):
            agent.reset()
            for place in (*seen[first:], source):
                action = agent.act(stored[place].obs)
            if find.steady(agent.q[None], UNSTEADY, TOLERANCE / 2):
                break
        else:
            return None
        seen.append(source)
        actions.append(tuple(action.tolist()))
    return Recording(np.ascontiguousarray(columns[:, seen]).tobytes(), b"", flags, tuple(actions))


def _decide(q: NDArray[np.float32], avail: NDArray[np.bool_]) -> int:
    """The best available action; those too near to it become unavailable, in place."""
    values = np.where(avail, q, -np.inf)
    best = int(values.argmax())
    near = values > values[best] - MARGIN * max(1.0, float(np.abs(q).max()))
    avail[near] = False
    avail[best] = True
    return best


def read_names(path: Path, obs_dim: int) -> list[tuple[str, str]]:
    """A file of one line an input: its name, or its name, a comma and its unit. Raises ExportError, OSError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ExportError(f"{path}: not UTF-8 text ({error})") from error
    if len(lines) != obs_dim:
        raise ExportError(f"{path}: {len(lines)} lines, the observation has {obs_dim} inputs; give each a line")
    pairs = [tuple(part.strip() for part in line.rpartition(",")[::2]) for line in lines]
    found = [(name, unit) if name else (unit, "") for name, unit in pairs]
    for i, (name, unit) in enumerate(found, 1):
        if not is_name(name) or (unit and not is_name(unit)):
            what = f"name[, unit], each at most {MAX_NAME_CHARACTERS} printable characters"
            raise ExportError(f"{path}, line {i}: {lines[i - 1]!r:.80}: expected {what}")
    twice = [name for i, (name, _) in enumerate(found) if name in [other for other, _ in found[:i]]]
    if twice:
        raise ExportError(f"{path}: {twice[0]!r} names two inputs; give each a name of its own")
    return found
