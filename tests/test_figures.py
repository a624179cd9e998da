"""The figures in the documents: from the files that measured them, and quoted as they are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import figures  # noqa: E402
import house  # noqa: E402
import scores  # noqa: E402


def maps(report: Path) -> set[str]:
    return set(re.findall(r"^## (\S+), ", report.read_text(), re.MULTILINE))


REPORTS = [path for path in sorted((ROOT / "docs" / "results").glob("*/report.md")) if len(maps(path)) == 1]
"""Those of one map, which scores.py quotes."""


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.parent.name)
def test_scores_are_those_of_the_report(report):
    """mast report's own table has the same seeds and means, and the same share where it has one."""
    found = {(row.algorithm.upper(), row.name): row for row in scores.rows(report.parent.name)}
    algorithm, seen = "", 0
    for line in report.read_text().splitlines():
        if line.startswith("## "):
            algorithm = line.split(", ")[1].split()[0]
        if not re.match(r"\| (?!row|---)", line):
            continue
        name, rate, seeds, each, mean, *_ = cells(line)
        row = found[algorithm, name]
        assert float(rate) == row.rate and int(seeds) == len(row.scores)
        assert [float(x) for x in each.split()] == pytest.approx(row.scores, abs=6e-4)
        assert float(mean) == pytest.approx(row.mean, abs=6e-4)
        seen += 1
    assert seen == len(found) > 0


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/choosing.md"])
def test_scores_in_sentences_are_in_the_results(page):
    """Every number with three decimals that is not written by cog."""
    text = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", "", (ROOT / page).read_text(), flags=re.S)
    assert set(re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", text)) - scores.known() == set()


def test_shares_by_hand():
    dense, sparse = (
        scores.Row(name, "qmix", x, "win_rate", 1e-3, 1, None, []) for name, x in (("d", [0.5]), ("s", [0.4, 0.5]))
    )
    assert scores.share(sparse, dense) == "90.0 %" and scores.share(sparse, None) == "–"
    team = scores.Row("d", "qmix", [0.5], "return_mean", 1e-3, 1, None, [])
    assert scores.share(team, team) == "–" and team.text == "0.5" and sparse.text == "0.450"


def test_the_ablations_noise_by_hand(monkeypatch):
    """Pooled over pairs: the variance of two values is half of their difference's square."""
    pairs = [[0.7, 0.74], [0.6, 0.6], [0.5, 0.44]]
    monkeypatch.setattr(
        scores, "rows", lambda folder: [scores.Row("", "", x, "win_rate", 0, 0, None, []) for x in pairs]
    )
    assert scores.noise() == pytest.approx(((0.04**2 + 0.06**2) / 2 / 3) ** 0.5)


def test_numbers_are_rounded_to_three_digits():
    assert [figures.digits(x) for x in (0.0927, 0.95, 16.39, 354.8, 6416.3)] == [
        "0.093",
        "0.95",
        "16.4",
        "355",
        "6,416",
    ]
    assert figures.table(["", "a"], [["b", ""]]) == "| | a |\n| --- | --- |\n| b | |"


def test_every_room_is_described_and_code_is_quoted_as_it_is():
    assert set(house.ROOMS) == {path.parent.name for path in (ROOT / "mast_train").glob("*/*.py")}
    quoted = house.source("mast_train/algorithms/iql.py", "IQL.mixer")
    assert quoted == "```python\ndef mixer(self, spec: EnvSpec) -> Apart:\n    return Apart()\n```"
