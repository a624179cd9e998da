"""Units of StarCraft II by their published numbers (Legacy of the Void, 4.10; seconds and speeds are "faster" ones)."""

from __future__ import annotations

from typing import NamedTuple

LOOPS_PER_S = 22.4
"""Game loops in a second at the speed "faster": s2client-proto, docs/protocol.md."""


class Kind(NamedTuple):
    """A unit: type id, hit points and shield, speed in cells a second, range and radius in cells, one weapon.

    A weapon does `damage` (+ `bonus` against `bonus_against`) `hits` times every `cooldown_s`. Armour is taken from
    each hit on hit points, not from one on shields. splash: half the width in cells of the line across the shot.
    """

    type_id: int
    health: float
    shield: float
    armor: float
    speed: float
    radius: float
    range: float
    damage: float
    hits: int
    cooldown_s: float
    attributes: frozenset[str]
    bonus: float = 0.0
    bonus_against: str = ""
    splash: float = 0.0
    regeneration: float = 0.0


LIGHT, ARMORED = frozenset({"light"}), frozenset({"armored"})
KINDS: dict[str, Kind] = {
    "marine": Kind(48, 45, 0, 0, 3.15, 0.375, 5, 6, 1, 0.61, LIGHT),
    "zealot": Kind(73, 100, 50, 1, 3.15, 0.5, 0.1, 8, 2, 0.86, LIGHT),
    "stalker": Kind(74, 80, 80, 1, 4.13, 0.625, 6, 13, 1, 1.34, ARMORED, 5, "armored"),
    "colossus": Kind(4, 200, 150, 1, 3.15, 1.0, 7, 10, 2, 1.07, ARMORED, 5, "light", splash=1.4),
    "zergling": Kind(105, 35, 0, 0, 4.13, 0.375, 0.1, 5, 1, 0.497, LIGHT, regeneration=0.38),
}
SHIELD_PER_S, SHIELD_DELAY_S = 2.0, 7.14
"""Shields come back at this rate when nothing has hit the unit for so long."""
ALLY_IDS = ("marauder", "marine", "medivac", "colossus", "stalker", "zealot", "hydralisk", "baneling", "zergling")
FIRST_ALLY_ID = 1970
"""SMAC's maps have unit types of their own for the agents, numbered by kind in the order that SMAC expects."""


def ally_type(kind: str, team: dict[str, int]) -> int:
    """The type id of an agent's unit: consecutive over the kinds of its team."""
    return FIRST_ALLY_ID + [name for name in ALLY_IDS if name in team].index(kind)
