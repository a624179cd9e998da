"""The policies of zoo/ are whole, run here, and are what their page says; and the page is benchmarks/zoo.py's."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mast_runtime import load

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "zoo"
CARDS = json.loads((ZOO / "cards.json").read_text())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card["file"])
def test_a_policy_is_what_its_card_says(card):
    bundle = load(ZOO / card["file"])
    assert bundle.identity.digest == card["digest"] and (ZOO / card["file"]).stat().st_size == card["bytes"]
    assert [bundle.info[key] for key in ("env", "map", "algorithm", "seed", "steps")] == [
        card[key] for key in ("env", "map", "algorithm", "seed", "steps")
    ]
    assert sum(bundle.networks[agent.network].nnz for agent in bundle.agents) == card["connections"]


def test_the_page_is_made_from_the_cards(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    zoo = importlib.import_module("zoo")
    assert sorted(path.name for path in ZOO.glob("*.mast")) == [card["file"] for card in CARDS]
    assert (ZOO / "README.md").read_text() == zoo.page(CARDS)


def test_the_smallest_plays_its_recording():
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "selftest", str(ZOO / "3m.mast")], capture_output=True, text=True
    )
    assert done.returncode == 0 and "pass" in done.stdout, done.stdout + done.stderr
