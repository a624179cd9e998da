"""What a sweep file says that would change nothing: an error each, with what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mast_train.settings.config import leaves
from mast_train.settings.errors import UserError, suggest

DECIDED = {"seed": "seeds", "env.map": "map", "train.total_steps": "steps", "train.eval_interval": "evaluations"}
"""Setting -> the key of a sweep file that decides it."""


def check_settings(tree: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UserError for a setting that other parts of the file overrule everywhere. tree: the file's tables."""
    for name, table in tree["maps"].items():
        if not isinstance(table, Mapping):
            raise UserError(f"maps.{name} = {table!r}: expected a table, [maps.{name}]")
    common, axes = dict(leaves(tree["set"])), dict(leaves(tree["axes"]))
    shared = {"[set]": common, **{f"[maps.{name}]": dict(leaves(table)) for name, table in tree["maps"].items()}}
    own = {"[axes]": axes, **{f"row {name!r}": dict(leaves(table)) for name, table in rows.items()}}
    for where, table in {**shared, **own}.items():
        for key, instead in DECIDED.items():
            always = key == "seed" or (key == "env.map" and where != "[set]")
            if key in table and (always or instead in tree["sweep"]):
                raise UserError(f"{where} {key} would change nothing: `{instead}` decides it; set that")
    for where, table in shared.items():
        if "algorithm" in table and where != "[set]":
            raise UserError(f"{where} algorithm would change nothing: name it in [axes] or in a row")
        if tree["tune"] and "train.lr" in table:
            raise UserError(f"{where} train.lr would change nothing: [tune] chooses it; set it in a row of [rows]")
    if "env.map" in common and ("map" in axes or all("map" in row for row in rows.values())):
        raise UserError("[set] env.map would change nothing: every row has its map; leave it out")


def check_used(tree: Mapping[str, Any], asked: Iterable[str], sources: Iterable[tuple[str, str | None]]) -> None:
    """Raise UserError for [maps] and [tune] of what no row is.

    asked: the maps that rows name. sources: of each group its key and that of the group whose tuning it takes.
    """
    maps, pairs = list(asked), list(sources)
    for name in tree.get("maps", {}):
        if name not in maps:
            raise UserError(f"[maps.{name}] would change nothing, no row trains on it: {suggest(name, maps)}")
    if "tune" not in tree:
        return
    if (given := tree["tune"].get("map")) is not None and given not in maps:
        raise UserError(f"tune.map = {given!r}: no row trains on it; {suggest(str(given), maps)}")
    tuned = {key for key, _ in pairs}
    if pairs and not any(source for _, source in pairs):
        raise UserError("[tune] would change nothing: every row sets train.lr; leave one of them out")
    for key, source in pairs:
        if source is not None and source not in tuned:
            raise UserError(
                f"{key} takes the rate that is tuned on {source}, which no row is; {suggest(source, tuned)}"
            )
