"""Learning results that the documents quote, as Markdown, from docs/results; run by cog like figures.py.

A score is what `mast report` makes of a run: mast_train.report.statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from figures import digits, table

from mast_train.report.statistics import RETURN, WIN_RATE, last_count, score

RESULTS = Path(__file__).resolve().parent / "results"
MAPS = {"3m": "SMAX 3m", "2s3z": "SMAX 2s3z", "8m": "SMAX 8m", "3s5z": "SMAX 3s5z", "navigation": "VMAS navigation"}
"""Folders of docs/results with a comparison on one map, and what they are called."""


@dataclass(frozen=True)
class Row:
    """A row of a comparison: a score for each seed. rate: the learning rate; bench: what mast bench said, or None."""

    name: str
    algorithm: str
    scores: list[float]
    rate: float
    steps: int
    bench: dict[str, Any] | None

    @property
    def mean(self) -> float:
        return mean(self.scores)


def rows(folder: str) -> list[Row]:
    """The rows of docs/results/FOLDER, in order."""
    results = json.loads((RESULTS / folder / "results.json").read_text(encoding="utf-8"))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in results["runs"]:
        if run["phase"] == "final":
            key = results["configs"][run["config"]]["algorithm"], run["row"]
            found.setdefault(key, []).append(run)
    return [_row(results, *key, sorted(runs, key=lambda run: run["seed"])) for key, runs in found.items()]


def by_name(folder: str) -> dict[str, Row]:
    """The rows of a comparison under one algorithm."""
    return {row.name: row for row in rows(folder)}


def by_map() -> str:
    """README: dense beside the default row on every map."""
    lines = []
    for folder, text in MAPS.items():
        if (RESULTS / folder).is_dir():
            found = by_name(folder)
            dense, sparse = found["dense"], found["mast-active"]
            unit = "return" if folder == "navigation" else "win rate"
            lines.append([
                f"[{text}](docs/results.md#{folder})", f"{dense.steps:,}", f"{len(dense.scores)}, {len(sparse.scores)}",
                f"{unit} {_value(dense.mean)}", f"{_value(sparse.mean)}", share(sparse, dense),
            ])  # fmt: skip
    head = ["", "steps", "seeds: dense, sparse", "dense", "mast-active, 95 % sparse", "of dense"]
    return table(head, lines)


def scores(folder: str, names: Sequence[str] = (), beside: str = "dense") -> str:
    """A comparison, best first; names: these rows only, in this order. Shares are of the row `beside`."""
    found = [row for row in rows(folder) if not names or row.name in names]
    several = len({row.algorithm for row in found}) > 1
    reference = {row.algorithm: row for row in found if row.name == beside}
    found.sort(key=lambda row: names.index(row.name) if names else -row.mean)
    lines = [
        [f"{row.name}, {row.algorithm}" if several else row.name, f"{row.rate:g}", " ".join(map(_value, row.scores)),
         _value(row.mean), share(row, reference[row.algorithm])]
        for row in found
    ]  # fmt: skip
    return table(["row", "learning rate", "each seed", "mean", f"of {beside}"], lines)


def sparsities() -> str:
    """results.md: win rate over sparsity, one seed, and what a decision took where it was measured."""
    found, lines = by_name("sparsity"), []
    for sparsity in ("90", "95", "97.5", "99"):
        line = [f"{sparsity} %"]
        for start in ("mast-scaled {} 1x1 hidden 64", "mast-scaled {} 16x1 hidden 64", "mast-scaled {} 1x1 hidden 128",
                      "mast-scaled {} 16x1 hidden 128", "mast-active {} 1x1 hidden 64",
                      "mast-active {} 16x1 hidden 64"):  # fmt: skip
            line.append(_timed(found[start.format(f"{sparsity}%")]))
        lines.append(line)
    dense = [_timed(found[f"dense hidden {hidden}"]) for hidden in (64, 128)]
    lines.insert(0, ["dense", dense[0], "", dense[1], "", "", ""])
    return table(
        ["", "mast-scaled", "GRU in 16x1", "hidden 128", "hidden 128, GRU in 16x1", "mast-active", "GRU in 16x1"], lines
    )


def components() -> str:
    """choosing.md: every setting of the ablation, in turn."""
    found = rows("ablation")
    lines = [[row.name, " ".join(map(_value, row.scores)), _value(row.mean), share(row, found[0])] for row in found]
    return table(["", "two seeds", "mean", f"of {found[0].name}"], lines)


def idle() -> str:
    """choosing.md: dropping by magnitude beside dropping idle connections first, 2s3z."""
    found = by_name("2s3z")
    pairs = {
        "mast, mast-active": ("mast", "mast-active"),
        "rigl": ("rigl", "rigl, idle first"),
        "16x1 blocks in the GRU (mast-scaled, mast-active)": ("mast-scaled gru 16x1", "mast-active gru 16x1"),
    }
    lines = [[text, *(", ".join(map(_value, found[name].scores)) for name in pair)] for text, pair in pairs.items()]
    return table(["", "dropped by magnitude", 'idle ones first, `sparse.drop = "idle"`'], lines)


def updates_an_episode() -> str:
    """choosing.md: 2s3z with few and with many updates."""
    found, lines = by_name("2s3z"), []
    explored = {entry["method"]: entry for entry in reversed(_explored()) if len(entry["settings"]) == 2}
    for name in ("dense", "mast", "mast-active", "rigl", "ss"):
        twice = found.get(f"{name}, two updates an episode")
        once = explored.get(name) if name != "mast" else None
        lines.append([
            name, "–" if once is None else _value(once["score"]),
            ", ".join(map(_value, found[name].scores[:2])) if name in found else "–",
            "–" if twice is None else ", ".join(map(_value, twice.scores)),
        ])  # fmt: skip
    return table(["", "one update in two episodes", "one per episode, seeds 0 and 1", "two per episode"], lines)


def known() -> set[str]:
    """Every score and mean there is, as it would be quoted."""
    found = {_value(value) for folder in _folders() for row in rows(folder) for value in (*row.scores, row.mean)}
    return found | {_value(entry["score"]) for entry in _explored()} | {_value(x) for x in _tried()}


def share(row: Row, reference: Row | None) -> str:
    """Of the reference's score; a return has no zero to be a share from."""
    if reference is None or row.mean > 1 or reference.mean > 1:
        return "–"
    return f"{row.mean / reference.mean:.1%}".replace("%", " %")


def _row(results: dict[str, Any], algorithm: str, name: str, runs: list[dict[str, Any]]) -> Row:
    config = results["configs"][runs[0]["config"]]
    wins = all(value is not None for run in runs for value in run["curve"]["win_rate"])
    measure = WIN_RATE if wins and config.get("train.score", "auto") == "auto" else RETURN
    last = last_count(min(len(run["curve"][measure]) for run in runs))
    found = [score(run["curve"][measure], last) for run in runs]
    bench = results["bench"].get(f"{config['env.map']}/{algorithm}/{name}")
    return Row(name, algorithm, found, config["train.lr"], config["train.total_steps"], bench)


def _folders() -> Iterator[str]:
    return (path.parent.name for path in sorted(RESULTS.glob("*/results.json")))


def _explored() -> list[dict[str, Any]]:
    return json.loads((RESULTS / "2s3z-exploration.json").read_text(encoding="utf-8"))


def _tried() -> list[float]:
    runs = json.loads((RESULTS / "2s3z-tried.json").read_text(encoding="utf-8"))["runs"]
    return [score(run["curve"][WIN_RATE]) for run in runs]


def _value(number: float) -> str:
    return f"{number:.3f}" if abs(number) <= 1 else f"{number:.1f}"


def _timed(row: Row) -> str:
    return _value(row.mean) + (f" in {digits(row.bench['latency_us'])} us" if row.bench else "")
