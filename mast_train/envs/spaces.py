"""Observations as numbers: the action mask taken out, the rest flattened as gymnasium does it, every value checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mast_train.envs.door import Refused, finite, numeric, short

MASK = "action_mask"
WRAPPED = "observation"


class Sight:
    """What one agent observes, as a vector of `size` numbers: its space without an entry "action_mask", flattened."""

    def __init__(self, space: Any) -> None:
        """Raises ValueError for a space without a fixed number of values, and Refused for one without any."""
        self._space = space
        self._entries = _entries(space)
        if self._entries is not None:
            self._entries = {name: part for name, part in self._entries.items() if name != MASK}
        self.size = _size(space if self._entries is None else self._entries)
        if self.size == 0:
            raise Refused(f"{short(space)} leaves nothing to observe")

    def flatten(self, given: Any, who: str) -> np.ndarray:
        """[size] float32. who: names the agent in errors. Raises Refused."""
        if isinstance(given, Mapping):
            given = self._unmasked(given, who)
        return _flat(self._space if self._entries is None else self._entries, given, who, ())

    def _unmasked(self, given: Mapping[str, Any], who: str) -> Any:
        """`given` without its mask. An entry that the space has not would be lost without a word: refused."""
        rest = {name: value for name, value in given.items() if name != MASK}
        if self._entries is None and set(rest) == {WRAPPED}:
            return rest[WRAPPED]
        known = {WRAPPED} if self._entries is None else self._entries
        if lost := [name for name in rest if name not in known]:
            raise Refused(f"{who} observed an entry {short(lost[0])}, its observation space has none of that name")
        return rest


def mask(holders: tuple[Any, ...], count: int, agent: Any) -> np.ndarray:
    """The available actions [count] bool, by the first holder that has a mask; without any, all. Raises Refused."""
    given = next((x[MASK] for x in holders if isinstance(x, Mapping) and x.get(MASK) is not None), None)
    if given is None:
        return np.ones(count, np.bool_)
    array = numeric(given)
    if array is None or array.size != count or not np.isin(array, (0, 1)).all():
        shown = short(given if array is None else array.reshape(-1).tolist())
        raise Refused(f"the action_mask of agent {agent!r} is {shown}, expected {count} flags, each 0 or 1")
    return array.reshape(-1).astype(np.bool_)


def flat_state(given: Any, what: str) -> np.ndarray:
    """A state as one vector float32, the entries of a dictionary in the order of their names. Raises Refused."""
    if isinstance(given, Mapping) and given:
        return np.concatenate([flat_state(given[key], f"{what}[{key!r}]") for key in sorted(given, key=str)])
    return finite(given, what).reshape(-1)


def _entries(space: Any) -> dict[Any, Any] | None:
    """The parts of a Dict or Tuple space by key, in its order; None for a space that holds a value itself."""
    inside = getattr(space, "spaces", None)
    if isinstance(inside, Mapping):
        return dict(inside)
    return dict(enumerate(space.spaces)) if "Tuple" in _kinds(space) else None


def _kinds(space: Any) -> set[str]:
    return {base.__name__ for base in type(space).__mro__}


def _size(space: Any) -> int:
    entries = space if isinstance(space, dict) else _entries(space)
    if entries is not None:
        return sum(_size(part) for part in entries.values())
    if hasattr(space, "low") and hasattr(space, "shape"):
        return int(np.prod(space.shape))
    from gymnasium.spaces.utils import flatdim

    return int(flatdim(space))


def _flat(space: Any, value: Any, who: str, path: tuple[Any, ...]) -> np.ndarray:
    """The values of a box row by row, those of a choice one-hot, those of a Dict or Tuple one after another."""
    entries = space if isinstance(space, dict) else _entries(space)
    who_at = f"{who} (entry {'.'.join(map(str, path))})" if path else who
    if entries is not None:
        parts = [
            _flat(part, _entry(value, key, who_at), who, (*path, key) if len(entries) > 1 or path else ())
            for key, part in entries.items()
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
    kinds = _kinds(space)
    if hasattr(space, "low") or "MultiBinary" in kinds:
        return _boxed(space, value, who_at)
    if "Discrete" in kinds or "MultiDiscrete" in kinds:
        value = _choices(space, value, who_at)
    from gymnasium.spaces.utils import flatten

    return finite(flatten(space, value), f"the observation of {who_at}").reshape(-1)


def _entry(value: Any, key: Any, who: str) -> Any:
    if isinstance(value, str) or not hasattr(value, "__getitem__"):
        raise Refused(f"the observation of {who} is {short(value)}, expected to hold {key!r}")
    try:
        return value[key]
    except (KeyError, IndexError, TypeError) as error:
        raise Refused(f"the observation of {who} has no {key!r}, its observation space has") from error


def _boxed(space: Any, value: Any, who: str) -> np.ndarray:
    array, size = finite(value, f"the observation of {who}"), int(np.prod(space.shape))
    if array.size != size:
        raise Refused(f"{who} observed {array.size} values, its observation space has {size}")
    given, expected = ([n for n in shape if n != 1] for shape in (array.shape, space.shape))
    if given != expected and len(given) > 1 and len(expected) > 1:
        raise Refused(f"{who} observed an array {array.shape}, its observation space is {tuple(space.shape)}")
    return array.reshape(-1)


def _choices(space: Any, value: Any, who: str) -> Any:
    """A Discrete's or MultiDiscrete's value, in range: gymnasium would count from the end what is below it."""
    array, single = numeric(value), hasattr(space, "n")
    sizes, start = np.asarray(space.n if single else space.nvec), np.asarray(getattr(space, "start", 0))
    if array is not None and array.size == sizes.size and (array == np.round(array)).all():
        above = array.reshape(sizes.shape) - start
        if (above >= 0).all() and (above < sizes).all():
            whole = array.reshape(sizes.shape).astype(np.int64)
            return int(whole) if single else whole
    raise Refused(f"{who} observed {short(value)}, which is not in {space}")
