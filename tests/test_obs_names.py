"""Names of an observation's inputs: a user's environment's own, by its hook or its spaces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from parallel_games import Expedition

from mast_train.envs.parallel import ParallelGame
from mast_train.settings.errors import UserError

SHORT, TALL = ["time", "seed"], ["time", "seed", "time again", "seed again"]


def made(names: Any = None, **attributes: Any) -> ParallelGame:
    def factory() -> Any:
        game: Any = Expedition()
        for key, value in attributes.items():
            setattr(game, key, value)
        if names is not None:
            game.observation_names = names
        return game

    return ParallelGame("pettingzoo game.py:make", factory, {})


@pytest.mark.parametrize("attributes", [{"names": {"short": SHORT, "tall": tuple(TALL)}}, {
    "metadata": {"observation_names": {"short": SHORT, "tall": TALL}}}, {
    "unwrapped": SimpleNamespace(observation_names={"short": SHORT, "tall": TALL, "else": 3})}])  # fmt: skip
def test_an_environment_names_its_inputs(attributes):
    assert made(**attributes).obs_names == (("time", "seed", "unused 2", "unused 3"), tuple(TALL))


def test_without_names_there_are_none():
    assert made().obs_names == ()


def test_entries_of_dict_observations_are_names():
    space = Dict({"at": Box(-9, 9, (1,), np.float32), "way": Box(-9, 9, (2,), np.float32)})

    class Seeing(Expedition):
        def observation_space(self, agent):
            return space

        def reset(self, seed=None, options=None):
            _, infos = super().reset(seed=seed)
            return {agent: {"at": [1.0], "way": [2.0, 3.0]} for agent in self.agents}, infos

        def state(self):
            return np.zeros(2)

    game = ParallelGame("pettingzoo game.py:make", Seeing, {})
    assert game.obs_names == (("at", "way 0", "way 1"),) * 2
    assert game.reset(0).obs.tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (SHORT, "observation_names has 2 names, the observation of agent 'tall' has 4 inputs"),
        ({"short": SHORT}, "observation_names has no entry of agent 'tall'"),
        ({"short": SHORT, "tall": "time"}, "observation_names['tall'] is 'time', expected a list of 4 texts"),
        ({"short": ["time", 3], "tall": TALL}, "observation_names['short'] is ['time', 3], expected a list of 2 texts"),
        (7, "observation_names is 7, expected a list of 2 texts"),
    ],
)
def test_what_names_nothing_is_one_line(names, words):
    with pytest.raises(UserError) as caught:
        made(names)
    assert words in str(caught.value) and "\n" not in str(caught.value)
