"""Units that move, shoot and die, one game loop at a time. numpy only, the syntax of Python 3.8."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np

from stand_in.units import KINDS, LOOPS_PER_S, SHIELD_DELAY_S, SHIELD_PER_S, Kind, ally_type

NONE, MOVE, ATTACK = 0, 1, 2
ALLY, ENEMY = 1, 2
FIRST_TAG = 0x100000000
MAX_DELAY_LOOPS = 2.0


class Battlefield:
    """A map with two teams: the agents', which do what they are told, and the computer's, which attacks the nearest.

    Arrays over the n units that were created together: at [n,2], health, shield, cooldown (loops) and the like [n].
    When every unit is dead the teams are created again, as a trigger of SMAC's maps does.
    """

    def __init__(
        self,
        battle: dict[str, Any],
        enemy: str = "attack",
        spawn_delay: int = 1,
        random: Random | None = None,
    ) -> None:
        """battle: a map file (stand_in.install). enemy: attack or passive. spawn_delay: loops until units are there.

        random: of a weapon's delay, up to two loops a shot; without it there is none.
        """
        self._random = random
        self.size: list[int] = battle["size"]
        self.playable: list[int] = battle["playable"]
        self.pathing = np.zeros(self.size, dtype=bool)  # [x,y]
        x0, y0, x1, y1 = self.playable
        self.pathing[x0:x1, y0:y1] = True
        for x0, y0, x1, y1 in battle["walls"]:
            self.pathing[x0:x1, y0:y1] = False
        self._teams, self._enemy, self._delay = battle["teams"], enemy, spawn_delay
        self.loop, self._next_tag, self._empty_for = 0, FIRST_TAG, 0
        self.spawn()

    def spawn(self) -> None:
        """Both teams, each kind in a column on its side of the map."""
        self.born = self.loop
        names, owners, places = [], [], []
        middle = (self.playable[1] + self.playable[3]) / 2
        for owner, x, back in ((ALLY, self.size[0] / 2 - 7, -1), (ENEMY, self.size[0] / 2 + 7, 1)):
            for kind, count in self._teams[owner - 1].items():
                for i in range(count):
                    column, row = divmod(i, 8)
                    names.append(kind)
                    owners.append(owner)
                    places.append((x + 1.2 * back * column, middle + 1.2 * (row - (min(count, 8) - 1) / 2)))
                x += 1.5 * back
        n = len(names)
        self.kinds: list[Kind] = [KINDS[name] for name in names]
        self.types = [
            ally_type(name, self._teams[0]) if owner == ALLY else KINDS[name].type_id
            for name, owner in zip(names, owners)  # noqa: B905
        ]
        self.owner, self.at = np.array(owners), np.array(places, dtype=float)
        self.tags = [self._next_tag + i for i in range(n)]
        self._next_tag += n
        for name in ("health", "shield", "radius", "range", "speed", "regeneration"):
            setattr(self, name, np.array([float(getattr(kind, name)) for kind in self.kinds]))
        self.full_health, self.full_shield = self.health.copy(), self.shield.copy()
        self.cooldown, self.calm = np.zeros(n), np.zeros(n)
        self.order, self.target, self.goal = np.zeros(n, dtype=int), np.zeros(n, dtype=int), self.at.copy()

    def command(self, tag: int, order: int, target: int = 0, goal: Any = None) -> bool:
        """Give a unit an order; `target` is a tag, `goal` a point. False for a unit or a target that is not there."""
        living = {self.tags[i]: i for i in np.flatnonzero(self.health > 0)}
        if tag not in living or (order == ATTACK and target not in living):
            return False
        i = living[tag]
        self.order[i], self.target[i] = order, living.get(target, 0)
        self.goal[i] = self.at[i] if goal is None else goal
        return True

    def kill(self, tags: Any) -> None:
        """Kill units at once; tags that are not there are ignored."""
        self.health[np.isin(self.tags, list(tags))] = 0

    def step(self, loops: int) -> None:
        for _ in range(loops):
            self._step()

    def _step(self) -> None:
        self.loop += 1
        alive = self.health > 0
        if not alive.any():
            self._empty_for += 1
            if self._empty_for >= self._delay:
                self._empty_for = 0
                self.spawn()
            return
        if self._enemy == "attack":
            self._command_enemy(alive)
        attacking = alive & (self.order == ATTACK)
        attacking &= self.health[self.target] > 0
        self.order[(self.order == ATTACK) & ~attacking] = NONE
        away = self.at[self.target] - self.at
        gap = np.hypot(away[:, 0], away[:, 1]) - self.radius - self.radius[self.target]
        near = attacking & (gap <= self.range + 1e-6)
        self._move(attacking & ~near, gap - self.range)
        self._push(alive)
        for i in np.flatnonzero(near & (self.cooldown <= 0)):
            self._shoot(int(i), alive)
        self.cooldown = np.maximum(self.cooldown - 1, 0)
        self.calm += 1
        resting = alive & (self.calm > SHIELD_DELAY_S * LOOPS_PER_S)
        self.shield = np.minimum(self.shield + resting * SHIELD_PER_S / LOOPS_PER_S, self.full_shield)
        living = self.health > 0
        self.health = np.where(living, np.minimum(self.health + self.regeneration / LOOPS_PER_S, self.full_health), 0)

    def _command_enemy(self, alive: np.ndarray) -> None:
        """Keep a target that is in range; otherwise take the nearest."""
        enemies, allies = np.flatnonzero(alive & (self.owner == ENEMY)), np.flatnonzero(alive & (self.owner == ALLY))
        if not len(enemies) or not len(allies):
            return
        away = self.at[allies][None] - self.at[enemies][:, None]
        gaps = np.hypot(away[..., 0], away[..., 1]) - self.radius[allies]
        nearest = allies[gaps.argmin(1)]
        own = self.target[enemies]
        apart = self.at[own] - self.at[enemies]
        gap = np.hypot(apart[:, 0], apart[:, 1]) - self.radius[own] - self.radius[enemies]
        keeps = (self.order[enemies] == ATTACK) & alive[own] & (gap <= self.range[enemies])
        self.target[enemies] = np.where(keeps, own, nearest)
        self.order[enemies] = ATTACK

    def _move(self, chasing: np.ndarray, left: np.ndarray) -> None:
        walking = (self.health > 0) & (self.order == MOVE)
        goal = np.where(chasing[:, None], self.at[self.target], self.goal)
        away = goal - self.at
        distance = np.hypot(away[:, 0], away[:, 1])
        left = np.where(chasing, left, distance)
        length = np.where(chasing | walking, np.clip(left, 0, self.speed / LOOPS_PER_S), 0)
        step = away * (length / np.maximum(distance, 1e-9))[:, None]
        for i in np.flatnonzero(length > 0):
            self._walk(int(i), step[i])
        self.order[walking & (distance < 1e-3)] = NONE

    def _walk(self, i: int, step: np.ndarray) -> None:
        """Along both axes, or along the one that is free."""
        for way in (step, step * (1, 0), step * (0, 1)):
            if self._free(self.at[i] + way):
                self.at[i] += way
                return

    def _free(self, point: np.ndarray) -> bool:
        x, y = math.floor(point[0]), math.floor(point[1])
        return 0 <= x < self.size[0] and 0 <= y < self.size[1] and bool(self.pathing[x, y])

    def _push(self, alive: np.ndarray) -> None:
        """Units that overlap part, each by half."""
        away = self.at[:, None] - self.at[None]
        distance = np.hypot(away[..., 0], away[..., 1])
        overlap = self.radius[:, None] + self.radius[None] - distance
        overlap[~(alive[:, None] & alive[None])] = 0
        np.fill_diagonal(overlap, 0)
        if not (overlap > 0).any():
            return
        share = np.clip(overlap, 0, None) / 2 / np.maximum(distance, 1e-3)
        push = np.clip((away * share[..., None]).sum(1), -0.2, 0.2)
        for i in np.flatnonzero(np.abs(push).max(1) > 0):
            self._walk(int(i), push[i])

    def _shoot(self, i: int, alive: np.ndarray) -> None:
        """`alive`: at the loop's start, so that who is killed in it still shoots."""
        kind, target = self.kinds[i], int(self.target[i])
        struck = [target]
        if kind.splash:
            line = self.at[target] - self.at[i]
            line = line / max(float(np.hypot(line[0], line[1])), 1e-9)
            off = self.at - self.at[target]
            along, across = np.abs(off @ line), np.abs(off @ np.array([-line[1], line[0]]))
            hit = alive & (self.owner != self.owner[i]) & (along <= self.radius) & (across <= kind.splash + self.radius)
            struck = sorted({target, *np.flatnonzero(hit).tolist()})
        for j in struck:
            self._hit(kind, j)
        delay = self._random.uniform(0, MAX_DELAY_LOOPS) if self._random else 0.0
        self.cooldown[i] = kind.cooldown_s * LOOPS_PER_S + delay

    def _hit(self, kind: Kind, j: int) -> None:
        other = self.kinds[j]
        damage = kind.damage + (kind.bonus if kind.bonus_against in other.attributes else 0)
        for _ in range(kind.hits):
            absorbed = min(float(self.shield[j]), damage)
            self.shield[j] -= absorbed
            if absorbed < damage:
                self.health[j] = max(0.0, float(self.health[j]) - max(damage - absorbed - other.armor, 0.5))
        self.calm[j] = 0
