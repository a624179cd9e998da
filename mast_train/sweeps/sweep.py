"""A sweep file as data: TOML to groups, groups to cells. Nothing here trains; mast_train.sweeps.run does.

A *row* is one line of a comparison (a method with its settings). A *group* is a row on one map under one algorithm. A
*cell* is one run: a group with a seed, and while tuning with a learning rate. docs/sweeps.md describes the file.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mast_train.settings.config import Config, leaves, override
from mast_train.settings.errors import UserError, reason, suggest
from mast_train.settings.limits import validate
from mast_train.settings.methods import environment, resolve
from mast_train.sweeps.unused import check_settings, check_used
from mast_train.sweeps.values import as_list, known, seeds_of, table_of, whole

SHORT = ("method", "algorithm", "recipe", "sparsity", "block")
"""Settings that `mast train` has a short name for; every other one is written in full, as `train.lr`."""
FILE = ("sweep", "set", "axes", "rows", "maps", "tune")
TABLES: dict[str, tuple[str, ...]] = {
    "sweep": ("name", "steps", "evaluations", "seeds", "jobs", "together"),
    "tune": ("rates", "seeds", "steps", "map"),
}
ROW_KEYS = ("map", "seeds", "steps", "rate_of")
MAP_KEYS = ("steps", "seeds", "rows")


@dataclass(frozen=True)
class Group:
    """A row on one map under one algorithm. rate_of: the row whose tuned learning rate it takes; None: its own rate."""

    row: str
    map: str
    algorithm: str
    config: Config
    seeds: tuple[int, ...]
    rate_of: str | None

    @property
    def key(self) -> str:
        return f"{self.map}/{self.algorithm}/{self.row}"


@dataclass(frozen=True)
class Tuning:
    """The grid every tuned row is tried on. map: tune there only and take its choice everywhere; None: on each map."""

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    map: str | None


@dataclass(frozen=True)
class Sweep:
    """A parsed sweep file.

    jobs: processes at once. together: the most cells that one process trains, of those that differ in seed and
    learning rate alone. None: by the machine (sweeps/width.py).
    """

    name: str
    groups: tuple[Group, ...]
    tuning: Tuning | None
    evaluations: int | None
    jobs: int | None
    together: int | None


@dataclass(frozen=True)
class Cell:
    """One run. `phase` is "tune" or "final"; the name is its folder's."""

    name: str
    group: str
    row: str
    phase: str
    config: Config

    def label(self) -> dict[str, Any]:
        """What a report needs beside the run's own files."""
        return {"row": self.row, "phase": self.phase, "group": self.group}


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file. Raises UserError naming what is wrong in it."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); expected a sweep file") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    try:
        return parse_sweep(tree, path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_sweep(tree: Mapping[str, Any], name: str) -> Sweep:
    """A sweep from a TOML tree; `name` where the file gives none. Raises UserError."""
    known(tree, FILE, "table")
    head = table_of(tree, "sweep")
    known(head, TABLES["sweep"], "[sweep] key")
    tuning, evaluations = _tuning(tree), whole(head.get("evaluations"), "sweep.evaluations")
    rows = {**_axis_rows(tree), **{str(row): dict(table) for row, table in table_of(tree, "rows").items()}}
    if not rows:
        raise UserError('no rows: give [axes] method = ["dense", "mast"], or [rows."a name"]')
    check_settings({table: table_of(tree, table) for table in FILE}, rows)
    asked: dict[str, None] = {}
    groups = tuple(_groups(tree, head, rows, tuning, asked))
    check_used(tree, asked, [(group.key, rate_key(tuning, group)) for group in groups])
    if not groups:
        raise UserError("every row was left out by `rows` of [maps]")
    _unique([(group.key, "row") for group in groups])
    chosen = str(head.get("name", name))
    if slug(chosen) != chosen:
        raise UserError(f"sweep.name = {chosen!r}: expected letters, digits, '-', '_' and '.'")
    jobs, together = (whole(head.get(key), f"sweep.{key}") for key in ("jobs", "together"))
    return Sweep(chosen, groups, tuning, evaluations, jobs, together)


def tuning_cells(sweep: Sweep) -> list[Cell]:
    """Every rate of every tuned row on the tuning seeds; empty without [tune]."""
    tuning = sweep.tuning
    if tuning is None:
        return []
    tuned = {group.key: group for group in sweep.groups if group.rate_of == group.row}
    if tuning.map is not None:
        tuned = {key: group for key, group in tuned.items() if group.map == tuning.map}
    cells = []
    for seed, rate, group in itertools.product(tuning.seeds, tuning.rates, tuned.values()):
        name = f"tune-{slug(group.map)}-{group.algorithm}-{slug(group.row)}-lr{rate:g}-seed{seed}"
        config = _timed(group.config, tuning.steps, sweep.evaluations)
        config = validate(override(config, {"seed": seed, "train.lr": rate}))
        cells.append(Cell(name, group.key, group.row, "tune", config))
    return _unique_names(cells)


def final_cells(sweep: Sweep, rates: Mapping[str, float]) -> list[Cell]:
    """The cells of the comparison, first seeds first. rates: group -> chosen rate; who awaits one is left out."""
    longest = max(len(group.seeds) for group in sweep.groups)
    cells = []
    for i, group in itertools.product(range(longest), sweep.groups):
        source = rate_source(sweep, group)
        if i >= len(group.seeds) or (source is not None and source not in rates):
            continue
        seed = group.seeds[i]
        lr = group.config.train.lr if source is None else rates[source]
        name = f"{slug(group.map)}-{group.algorithm}-{slug(group.row)}-seed{seed}"
        config = validate(override(group.config, {"seed": seed, "train.lr": lr}))
        cells.append(Cell(name, group.key, group.row, "final", config))
    return _unique_names(cells)


def rate_source(sweep: Sweep, group: Group) -> str | None:
    """The group whose tuning decides this one's learning rate; None when its rate is its own."""
    return rate_key(sweep.tuning, group)


def rate_key(tuning: Tuning | None, group: Group) -> str | None:
    """`rate_source` in a sweep with this tuning."""
    if tuning is None or group.rate_of is None:
        return None
    return f"{tuning.map or group.map}/{group.algorithm}/{group.rate_of}"


def choose_rate(scores: Mapping[float, Sequence[float]]) -> float:
    """The rate with the best mean score over its seeds; the smaller of two equals."""
    return min(scores, key=lambda rate: (-sum(scores[rate]) / len(scores[rate]), rate))


def slug(text: str) -> str:
    """A name that is safe as a folder: 'mast 97.5 %' -> 'mast_97.5'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_.")


def _groups(
    tree: Mapping[str, Any],
    head: Mapping[str, Any],
    rows: Mapping[str, dict[str, Any]],
    tuning: Tuning | None,
    asked: dict[str, None],
) -> Iterable[Group]:
    """asked: gets the maps that rows name, also those on which none is left."""
    common, axes = (dict(leaves(table_of(tree, name))) for name in ("set", "axes"))
    overrides = table_of(tree, "maps")
    for row, table in rows.items():
        settings = {key: value for key, value in leaves(table) if key not in ROW_KEYS}
        rate_of = _rate_row(row, table, settings, rows, tuning)
        maps = as_list(table.get("map", axes.get("map")) or _default_map(common))
        for map_, algorithm in itertools.product(maps, as_list(_algorithm(settings, axes, common))):
            asked[str(map_)] = None
            local = {key: value for key, value in leaves(overrides.get(map_, {})) if key not in MAP_KEYS}
            special = overrides.get(map_, {})
            if row not in special.get("rows", rows):
                continue
            merged = {**common, **local, **settings, "env.map": map_, "algorithm": algorithm}
            seeds = seeds_of(table.get("seeds", special.get("seeds", head.get("seeds", [0]))), f"seeds of row {row!r}")
            try:
                config = resolve(None, _applicable(merged, settings), [])
                steps = table.get("steps", special.get("steps", head.get("steps", config.train.total_steps)))
                evaluations = whole(head.get("evaluations"), "sweep.evaluations")
                config = validate(_timed(config, whole(steps, "steps") or 1, evaluations))
            except UserError as error:
                raise UserError(f"row {row!r} on {map_}: {error}") from None
            yield Group(row, map_, algorithm, config, seeds, rate_of)
    for map_, table in overrides.items():
        missing = [row for row in table.get("rows", []) if row not in rows]
        if missing:
            raise UserError(f"[maps.{map_}] rows: no row {missing[0]!r}; {suggest(missing[0], rows)}")


def _algorithm(*settings: Mapping[str, Any]) -> Any:
    """That of the most specific settings which name one, given first."""
    return next((given["algorithm"] for given in settings if "algorithm" in given), "qmix")


def _applicable(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that mean something to the method: a dense row ignores the sparsity and block of the others.

    A winning ticket takes both from the run of its masks.
    """
    both = ("sparsity", "block")
    ignored = {"dense": both, "tiny": ("block",), "ticket-winning": both}.get(str(settings.get("method")), ())
    return {key: value for key, value in settings.items() if key not in ignored or key in own}


def _rate_row(
    row: str, table: Mapping[str, Any], settings: Mapping[str, Any], rows: Mapping[str, Any], tuning: Tuning | None
) -> str | None:
    """Whose tuned rate a row takes: the one it names, its own, or none when it sets train.lr itself."""
    given = table.get("rate_of")
    if given is not None and (tuning is None or "train.lr" in settings):
        raise UserError(f"row {row!r}: rate_of needs [tune], and no train.lr of its own")
    if given is not None and ("train.lr" in dict(leaves(rows.get(given, {}))) or given not in rows):
        raise UserError(f"row {row!r}: rate_of = {given!r} is no tuned row; {suggest(str(given), rows)}")
    return None if tuning is None or "train.lr" in settings else str(given or row)


def _axis_rows(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows from [axes]: every combination of its lists but map and algorithm, which cross every row."""
    axes = {key: as_list(value) for key, value in leaves(table_of(tree, "axes")) if key not in ("map", "algorithm")}
    if not axes:
        return {}
    if "method" not in axes:
        raise UserError('[axes] has no method: give for example method = ["dense", "mast"]')
    rows: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes.values()):
        row = _applicable(dict(zip(axes, values, strict=True)), {})
        if row["method"] in ("dense", "tiny"):
            row = {key: value for key, value in row.items() if not key.startswith("sparse.")}
        named = [_part(key, value) for key, value in row.items() if key != "method" and len(axes[key]) > 1]
        rows[" ".join([str(row["method"]), *named])] = row
    return rows


def _part(key: str, value: Any) -> str:
    """An axis value in a row's name."""
    if key == "sparsity":
        return f"{100 * value:g}%"
    return str(value) if key in SHORT else f"{key.rpartition('.')[2]} {value}"


def _timed(config: Config, steps: int, evaluations: int | None) -> Config:
    interval = config.train.eval_interval if evaluations is None else max(1, steps // evaluations)
    return replace(config, train=replace(config.train, total_steps=steps, eval_interval=interval))


def _tuning(tree: Mapping[str, Any]) -> Tuning | None:
    if "tune" not in tree:
        return None
    table = table_of(tree, "tune")
    known(table, TABLES["tune"], "[tune] key")
    rates = as_list(table.get("rates", []))
    if not rates or not all(isinstance(rate, int | float) and rate > 0 for rate in rates):
        raise UserError(f"tune.rates = {rates}: expected learning rates, for example [5e-4, 1e-3, 2e-3]")
    steps = whole(table.get("steps", table_of(tree, "sweep").get("steps")), "tune.steps")
    if steps is None:
        raise UserError("tune.steps: expected a number of environment steps")
    return Tuning(tuple(map(float, rates)), seeds_of(table.get("seeds", 1), "tune.seeds", 100), steps, table.get("map"))


def _default_map(common: Mapping[str, Any]) -> str:
    return str(common.get("env.map") or environment(str(common.get("env.name", "smax")))["env.map"])


def _unique_names(cells: list[Cell]) -> list[Cell]:
    _unique([(cell.name, "cell") for cell in cells])
    return cells


def _unique(names: Iterable[tuple[str, str]]) -> None:
    seen = set()
    for name, kind in names:
        if name in seen:
            raise UserError(f"two {kind}s are called {name!r}; rename one")
        seen.add(name)
