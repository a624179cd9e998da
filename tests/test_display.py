"""What a person sees while a run trains: on a terminal of 80 columns nothing is cut, least of all when it will end."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from mast_train.commands.display import TrainingDisplay
from mast_train.runs.events import Evaluation, Progress


@pytest.mark.parametrize("names", [["seed 0"], ["seed 0", "seed 1"]])
def test_the_live_lines_fit_a_terminal(names):
    screen, clock = StringIO(), [0.0]
    console = Console(width=80, height=24, force_terminal=True, file=screen, get_time=lambda: clock[0])
    with TrainingDisplay(console, 2_000_000, [1_480_000] * len(names), names) as display:
        for run in range(len(names)):
            display.evaluation(Evaluation(1_480_000, 64, 48, 16.2, 14.0), run)
        for step in (1_490_000, 1_500_000):
            clock[0] += 2.0
            for run in range(len(names)):
                display.round(Progress(step, 100, 0.05, {}, {}), run)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").rstrip().splitlines()[-1]
    assert "…" not in last and re.search(
        r"1,500,000/2,000,000 .* 5,000 steps/s win rate 0\.75 ε 0\.05 ETA 01:40$", last
    )
    assert ("seed 1 " in last) == (len(names) == 2)


def test_without_a_terminal_there_are_plain_lines(monkeypatch):
    monkeypatch.setattr("mast_train.commands.display.PLAIN_SECONDS", -1.0)
    screen = StringIO()
    with TrainingDisplay(Console(width=200, file=screen), 1000, [0], ["seed 0"]) as display:
        display.evaluation(Evaluation(0, 8, None, -2.5, 3.0))
        display.round(Progress(400, 10, 0.5, {}, {}))
    first, second = screen.getvalue().splitlines()
    assert first == "  step         0: return -2.50, length 3.0 over 8 greedy episodes"
    assert re.fullmatch(r"400/1,000 steps, [\d,]+ steps/s, return -2\.50, epsilon 0\.50, ETA \d+ s", second)
