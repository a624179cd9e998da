"""What stands in a sweep file, checked: tables, known keys, whole numbers, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mast_train.settings.errors import UserError, suggest


def table_of(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table `key` of a tree, empty where there is none. Raises UserError."""
    table = tree.get(key, {})
    if not isinstance(table, Mapping):
        raise UserError(f"{key} = {table!r}: expected a table, [{key}]")
    return table


def known(table: Mapping[str, Any], names: Sequence[str], kind: str) -> None:
    """Raises UserError for a key that is none of the names."""
    for key in table:
        if key not in names:
            raise UserError(f"unknown {kind} {key!r}: {suggest(key, names)}")


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as the only one of a list."""
    return list(value) if isinstance(value, list) else [value]


def whole(value: Any, what: str) -> int | None:
    """The value, a whole number above 0, or None. Raises UserError."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{what} = {value!r}: expected a whole number above 0")
    return value


def seeds_of(value: Any, what: str, first: int = 0) -> tuple[int, ...]:
    """A list of them, or how many there are from `first` on."""
    seeds = list(range(first, first + value)) if type(value) is int else as_list(value)
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{what} = {value!r}: expected how many, or different whole numbers, as [0, 1, 2]")
    return tuple(seeds)
