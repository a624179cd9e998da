"""Observations as numbers: the action mask taken out, the rest flattened as gymnasium does it, every value checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mast_train.envs.door import Refused, finite, numeric, short
from mast_train.envs.obs_names import entry_names, is_name

MASK = "action_mask"
WRAPPED = "observation"


class Sight:
    """What one agent observes, as a vector of `size` numbers: its space without an entry "action_mask", flattened.

    names: of the values, by the entries of a Dict or Tuple; of a space of one entry, or where a key is no name, none.
    """

    def __init__(self, space: Any) -> None:
        """Raises ValueError for a space without a fixed number of values, and Refused for one without any."""
        self._named = getattr(space, "spaces", None) if isinstance(getattr(space, "spaces", None), Mapping) else None
        self._leaves = list(_leaves(space, ()))
        self.size = sum(leaf.size for leaf in self._leaves)
        if self.size == 0:
            raise Refused(f"{short(space)} leaves nothing to observe")
        names = [name for leaf in self._leaves for name in leaf.names()]
        self.names = names if len(self._leaves) > 1 and all(map(is_name, names)) else []

    def flatten(self, given: Any, who: str) -> np.ndarray:
        """[size] float32. who: names the agent in errors. Raises Refused."""
        if isinstance(given, Mapping):
            given = self._unmasked(given, who)
        values = [leaf.read(given, who, len(self._leaves) > 1) for leaf in self._leaves]
        return values[0] if len(values) == 1 else np.concatenate(values)

    def _unmasked(self, given: Mapping[str, Any], who: str) -> Any:
        """`given` without its mask. An entry that the space has not would be lost without a word: refused."""
        rest = {name: value for name, value in given.items() if name != MASK}
        if self._named is None and set(rest) == {WRAPPED}:
            return rest[WRAPPED]
        known = {WRAPPED} if self._named is None else self._named
        if lost := [name for name in rest if name not in known]:
            raise Refused(f"{who} observed an entry {short(lost[0])}, its observation space has none of that name")
        return rest


def mask(holders: tuple[Any, ...], count: int, agent: Any) -> np.ndarray:
    """The available actions [count] bool, by the first holder that has a mask; without any, all. Raises Refused."""
    given = next((x[MASK] for x in holders if isinstance(x, Mapping) and x.get(MASK) is not None), None)
    if given is None:
        return np.ones(count, np.bool_)
    array = numeric(given)
    if array is None or array.size != count or not ((array == 0) | (array == 1)).all():
        shown = short(given if array is None else array.reshape(-1).tolist())
        raise Refused(f"the action_mask of agent {agent!r} is {shown}, expected {count} flags, each 0 or 1")
    return array.reshape(-1).astype(np.bool_)


def flat_state(given: Any, what: str) -> np.ndarray:
    """A state as one vector float32, the entries of a dictionary in the order of their names. Raises Refused."""
    if isinstance(given, Mapping) and given:
        return np.concatenate([flat_state(given[key], f"{what}[{key!r}]") for key in sorted(given, key=str)])
    return finite(given, what).reshape(-1)


class _Leaf:
    """A space that holds values itself, at `path` in the observation."""

    def __init__(self, space: Any, path: tuple[Any, ...]) -> None:
        kinds = _kinds(space)
        self._space, self.path = space, path
        self._boxed = hasattr(space, "low") or "MultiBinary" in kinds
        self._chosen = bool(kinds & {"Discrete", "MultiDiscrete"})
        if self._boxed:
            self.size = int(np.prod(space.shape))
            return
        from gymnasium.spaces.utils import flatdim, flatten

        self.size, self._flatten = int(flatdim(space)), flatten

    def names(self) -> list[str]:
        return entry_names(self.path, tuple(getattr(self._space, "shape", None) or ()), self.size)

    def read(self, given: Any, who: str, named: bool) -> np.ndarray:
        """[size] float32: a box's values row by row, a choice one-hot. named: say in errors which entry it is."""
        for depth, key in enumerate(self.path):
            given = _entry(given, key, _at(who, self.path[:depth]))
        who = _at(who, self.path if named else ())
        if self._boxed:
            return self._box(given, who)
        value = _choices(self._space, given, who) if self._chosen else given
        return finite(self._flatten(self._space, value), f"the observation of {who}").reshape(-1)

    def _box(self, given: Any, who: str) -> np.ndarray:
        array, shape = finite(given, f"the observation of {who}"), self._space.shape
        if array.size != self.size:
            raise Refused(f"{who} observed {array.size} values, its observation space has {self.size}")
        if array.shape != shape and array.ndim > 1 and len(shape) > 1:
            long, expected = ([n for n in sizes if n != 1] for sizes in (array.shape, shape))
            if long != expected:
                raise Refused(f"{who} observed an array {array.shape}, its observation space is {tuple(shape)}")
        return array.reshape(-1)


def _leaves(space: Any, path: tuple[Any, ...]) -> Iterator[_Leaf]:
    """In gymnasium's order. The mask is an entry of the outermost Dict."""
    inside = getattr(space, "spaces", None)
    if isinstance(inside, Mapping):
        parts = [(key, part) for key, part in inside.items() if path or key != MASK]
    elif "Tuple" in _kinds(space):
        parts = list(enumerate(space.spaces))
    else:
        yield _Leaf(space, path)
        return
    for key, part in parts:
        yield from _leaves(part, (*path, key))


def _kinds(space: Any) -> set[str]:
    return {base.__name__ for base in type(space).__mro__}


def _at(who: str, path: tuple[Any, ...]) -> str:
    return f"{who} (entry {'.'.join(map(str, path))})" if path else who


def _entry(value: Any, key: Any, who: str) -> Any:
    if isinstance(value, str) or not hasattr(value, "__getitem__"):
        raise Refused(f"the observation of {who} is {short(value)}, expected to hold {key!r}")
    try:
        return value[key]
    except (KeyError, IndexError, TypeError) as error:
        raise Refused(f"the observation of {who} has no {key!r}, its observation space has") from error


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
