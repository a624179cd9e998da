"""What is known of VMAS's scenarios: which end by themselves only when their task is solved, and with which options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Solved(NamedTuple):
    """The end of a scenario as its win. able(scenario): with the options it was made with it can end."""

    task: str
    needs: str = ""
    able: Callable[[Any], bool] = lambda scenario: True


def _all_found(scenario: Any) -> bool:
    return not scenario.targets_respawn and scenario._agents_per_target <= scenario.n_agents


SOLVED = {
    "discovery": Solved(
        "every target was covered", "`targets_respawn=false`, at most as many `agents_per_target` as agents", _all_found
    ),
    "dispersion": Solved("all food is eaten"),
    "give_way": Solved(
        "both robots are on their goals",
        "`done_on_completion=true`",
        lambda scenario: bool(scenario.done_on_completion),
    ),
    "joint_passage": Solved("the joint is on its goal, at the goal's angle"),
    "joint_passage_size": Solved("the joint is on its goal, at the goal's angle"),
    "navigation": Solved("every robot is on its goal"),
    "passage": Solved("every robot is on its goal"),
    "reverse_transport": Solved("the package is on its goal"),
    "transport": Solved("every package is on its goal"),
}
"""Not here: scenarios that never end by themselves, and those whose end may be a failure."""


def wins(map_name: str, scenario: Any) -> bool:
    """Whether an end of this scenario, with its options, is a win."""
    return map_name in SOLVED and SOLVED[map_name].able(scenario)
