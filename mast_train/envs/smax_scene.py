"""A SMAX battle as a picture: units by team and type, their health, and who fires at whom."""

from __future__ import annotations

from typing import Any

import numpy as np

from mast_train.envs.scene import Circle, Colour, Line, Polygon, Scene

ALLY: Colour = (38, 108, 184)
ENEMY: Colour = (196, 64, 52)
DEAD: Colour = (205, 205, 200)
BAR: Colour = (222, 222, 216)
HEALTHY: Colour = (74, 160, 78)
WEAK: Colour = (226, 152, 40)


def scene(
    battle: Any, positions: np.ndarray, alive: np.ndarray, health: np.ndarray, types: np.ndarray, attacks: np.ndarray
) -> Scene:
    """One moment of `battle`, JaxMARL's simulator: positions [U,2], and [U] alive bool, health, types, last actions.

    Units: allies first. An attack is drawn where its unit lives and its target was in range.
    """
    allies, radii = battle.num_allies, np.asarray(battle.unit_type_radiuses)[types]
    ranges = np.asarray(battle.unit_type_attack_ranges)[types]
    full = np.asarray(battle.unit_type_health)[types]
    fallen, shots, bodies, bars = [], [], [], []
    for unit, (x, y) in enumerate(positions.tolist()):
        team, radius = ALLY if unit < allies else ENEMY, float(radii[unit])
        if not alive[unit]:
            fallen.append(Circle((x, y), 0.5 * radius, DEAD))
            continue
        target = _target(int(attacks[unit]), unit, allies, battle.num_movement_actions)
        if target is not None and np.linalg.norm(positions[unit] - positions[target]) < ranges[unit] + radii[target]:
            shots.append(_shot(positions[unit], positions[target], team))
        label = battle.unit_type_shorthands[int(types[unit])]
        bodies.append(Circle((x, y), radius, team, label))
        bars += _bar(x, y + radius + 0.2, radius, float(health[unit] / full[unit]))
    return Scene((*fallen, *shots, *bodies, *bars), (("allies", ALLY), ("enemies", ENEMY)))


def _target(action: int, unit: int, allies: int, movements: int) -> int | None:
    """The unit that an action attacks; enemies number theirs from the last ally down, as they observe them."""
    if action < movements:
        return None
    return allies + action - movements if unit < allies else allies - 1 - (action - movements)


def _shot(start: np.ndarray, end: np.ndarray, colour: Colour) -> Line:
    """A line a little to the shooter's right, so that two units firing at each other show as two lines."""
    along = end - start
    aside = 0.12 * np.array([along[1], -along[0]]) / max(float(np.linalg.norm(along)), 1e-6)
    (x0, y0), (x1, y1) = (start + aside).tolist(), (end + aside).tolist()
    return Line((x0, y0), (x1, y1), colour, 0.09)


def _bar(x: float, y: float, half: float, share: float) -> list[Polygon]:
    def box(left: float, right: float, colour: Colour) -> Polygon:
        return Polygon(((left, y), (right, y), (right, y + 0.16), (left, y + 0.16)), colour)

    left = x - half
    middle = left + 2.0 * half * max(0.0, min(1.0, share))
    return [box(left, x + half, BAR), box(left, middle, HEALTHY if share > 0.35 else WEAK)]
