"""Learning results that the documents quote, as Markdown, from docs/results; run by cog like figures.py.

A score is what `mast report` makes of a run: mast_train.report.statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean
from typing import Any

from figures import digits, table

from mast_train.report.statistics import RETURN, WIN_RATE, last_count, measure_word, score

RESULTS = Path(__file__).resolve().parent / "results"
MAPS = {"3m": "SMAX 3m", "2s3z": "SMAX 2s3z", "8m": "SMAX 8m", "3s5z": "SMAX 3s5z", "navigation": "VMAS navigation"}
"""Folders of docs/results with a comparison on one map, and what they are called."""
FALLING = {"8m", "3s5z"}
"""Where dense and the default row were compared under today's default, a rate that falls to a tenth."""

UNCHANGED = "mast-scaled"
ADVICE = (
    ("learning rate, `train.lr`", {"1e-3": "rate 1e-3", "2e-3": UNCHANGED, "4e-3": "rate 4e-3"},
     "tune it first, on the row you will use: sparse rows want two to eight times "
     "[dense's rate](results.md#learning-rates)"),
    ("λ, `target.td_lambda`",
     {"0.3": "lambda 0.3", "0.6": UNCHANGED, "0.9": "lambda 0.9", "one-step": "one-step targets"},
     "0.6; not above it: with episodes of 25 steps 0.9 is nearly the Monte Carlo return"),
    ("ω, `target.omega`", {"2": "omega 2", "5": UNCHANGED, "20": "omega 20"},
     '5 in units of the spread (`target.scale = "spread"`); a large ω leans to the maximum of noisy values'),
    ("α, `target.alpha`", {"2": "alpha 2", "5": UNCHANGED, "20": "alpha 20"},
     "any; it matters when α is far too small for the scale of the values ([why](methods.md#alpha-and-omega))"),
    ("operator", {"soft Mellowmax": UNCHANGED, "max with double Q": "operator: max, double Q",
                  "no double Q": "operator: no double Q", "fixed scale": "operator: fixed scale, alpha and omega 10"},
     "soft Mellowmax and max with double Q cannot be told apart here; keep the online weights (`target.double_q`)"),
    ("T₀, `target.start`", {"0": "T_0 = 0", "0.1": UNCHANGED, "0.4": "T_0 = 0.4"},
     "no effect at the end; 0 learns earlier, so use 0 for short runs"),
    ("b1:b2, `replay.recent_batch`", {"one buffer": "one buffer", "3:1": UNCHANGED, "1:1": "b1:b2 = 1:1"}, "leave it"),
    ("topology, `sparse.grow`", {"none": "static topology", "random": "grown at random", "gradient": UNCHANGED},
     "let it evolve by gradient: a static or randomly grown network was lower, and slower to learn"),
    ("evolution every so many updates, `sparse.update_interval`",
     {"50": "topology every 50 updates", "200": UNCHANGED, "800": "topology every 800 updates"}, "200"),
    ("allocation, `sparse.allocation`", {"Erdős–Rényi": UNCHANGED, "uniform": "uniform allocation"},
     "Erdős–Rényi: uniform starves the small output layer"),
    ("initial scale, `sparse.rescale_init`", {"on": UNCHANGED, "off": "no rescaled initialisation"}, "on"),
)  # fmt: skip
"""Setting, what was tried and the ablation's row of it, and what to do."""


@dataclass(frozen=True)
class Row:
    """A row of a comparison: a score and a curve of (step, score) for each seed.

    rate: the learning rate. bench: what `mast bench` said, or None.
    """

    name: str
    algorithm: str
    scores: list[float]
    measure: str
    rate: float
    steps: int
    bench: dict[str, Any] | None
    curves: list[list[tuple[int, float]]]

    @property
    def mean(self) -> float:
        return mean(self.scores)

    @property
    def text(self) -> str:
        return _value(self.mean, self.measure)

    def at(self, step: int) -> list[float]:
        """Of each seed, at the first evaluation from a step on."""
        return [next(value for when, value in curve if when >= step) for curve in self.curves]


def rows(folder: str) -> list[Row]:
    """The rows of docs/results/FOLDER, in order."""
    results = _results(folder)
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
        found, falls = by_name(folder), folder in FALLING
        names = ("dense, 5e-4 falling", "mast-active, 2e-3 falling") if falls else ("dense", "mast-active")
        if set(names) <= found.keys():
            dense, sparse = (found[name] for name in names)
            lines.append([
                f"[{text}](docs/results.md#{folder})", f"{dense.steps:,}", "falls to a tenth" if falls else "constant",
                f"{len(dense.scores)}, {len(sparse.scores)}",
                f"{measure_word(dense.measure)} {dense.text}", sparse.text, share(sparse, dense),
            ])  # fmt: skip
    head = ["", "steps", "learning rate", "seeds: dense, sparse", "dense", "mast-active, 95 % sparse", "of dense"]
    return table(head, lines)


def scores(folder: str, names: Sequence[str] = (), beside: str = "dense") -> str:
    """A comparison, best first; names: these rows only, in this order. Shares are of the row `beside`, where there is
    one."""
    found = [row for row in rows(folder) if not names or row.name in names]
    several = len({row.algorithm for row in found}) > 1
    reference = {row.algorithm: row for row in found if row.name == beside}
    found.sort(key=lambda row: names.index(row.name) if names else -row.mean)
    lines = [
        [f"{row.name}, {row.algorithm}" if several else row.name, f"{row.rate:g}",
         " ".join(_value(x, row.measure) for x in row.scores), row.text,
         *([share(row, reference[row.algorithm])] if reference else [])]
        for row in found
    ]  # fmt: skip
    return table(["row", "learning rate", "each seed", "mean", *([f"of {beside}"] if reference else [])], lines)


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


def learned(folder: str, names: Sequence[str], steps: Sequence[int]) -> str:
    """results.md: how far each seed was, at the first evaluation from a step on."""
    found, lines = by_name(folder), []
    for name in names:
        row = found[name]
        cells = [", ".join(_value(value, row.measure) for value in row.at(step)) for step in steps]
        lines.append([name, *cells])
    return table(["each seed at", *(f"{step:,} steps" for step in steps)], lines)


def sooner() -> str:
    """results.md: teams of one network beside networks of their own at the same steps of runs of unlike length."""
    wanted = {
        "8m, mast-double, one network": ("8m-shared", "mast-double"),
        "8m, mast-active, one each": ("8m", "mast-active, 2e-3 falling"),
        "3s5z, mast-double, one network": ("3s5z-shared", "mast-double"),
        "3s5z, mast-double, one each": ("3s5z", "mast-active, max with double Q, 2e-3 falling"),
        "2s3z, mast-double, one network": ("2s3z-shared", "mast-double"),
        "2s3z, mast-double, one each": ("2s3z", "mast-active, max with double Q, 2e-3 falling"),
    }
    steps, lines = (100_000, 200_000, 300_000, 400_000), []
    for text, (folder, name) in wanted.items():
        row = by_name(folder)[name]
        lines.append([text, str(len(row.curves)), *(_value(mean(row.at(step))) for step in steps)])
    return table(["mean win rate at", "seeds", *(f"{step:,}" for step in steps)], lines)


def rates(folder: str) -> str:
    """results.md: what tuning found on its own seed; the rate that was taken is bold."""
    (choices,) = _results(folder)["choices"].values()
    grid = list(dict.fromkeys(rate for choice in choices.values() for rate in choice["scores"]))
    lines = []
    for group, choice in choices.items():
        found = {rate: _value(mean(scores), choice["measure"]) for rate, scores in choice["scores"].items()}
        best = f"{choice['rate']:g}"
        found[best] = f"**{found[best]}**"
        lines.append([group.rpartition("/")[2], *(found.get(rate, "–") for rate in grid)])
    return table(["row", *grid], lines)


def where_it_costs() -> str:
    """results.md: sparse agents, a sparse mixer, both; 2s3z, one update in two episodes, one seed."""
    wanted = {
        "dense": ("dense", {}),
        "dense agents, 95 % sparse mixer": ("rigl", {"sparse.agent_sparsity": 0.0}),
        "95 % sparse agents, dense mixer": ("rigl", {"sparse.mixer_sparsity": 0.0}),
        "both sparse": ("rigl", {}),
        "both sparse, a static topology": ("ss", {}),
    }
    lines = []
    for text, (method, changed) in wanted.items():
        (score,) = (entry["score"] for entry in _explored() if entry["method"] == method and changed == {
            key: value for key, value in entry["settings"].items() if key not in ("train.lr", "train.target_interval")
        })  # fmt: skip
        lines.append([text, _value(score)])
    return table(["", "win rate"], lines)


def advice() -> str:
    """choosing.md: every setting of the ablation in turn. Bold: settings of the row that all others change, and what
    differs from it by more than two standard deviations."""
    found = by_name("ablation")
    base, lines = found[UNCHANGED], []
    for setting, tried, text in ADVICE:
        labels = [f"**{label}**" if name == UNCHANGED else label for label, name in tried.items()]
        means = [f"**{found[name].text}**" if abs(found[name].mean - base.mean) > 2 * noise() else found[name].text
                 for name in tried.values()]  # fmt: skip
        lines.append([setting, ", ".join(labels), ", ".join(means), text])
    return table(["setting", "tried", f"win rate ({base.text} unchanged)", "advice"], lines)


def noise() -> float:
    """The ablation's standard deviation of a score from seed to seed, pooled over its pairs; a difference of two means
    of two seeds has the same."""
    pairs = [row.scores for row in rows("ablation")]
    return sqrt(mean((a - b) ** 2 / 2 for a, b in pairs))


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
    found = {_value(x, row.measure) for folder in _folders() for row in rows(folder) for x in (*row.scores, row.mean)}
    found |= {_value(noise()), _value(2 * noise())}
    return found | {_value(entry["score"]) for entry in _explored()} | {_value(x) for x in _tried()}


def share(row: Row, reference: Row | None) -> str:
    """Of the reference's score; a return has no zero to be a share from."""
    if reference is None or RETURN in (row.measure, reference.measure):
        return "–"
    return f"{row.mean / reference.mean:.1%}".replace("%", " %")


def _row(results: dict[str, Any], algorithm: str, name: str, runs: list[dict[str, Any]]) -> Row:
    config = results["configs"][runs[0]["config"]]
    wins = all(value is not None for run in runs for value in run["curve"]["win_rate"])
    measure = WIN_RATE if wins and config.get("train.score", "auto") == "auto" else RETURN
    last = last_count(min(len(run["curve"][measure]) for run in runs))
    found = [score(run["curve"][measure], last) for run in runs]
    bench = results["bench"].get(f"{config['env.map']}/{algorithm}/{name}")
    curves = [list(zip(run["curve"]["step"], run["curve"][measure], strict=True)) for run in runs]
    return Row(name, algorithm, found, measure, config["train.lr"], config["train.total_steps"], bench, curves)


def _results(folder: str) -> dict[str, Any]:
    return json.loads((RESULTS / folder / "results.json").read_text(encoding="utf-8"))


def _folders() -> Iterator[str]:
    return (path.parent.name for path in sorted(RESULTS.glob("*/results.json")))


def _explored() -> list[dict[str, Any]]:
    return json.loads((RESULTS / "2s3z-exploration.json").read_text(encoding="utf-8"))


def _tried() -> list[float]:
    runs = json.loads((RESULTS / "2s3z-tried.json").read_text(encoding="utf-8"))["runs"]
    return [score(run["curve"][WIN_RATE]) for run in runs]


def _value(number: float, measure: str = WIN_RATE) -> str:
    return f"{number:.3f}" if measure == WIN_RATE else f"{number:.1f}"


def _timed(row: Row) -> str:
    return _value(row.mean) + (f" in {digits(row.bench['latency_us'])} us" if row.bench else "")
