"""Names of what the agents of a MaMuJoCo robot observe, by the joints and bodies of its model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from mast_train.envs.obs_names import padded

AXES = ("x", "y", "z")
BODIES = {
    "cinert": [f"inertia {i}" for i in range(10)],
    "cvel": [*(f"angular velocity {a}" for a in AXES), *(f"velocity {a}" for a in AXES)],
    "cfrc_ext": [*(f"external torque {a}" for a in AXES), *(f"external force {a}" for a in AXES)],
}
"""Quantities of bodies, as MuJoCo orders their numbers: rotation first."""
FREE = 0


def obs_names(game: Any) -> tuple[tuple[str, ...], ...]:
    """A row for each agent, as wide as the widest; none where an agent sees what is no joint's and no body's number.

    Every number of the simulation gets one of its own, which tells where in an observation it arrives. game: a
    gymnasium-robotics parallel_env.
    """
    model = game.single_agent_env.unwrapped.model
    named = _numbers(model)
    total = sum(len(names) for names, _ in named.values())
    marks, data = {}, SimpleNamespace()
    for kind, (names, shape) in named.items():
        own = (np.arange(len(names)) + len(marks) + 1.0) / (total + 1)  # within what any scenario clips to
        marks |= dict(zip(own.tolist(), names, strict=True))
        setattr(data, kind, own.reshape(shape))
    try:
        rows = [[marks[x] for x in game._get_obs_agent(i, data).tolist()] for i in range(len(game.possible_agents))]
    except (KeyError, AttributeError, TypeError, IndexError):
        return ()
    sizes = [game.observation_space(agent).shape[0] for agent in game.possible_agents]
    if [len(row) for row in rows] != sizes:
        return ()
    return tuple(padded(row, max(sizes)) for row in rows)


def _numbers(model: Any) -> dict[str, tuple[list[str], tuple[int, ...]]]:
    """Field of the simulation's data -> the names of its numbers, and its shape."""
    joints = [model.joint(i) for i in range(model.njnt)]
    bodies = [model.body(i).name or f"body {i}" for i in range(model.nbody)]
    names = [joint.name or f"joint {i}" for i, joint in enumerate(joints)]
    places, speeds, forces = [], [], []
    for name, joint in zip(names, joints, strict=True):
        if joint.type[0] == FREE:
            places += [*(f"{name} position {a}" for a in AXES), *(f"{name} rotation {a}" for a in ("w", *AXES))]
            ways = [*(f"velocity {a}" for a in AXES), *(f"angular velocity {a}" for a in AXES)]
        else:
            places += [f"{name} position"]
            ways = ["velocity"]
        speeds += [f"{name} {way}" for way in ways]
        forces += [f"{name} actuator force {way.removeprefix('velocity')}".rstrip() for way in ways]
    found: dict[str, tuple[list[str], tuple[int, ...]]] = {
        "qpos": (places, (model.nq,)),
        "qvel": (speeds, (model.nv,)),
        "qfrc_actuator": (forces, (model.nv,)),
    }
    for kind, words in BODIES.items():
        found[kind] = [f"{body} {word}" for body in bodies for word in words], (model.nbody, len(words))
    return found
