"""Observations as numbers: what gymnasium's flatten gives, without the action mask and without loss."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from hypothesis import given, settings
from hypothesis import strategies as st
from random_games import spaces

from mast_train.envs.door import Refused
from mast_train.envs.spaces import Sight

ROOM, GOAL, FLAGS = Box(-1, 1, (2,), np.float32), Box(-1, 1, (1,), np.float32), Box(0, 1, (3,), np.int8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(spaces(), st.integers(0, 99), st.booleans())
def test_any_space_is_flattened_as_gymnasium_does_it_with_and_without_a_mask(space, seed, masked):
    space.seed(seed)
    value = space.sample()
    whole = np.asarray(flatten(space, value), np.float32)
    if masked:
        entries = space.spaces if isinstance(space, Dict) else {"observation": space}
        given = dict(value) if isinstance(space, Dict) else {"observation": value}
        space, value = Dict({**entries, "action_mask": FLAGS}), {**given, "action_mask": np.ones(3, np.int8)}
    sight = Sight(space)
    assert sight.size == whole.size == sight.flatten(value, "a").size
    assert np.array_equal(sight.flatten(value, "a"), whole)


@pytest.mark.parametrize("name", ["observation", "obs", "desired_goal", "mask", "action"])
def test_only_the_mask_is_taken_out_whatever_the_entries_are_called(name):
    space = Dict({name: ROOM, "zone": GOAL, "action_mask": FLAGS})
    seen = {name: np.array([0.25, 0.5]), "zone": [0.75], "action_mask": np.ones(3)}
    assert Sight(space).flatten(seen, "a").tolist() == [0.25, 0.5, 0.75]
    assert Sight(Dict({"zone": GOAL, name: ROOM})).size == flatdim(Dict({"zone": GOAL, name: ROOM})) == 3


def test_a_plain_space_may_come_with_its_mask():
    assert Sight(ROOM).flatten({"observation": [0.0, 1.0], "action_mask": [1, 0, 1]}, "a").tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Dict(x=ROOM), {"x": [0, 0], "goal": 1}, "agent a observed an entry 'goal', its observation space has none"),
        (Dict(x=ROOM, y=GOAL), {"x": [0, 0]}, "the observation of agent a has no 'y', its observation space has"),
        (Dict(x=ROOM, y=GOAL), [0, 0, 0], "the observation of agent a has no 'x'"),
        (Dict(x=ROOM, y=GOAL), {"x": [0, 0], "y": [np.nan]}, r"agent a \(entry y\) holds nan at position 0"),
        (Dict(x=Tuple([GOAL, GOAL]), y=GOAL), {"x": (0, [0, 1]), "y": 0}, r"agent a \(entry x.1\) observed 2 values"),
        (Discrete(3, start=2), 1, r"agent a observed 1, which is not in Discrete\(3, start=2\)"),
        (Discrete(3), 3, "agent a observed 3, which is not in"),
        (Discrete(3), 1.5, "agent a observed 1.5, which is not in"),
        (MultiDiscrete([2, 3]), [0, -1], r"agent a observed \[0, -1\], which is not in"),
        (MultiBinary(2), [0, 1, 1], "agent a observed 3 values, its observation space has 2"),
        (Box(0, 1, (2, 3)), np.zeros((3, 2)), r"observed an array \(3, 2\), its observation space is \(2, 3\)"),
    ],
)
def test_what_does_not_fit_its_space_is_named(space, value, words):
    with pytest.raises(Refused, match=words):
        Sight(space).flatten(value, "agent a")


def test_a_space_of_nothing_but_a_mask_shows_nothing():
    with pytest.raises(Refused, match="leaves nothing to observe"):
        Sight(Dict({"action_mask": FLAGS}))


def test_entries_name_the_values():
    inside = Dict({"left": ROOM, "right": Discrete(2)})
    space = Dict({"zone": GOAL, "arm": inside, "action_mask": FLAGS, "pair": Tuple((GOAL, ROOM))})
    named = ["arm left 0", "arm left 1", "arm right 0", "arm right 1", "pair 0", "pair 1 0", "pair 1 1", "zone"]
    sight = Sight(space)
    assert sight.size == len(named) and sorted(sight.names) == named
    seen = {"arm": {"left": [1, 2], "right": 1}, "pair": ([3], [4, 5]), "zone": [6]}
    values = dict(zip(sight.names, sight.flatten(seen, "a").tolist(), strict=True))
    assert [values[name] for name in named] == [1, 2, 0, 1, 3, 4, 5, 6]
    assert Sight(ROOM).names == Sight(Dict({"observation": ROOM, "action_mask": FLAGS})).names == []
    assert Sight(Dict({"a\n": GOAL, "b": GOAL})).names == [], "a key that is no name"
