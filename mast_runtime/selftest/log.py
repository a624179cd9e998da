"""Observations that a robot wrote down, as JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mast_runtime.errors import RuntimeFault

KEYS = ("obs", "observation")
Row = list[float]


class LogError(RuntimeFault):
    """A robot's log that cannot be read or says too little: which line, what was expected."""


def read_log(path: Path, obs_dim: int, names: Sequence[str] = ()) -> list[Row]:
    """The observations [O] of a .csv file, or of JSON lines: each an array, or an object with the array as "obs".

    A CSV file may begin with a line of names; where they are the inputs' `names` in another order, the columns are put
    in theirs. Raises LogError, OSError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LogError(f"{path}: not UTF-8 text ({error})") from error
    lines = _csv_rows(text, names) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    rows = []
    for number, values in lines:
        if len(values) != obs_dim:
            raise LogError(f"{path}, line {number}: {len(values)} values, the observation has {obs_dim}")
        try:
            rows.append([_number(value) for value in values])
        except (TypeError, ValueError, OverflowError) as error:
            raise LogError(f"{path}, line {number}: not a row of numbers ({error})") from error
    if not rows:
        raise LogError(f"{path}: no observations; expected a line of {obs_dim} numbers for each decision")
    return rows


def _number(value: Any) -> float:
    if isinstance(value, bool) or value is None:
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, list]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LogError(f"{path}, line {number}: not JSON ({error}); a table goes in a file named .csv") from error
        if isinstance(found, dict):
            found = next((found[key] for key in KEYS if key in found), None)
        if not isinstance(found, list):
            raise LogError(f'{path}, line {number}: expected an array of numbers, or an object with one as "obs"')
        yield number, found


def _csv_rows(text: str, names: Sequence[str]) -> Iterator[tuple[int, list]]:
    order: list[int] | None = None
    for number, values in enumerate(csv.reader(text.splitlines()), 1):
        values = [value.strip() for value in values]
        if number == 1 and not _numeric(values):
            if names and sorted(values) == sorted(names):
                order = [values.index(name) for name in names]
            continue
        if values:
            yield number, values if order is None else [values[i] for i in order if i < len(values)]


def _numeric(values: Sequence[str]) -> bool:
    try:
        return bool([float(value) for value in values])
    except ValueError:
        return False
