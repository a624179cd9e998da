"""What a network's training saw: each input's name, unit and values, and a recorded episode (docs/format.md)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from mast_runtime.arrays import ArrayField, Buffer, buffer, plain
from mast_runtime.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVELS = 255
"""A recorded value is one of 256 between its input's low and high."""
MAX_STEPS = 1_024
MAX_NAME_CHARACTERS = 120
MAX_EXPANDED_BYTES = 1 << 22
"""Of a recording, and of names: no small file may ask for more."""
MAX_FLOAT = (2 - 2.0**-23) * 2.0**127
"""The largest float32."""
STATISTICS = ("low", "high", "mean", "deviation")


@dataclass(frozen=True, eq=False)
class Inputs:
    """The observation of the agents that run one network, input by input.

    names, units: [O] texts, both empty where the inputs have no names; a unit may be "". low, high, mean, deviation:
    [O] float32, of what training saw.
    """

    low: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009 - a descriptor
    high: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    mean: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    deviation: ArrayField[NDArray[np.float32]] = ArrayField()  # noqa: RUF009
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def stored(self, name: str) -> Any:
        """A statistic as it was given (ndarray or Buffer), without importing numpy."""
        return vars(self)[name]

    def limits(self) -> tuple[array[float], array[float]]:
        """Below and above which a value is out of range [O]: beyond low and high by 1/256 of the range and by 1e-6."""
        low, high = plain(self.stored("low"), "f"), plain(self.stored("high"), "f")
        slack = [(b - a) / 256 + 1e-6 * max(1.0, abs(a), abs(b)) for a, b in zip(low, high, strict=True)]
        return (
            array("f", [max(a - more, -MAX_FLOAT) for a, more in zip(low, slack, strict=True)]),
            array("f", [min(b + more, MAX_FLOAT) for b, more in zip(high, slack, strict=True)]),
        )

    def name(self, index: int) -> str:
        """The input's name, with its index in front; without a name the index alone."""
        return f"{index} ({self.names[index]})" if self.names else str(index)


def no_limits(obs_dim: int) -> tuple[array[float], array[float]]:
    """Limits [O] where no range is known: those of float32."""
    return array("f", [-MAX_FLOAT]) * obs_dim, array("f", [MAX_FLOAT]) * obs_dim


class Bounds(NamedTuple):
    """Of one agent's continuous action, in its units."""

    low: Sequence[float]
    high: Sequence[float]

    def hold(self, action: Sequence[float]) -> bool:
        """Whether every component is within them, as float32 rounds them."""
        slack = [2.0**-23 * max(abs(a), abs(b)) for a, b in zip(self.low, self.high, strict=True)]
        every = zip(self.low, action, self.high, slack, strict=True)
        return all(a - more <= x <= b + more for a, x, b, more in every)


class Step(NamedTuple):
    """One decision of a recording: `start` begins an episode; obs [O] float32, avail [A] bytes of 0 or 1.

    A continuous action is the agent's components, in their units; avail is then empty.
    """

    start: bool
    obs: array[float]
    avail: bytes
    action: Any


@dataclass(frozen=True)
class Recording:
    """Decisions of the first agent that runs a network, as they are stored: obs in 256 levels between low and high.

    obs [O,T], avail [A,T] and starts [T] are bytes, actions [T] whole numbers. Where actions are continuous avail is
    empty, and each action its components in float32. The actions are those of the network on the stored values, from
    the zero memory at each start.
    """

    obs: bytes
    avail: bytes
    starts: bytes
    actions: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.actions)

    def steps(self, inputs: Inputs) -> Iterator[Step]:
        """The decisions, one after another, their observations decoded in float64 and rounded to float32."""
        n, low, high = len(self), plain(inputs.stored("low"), "f"), plain(inputs.stored("high"), "f")
        for t in range(n):
            codes = self.obs[t::n]
            obs = array("f", [a + (b - a) * code / LEVELS for a, b, code in zip(low, high, codes, strict=True)])
            yield Step(bool(self.starts[t]), obs, self.avail[t::n], self.actions[t])


def decode_statistics(values: Buffer, networks: int, obs_dim: int) -> list[dict[str, Buffer]]:
    """Tensor `inputs` [networks x 4 x O], of finite values, by network. Raises BundleError."""
    flat, parts = plain(values, "f"), []
    for start in range(0, networks * 4 * obs_dim, 4 * obs_dim):
        ends = range(start, start + 4 * obs_dim, obs_dim)
        part = {name: flat[end : end + obs_dim] for name, end in zip(STATISTICS, ends, strict=True)}
        if any(low > high for low, high in zip(part["low"], part["high"], strict=True)) or min(part["deviation"]) < 0:
            raise BundleError("a range upside down or a negative deviation", "inputs")
        parts.append({name: buffer("f", numbers) for name, numbers in part.items()})
    return parts


def decode_names(packed: Buffer, networks: int, obs_dim: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tensor `names`, deflated lines of text, as names and units [O] by network. Raises BundleError."""
    try:
        lines = _inflate(packed, "names").decode().split("\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"not UTF-8 ({error})", "names") from error
    if len(lines) != networks * obs_dim:
        raise BundleError(f"{len(lines)} lines, expected {networks * obs_dim}", "names")
    pairs = [line.partition("\t")[::2] for line in lines]
    for name, unit in pairs:
        if not is_name(name) or (unit and not is_name(unit)):
            raise BundleError(f"{name!r:.80} [{unit!r:.80}] is not a printable name of an input", "names")
    cuts = [pairs[start : start + obs_dim] for start in range(0, len(pairs), obs_dim)]
    return [(tuple(name for name, _ in cut), tuple(unit for _, unit in cut)) for cut in cuts]


def is_name(text: str) -> bool:
    """Whether it can name an input or a unit: printable, not empty, at most MAX_NAME_CHARACTERS."""
    return 0 < len(text) <= MAX_NAME_CHARACTERS and text.isprintable()


def decode_recordings(packed: Buffer, steps: int, networks: int, obs_dim: int, n_actions: int) -> list[Recording]:
    """Tensor `recording`, deflated, by network. Raises BundleError."""
    sizes = [obs_dim * steps, n_actions * steps, steps, (2 if n_actions > 256 else 1) * steps]
    if networks * sum(sizes) > MAX_EXPANDED_BYTES:
        raise BundleError(f"{networks * sum(sizes)} bytes, at most {MAX_EXPANDED_BYTES}", "recording")
    content = _inflate(packed, "recording", networks * sum(sizes))
    if len(content) != networks * sum(sizes):
        raise BundleError(f"{len(content)} bytes expanded, expected {networks * sum(sizes)}", "recording")
    found = []
    for start in range(0, len(content), sum(sizes)):
        ends = list(accumulate(sizes, initial=start))
        obs, avail, starts, actions = (content[a:b] for a, b in pairwise(ends))
        found.append(_recording(steps, obs, avail, starts, actions))
    return found


def decode_continuous(packed: Buffer, steps: int, obs_dim: int, bounds: Sequence[Bounds]) -> list[Recording]:
    """The same of continuous actions. bounds: of each network's first agent, [its components]. Raises BundleError."""
    sizes = [(obs_dim + 1 + 4 * len(own.low)) * steps for own in bounds]
    if sum(sizes) > MAX_EXPANDED_BYTES:
        raise BundleError(f"{sum(sizes)} bytes, at most {MAX_EXPANDED_BYTES}", "recording")
    content = _inflate(packed, "recording", sum(sizes))
    if len(content) != sum(sizes):
        raise BundleError(f"{len(content)} bytes expanded, expected {sum(sizes)}", "recording")
    found = []
    for end, size, own in zip(accumulate(sizes), sizes, bounds, strict=True):
        part = content[end - size : end]
        obs, starts, actions = part[: obs_dim * steps], part[obs_dim * steps :][:steps], part[(obs_dim + 1) * steps :]
        rows = list(struct.iter_unpack(f"<{len(own.low)}f", actions))
        if not all(map(own.hold, rows)):
            raise BundleError("an action outside its bounds", "recording")
        found.append(Recording(_codes(steps, obs), b"", _checked_starts(starts), tuple(rows)))
    return found


def _recording(steps: int, obs: bytes, avail: bytes, starts: bytes, actions: bytes) -> Recording:
    high = actions[steps:] or bytes(steps)
    chosen = tuple(low + 256 * more for low, more in zip(actions[:steps], high, strict=True))
    places = [action * steps + t for t, action in enumerate(chosen)]
    if max(avail) > 1:
        raise BundleError("a flag that is not 0 or 1", "recording")
    if max(places) >= len(avail) or not all(avail[place] for place in places):
        raise BundleError("takes an action that is not available", "recording")
    return Recording(_codes(steps, obs), avail, _checked_starts(starts), chosen)


def _codes(steps: int, obs: bytes) -> bytes:
    """obs [O,T] of differences between steps as codes."""
    columns = (obs[at : at + steps] for at in range(0, len(obs), steps))
    return b"".join(bytes(total & 255 for total in accumulate(column)) for column in columns)


def _checked_starts(starts: bytes) -> bytes:
    if max(starts) > 1 or not starts[0]:
        raise BundleError("a flag that is not 0 or 1, or a first step that starts no episode", "recording")
    return starts


def _inflate(packed: Buffer, name: str, limit: int = MAX_EXPANDED_BYTES) -> bytes:
    """A zlib stream of at most `limit` bytes, and nothing after it. Raises BundleError."""
    import zlib

    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(bytes(packed.data), limit + 1)
    except zlib.error as error:
        raise BundleError(f"not a zlib stream ({error})", name) from error
    if len(content) > limit or not inflater.eof or inflater.unused_data:
        raise BundleError(f"a zlib stream that is cut off, has a tail or expands beyond {limit} bytes", name)
    return content
