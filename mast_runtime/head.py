"""What becomes of the networks' output: an available action is chosen, or the output is squashed into actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from mast_runtime.errors import BundleError
from mast_runtime.inputs import MAX_FLOAT, Bounds

GREEDY = {"kind": "greedy"}
CONTINUOUS, SQUASH, SEARCH = "continuous", "tanh", "search"
TOLERANCE = 1e-3
"""Of a range: actions nearer than this are the same, whatever engine computed them."""

MAX_WORK = 1 << 20
"""Of a search: values of components in all candidates of a decision."""

Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Search:
    """How the action of the largest value is looked for (mast_runtime.search): `iterations` of `candidates`, of which
    the best `elites` make the next ones. width: outputs of fc2. noise: float32, little-endian, of every iteration,
    candidate and component, the first candidate's 0."""

    width: int
    candidates: int
    elites: int
    iterations: int
    noise: bytes = field(repr=False)

    def manifest(self) -> dict[str, int]:
        """Its part of a head's manifest."""
        return {name: getattr(self, name) for name in SIZES}


SIZES = ("width", "candidates", "elites", "iterations")


@dataclass(frozen=True)
class Head:
    """Continuous actions: tanh of the network's output, from [-1, 1] to the bounds; or what a search finds there.

    low, high: a row for every agent of the team, by its index, of its own number of components; the environment's
    units. rate_limit: the most that a component moves in one decision, as a share of its range; None: no limit.
    search: None where the network gives the action itself.
    """

    low: Table
    high: Table
    rate_limit: float | None = None
    search: Search | None = None

    def manifest(self) -> dict[str, Any]:
        """As the manifest of a .mast file has it."""
        squash = {"squash": SQUASH} if self.search is None else {"squash": SEARCH, **self.search.manifest()}
        return {"kind": CONTINUOUS, **squash, "low": self.low, "high": self.high, "rate_limit": self.rate_limit}

    def bounds(self, index: int) -> Bounds:
        """Those of one agent."""
        return Bounds(self.low[index], self.high[index])

    def sentence(self) -> str:
        """The bounds and the limit in a few words."""
        pairs = [f"[{a:g}, {b:g}]" for a, b in zip(sum(self.low, ()), sum(self.high, ()), strict=True)]
        limit = "" if self.rate_limit is None else f", at most {self.rate_limit:.3g} of the range a decision"
        found = self.search
        work = "" if found is None else f", the best of {found.iterations} x {found.candidates} candidates"
        return f"within {' '.join(dict.fromkeys(pairs))}{limit}{work}"


def manifest_of(head: Head | None) -> dict[str, Any]:
    """The manifest's `head`."""
    return GREEDY if head is None else head.manifest()


def decode_head(given: Any, n_agents: int, n_actions: int) -> Head | None:
    """The head that a manifest describes, a search still without its noise; None: greedy. Raises BundleError."""
    if given == GREEDY:
        return None
    if not isinstance(given, dict) or given.get("kind") != CONTINUOUS or given.get("squash") not in (SQUASH, SEARCH):
        known = f"{GREEDY!r} and {CONTINUOUS} with {SQUASH} or {SEARCH}"
        raise BundleError(f"head {given!r:.80}, this runtime runs {known}; update MAST", "manifest")
    low, high = (_rows(given.get(name), name, n_agents, n_actions) for name in ("low", "high"))
    for i, (lows, highs) in enumerate(zip(low, high, strict=True)):
        if len(lows) != len(highs):
            raise BundleError(f"agent {i} has {len(lows)} lower and {len(highs)} upper bounds of actions", "manifest")
        for a, b in zip(lows, highs, strict=True):
            if not a < b or b - a > MAX_FLOAT:
                raise BundleError(f"bounds [{a:g}, {b:g}] of agent {i}'s actions, expected a width", "manifest")
    limit = given.get("rate_limit")
    if limit is not None and not (_is_number(limit) and 0.0 < limit <= 1.0):
        raise BundleError(f"rate_limit {limit!r:.80}, expected a share of the range, above 0 and at most 1", "manifest")
    search = _search(given, n_actions) if given["squash"] == SEARCH else None
    return Head(low, high, None if limit is None else float(limit), search)


def _search(given: dict[str, Any], n_actions: int) -> Search:
    sizes: list[Any] = [given.get(name) for name in SIZES]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise BundleError(f"head: {', '.join(SIZES)} {sizes!r:.80}, expected whole numbers above 0", "manifest")
    width, candidates, elites, iterations = sizes
    if not elites <= candidates or candidates < 2 or iterations * candidates * n_actions > MAX_WORK:
        raise BundleError(
            f"a search of {iterations} x {candidates} candidates of which {elites} are kept, expected at least 2, no "
            f"more kept, and {MAX_WORK:,} numbers in all",
            "manifest",
        )
    return Search(width, candidates, elites, iterations, b"")


def _rows(given: Any, name: str, n_agents: int, n_actions: int) -> Table:
    if not isinstance(given, list) or len(given) != n_agents:
        raise BundleError(f"head: {name} has not one row for each of {n_agents} agents", "manifest")
    for i, row in enumerate(given):
        if not isinstance(row, list) or not 1 <= len(row) <= n_actions or not all(map(_is_number, row)):
            raise BundleError(f"head: {name} of agent {i}: expected 1 to {n_actions} finite numbers", "manifest")
    return tuple(tuple(map(float, row)) for row in given)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_FLOAT and isfinite(value)
