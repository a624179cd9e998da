"""A user's own ParallelEnv: agents keep their places, ends are told apart, and each mistake is one clear line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import events

from mast_train.envs import available_maps
from mast_train.envs.parallel import load_factory
from mast_train.runs.run import Evaluation, Run, build_env
from mast_train.settings.config import EnvConfig, override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset, resolve

HERE = Path(__file__).resolve().parent
GAMES = str(HERE / "parallel_games.py")
MEETING = f"{HERE.parent / 'examples' / 'meeting.py'}:Meeting"
CPU = torch.device("cpu")


def game(name="Expedition", num_envs=2, seed=0, **settings):
    options = settings.pop("options", {})
    where = EnvConfig("pettingzoo", f"{GAMES}:{name}", num_envs, 1.0, options=options)
    return build_env(replace(where, **settings), seed, CPU)


def play(env, steps):
    env.reset()
    joint = torch.tensor([[1, 0]] * env.num_envs)
    return [env.step(joint) for _ in range(steps)]


def test_sizes_are_the_largest_and_the_rest_is_padding():
    env = game()
    spec = env.spec
    assert (spec.n_agents, spec.obs_dim, spec.n_actions, spec.state_dim, spec.episode_limit) == (2, 4, 3, 4, 6)
    assert spec.agent_types == ("short", "tall")
    first = env.reset()
    step, seed = 0.0, float(first.obs[0, 0, 1])
    assert first.obs[0].tolist() == [[step, seed, 0.0, 0.0], [step, seed, step, seed]]
    assert first.state[0].tolist() == [0.0, -1.0, 0.5, 2.0]
    assert first.avail_actions[0].tolist() == [[False, True, False], [True, False, False]]
    assert seed != float(first.obs[1, 0, 1])


def test_an_agent_that_dies_early_keeps_its_place():
    env = game()
    steps = play(env, 5)
    assert [float(s.reward[0]) for s in steps] == [11.0, 11.0, 10.0, 10.0, 0.0]
    assert [bool(s.terminated[0]) for s in steps] == [False, False, False, True, True]
    assert not any(s.truncated.any() for s in steps)
    for later in steps[1:3]:
        assert not later.next.obs[0, 0].any() and later.next.avail_actions[0, 0].tolist() == [True, False, False]
    assert steps[2].next.obs[0, 1, 0] == 3.0
    seen = env._games[0]._env.seen
    assert seen[0] == {"short": 1, "tall": 5} and seen[2] == {"tall": 5}


@pytest.mark.parametrize(
    ("end", "limit", "length", "truncated"),
    [("terminated", 0, 4, False), ("truncated", 0, 4, True), ("never", 0, 6, True), ("never", 3, 3, True),
     ("terminated", 4, 4, False)],
)  # fmt: skip
def test_the_end_says_whether_the_episode_was_cut_off(end, limit, length, truncated):
    env = game(options={"end": end}, episode_limit=limit)
    steps = play(env, length)
    last = steps[-1]
    assert bool(last.truncated.all()) == truncated and bool(last.terminated.all()) != truncated
    assert not any((s.truncated | s.terminated).any() for s in steps[:-1])
    alive = last.next.obs[0, 1]
    assert bool(alive[0] == length) == truncated and bool(alive.any()) == truncated


def test_the_team_earns_the_sum_or_the_mean():
    assert float(play(game(team_reward="mean"), 1)[0].reward[0]) == 5.5
    assert float(play(game(team_reward="sum", reward_scale=0.5), 3)[2].reward[0]) == 5.0


def test_without_a_state_the_observations_are_the_state():
    env = game(options={"state": False})
    first = env.reset()
    assert env.spec.state_dim == 8 and torch.equal(first.state[0], first.obs[0].flatten())


@pytest.mark.parametrize(("won", "expected"), [(None, None), (True, True), (False, False)])
def test_winning_is_what_the_infos_say_or_nothing(won, expected):
    last = play(game(options={"won": won}), 4)[-1]
    assert (last.won is None) if expected is None else (bool(last.won.all()) == expected)


def test_resets_repeat_from_the_saved_stream():
    env, other = game(seed=3), game(seed=4)
    env.reset()
    other.load_state_dict(json.loads(json.dumps(env.state_dict())))
    first = env.reset().obs
    assert torch.equal(first, other.reset().obs) and not torch.equal(first, game(seed=4).reset().obs)


@pytest.mark.parametrize(
    ("where", "options", "words"),
    [
        ("", {}, ["MODULE:FACTORY", "my_game.py:make"]),
        ("no_such_module:make", {}, ["no module named 'no_such_module'"]),
        ("nowhere.py:make", {}, ["nowhere.py", "no such file"]),
        (f"{GAMES}:Expeditoin", {}, ["did you mean 'Expedition'?"]),
        (f"{GAMES}:NUMBER", {}, ["NUMBER is int", "a function or a class"]),
        (f"{GAMES}:Nothing", {}, ["not a PettingZoo ParallelEnv", "possible_agents"]),
        (f"{GAMES}:TurnByTurn", {}, ["AECEnv", "aec_to_parallel"]),
        (f"{GAMES}:Mixed", {}, ["'short'", "Box", "partly continuous"]),
        (f"{GAMES}:Endless", {}, ["how long an episode", "env.episode_limit"]),
        (f"{GAMES}:Expedition", {"speed": 2}, ["its factory with {'speed': 2} failed: TypeError", "speed"]),
    ],
)
def test_a_wrong_environment_is_named_on_one_line(where, options, words):
    with pytest.raises(UserError) as error:
        build_env(EnvConfig("pettingzoo", where, 1, 1.0, options=options), 0, CPU)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", ["agent 'tall' holds nan at position 2"]),
        ("mask", ["action_mask of agent 'short' is [0, 0]", "at least one"]),
        ("size", ["agent 'short' observed 3 values, its observation space has 2"]),
        ("missing", ["agent 'short' is in the game", "['tall']"]),
        ("reward", ["rewards", "inf"]),
        ("raise", ["step failed: KeyError: 'robot\\n7' (parallel_games.py, line "]),
    ],
)
def test_a_failing_environment_is_named_on_one_line(fault, words):
    env = game("Broken", num_envs=1, options={"fault": fault})
    with pytest.raises(UserError) as error:
        play(env, 1)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_step_of_the_wrong_length_is_named():
    with pytest.raises(UserError, match="step returned something other than"):
        play(game("OldStep"), 1)


def test_there_is_no_list_of_users_environments():
    with pytest.raises(UserError, match="name your environment"):
        available_maps("pettingzoo")


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "own_game_for_test.py").write_text("def make():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    assert load_factory("own_game_for_test:make")() == 1
    (tmp_path / "bad_game_for_test.py").write_text("import numpy\n1 / 0\n")
    with pytest.raises(UserError, match=r"ZeroDivisionError.*bad_game_for_test.py, line 2"):
        load_factory("bad_game_for_test:make")


def test_the_command_line_form():
    config = resolve(None, {"env.name": "pettingzoo:my_game.py:make"}, ["env.options.cells=9"])
    assert (config.env.name, config.env.map, config.env.reward_scale) == ("pettingzoo", "my_game.py:make", 1.0)
    assert config.env.options == {"cells": 9}
    with pytest.raises(UserError, match="leave one out"):
        resolve(None, {"env.name": "pettingzoo:a:b", "env.map": "c:d"}, [])


def test_the_example_is_learned(tmp_path):
    settings = {
        "env.name": "pettingzoo", "env.map": MEETING, "env.num_envs": 8, "env.reward_scale": 1.0, "net.hidden": 32,
        "env.options": {"cells": 5}, "train.total_steps": 5000, "train.epsilon_steps": 2000, "replay.capacity": 500,
        "train.eval_interval": 5000, "train.lr": 2e-3, "train.target_interval": 40,
    }  # fmt: skip
    trainer = Run(override(preset("dense"), settings), tmp_path)
    evaluations = [event for event in events(trainer) if isinstance(event, Evaluation)]
    assert evaluations[-1].win_rate is not None and evaluations[-1].win_rate > 0.9
    assert evaluations[0].win_rate < 0.9


def test_training_stops_and_continues_to_the_bit(tmp_path):
    settings = {
        "env.name": "pettingzoo", "env.map": MEETING, "env.num_envs": 4, "net.hidden": 8, "replay.capacity": 100,
        "train.total_steps": 900, "train.eval_interval": 300, "train.eval_episodes": 4, "mixer.embed": 4,
        "replay.batch": 8, "replay.recent_batch": 2,
    }  # fmt: skip
    whole, first = (Run(override(preset("mast"), settings), tmp_path) for _ in range(2))
    list(events(whole))
    for _ in events(first):
        first.stop_requested = first.step >= 400
    second = Run.resume(tmp_path)
    list(events(second))
    assert torch.equal(whole.learner.agents.weight_hh, second.learner.agents.weight_hh)
    assert whole.env.state_dict() == second.env.state_dict()


def test_the_picture_is_what_the_environment_renders():
    env = game()
    env.reset()
    picture = env.picture()
    assert isinstance(picture, np.ndarray) and picture.shape == (20, 30, 3)
