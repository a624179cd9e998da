"""Turn-based environments: one step is one turn, who waits has the neutral action alone, nobody is paid twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import turn_games

from mast_train.envs import available_maps
from mast_train.experience.rollout import random_policy, rollout
from mast_train.runs.run import build_env
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

GAMES = str(Path(turn_games.__file__).resolve())


def game(name, kind="aec", num_envs=1, **settings):
    options = settings.pop("options", {})
    where = EnvConfig(kind, f"{GAMES}:{name}", num_envs, 1.0, options=options, **settings)
    return build_env(where, 0, torch.device("cpu"))


def said(env):
    return env._games[0]._env.unwrapped.said


@pytest.mark.parametrize("name", ["Count", "wrapped"])
def test_players_take_turns_and_the_others_wait(name):
    env = game(name)
    spec, first = env.spec, env.reset()
    assert (spec.env, spec.n_agents, spec.obs_dim, spec.n_actions, spec.episode_limit) == ("aec", 3, 2, 3, 6)
    wait = [True, False, False]
    assert first.avail_actions[0].tolist() == [[True, True, True], wait, wait]
    assert first.obs[0].tolist() == [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]
    turns = [env.step(torch.tensor([row])) for row in ([2, 0, 0], [0, 1, 0], [0, 0, 2], [0, 2, 0], [0, 0, 1])]
    assert said(env) == [("short", 2), ("long", 1), ("last", 2), ("long", 2), ("last", 1)]
    # short is paid for its turn, and gone; then one of two speaks and the other earns half of it
    assert [float(turn.reward) for turn in turns] == [2 + 1 + 1, 1.5, 3.0, 3.0, 1.5]
    assert turns[0].next.obs[0].tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 2.0]]
    assert turns[0].next.avail_actions[0].tolist() == [wait, [True, True, True], wait]
    assert turns[2].next.avail_actions[0].tolist() == [wait, [False, True, True], wait]
    assert [bool(turn.terminated) for turn in turns] == [False] * 4 + [True] and not turns[-1].truncated
    assert turns[-1].won is not None and bool(turns[-1].won)


def test_a_cut_episode_keeps_what_was_seen_last():
    env = game("Count", options={"cut": True})
    env.reset()
    turns = [env.step(torch.tensor([[1, 1, 1]])) for _ in range(5)]
    assert bool(turns[-1].truncated) and not bool(turns[-1].terminated)
    assert turns[-1].next.obs[0].tolist() == [[0.0, 0.0], [5.0, 1.0], [5.0, 2.0]]


def test_who_waits_may_be_shown_nothing():
    env = game("Blind")
    assert env.reset().obs[0].tolist() == [[0.0, 0.0]] * 3
    turns = [env.step(torch.tensor([[1, 1, 1]])) for _ in range(5)]
    assert [turn.next.obs[0].tolist() for turn in turns[:2]] == [
        [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]],
    ]
    assert bool(turns[-1].terminated)


def test_a_parallel_environment_played_in_turn_pays_what_it_pays_at_once():
    turns = rollout(game("plain_in_turn"), random_policy(game("plain_in_turn").spec, torch.Generator()))
    rewards = turns.episodes.reward[0].tolist()
    assert rewards == [0.0, 2.0] * 5 and bool(turns.episodes.terminated[0, 9])


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("aec", "AsParallel", "its factory returned AsParallel, not a PettingZoo AECEnv: no agent_iter, observe"),
        ("aec", "AsParallel", "--env pettingzoo:"),
        ("pettingzoo", "Count", "returned an AECEnv, expected a ParallelEnv; name it --env aec:"),
        ("aec", "NoSuch", "has no 'NoSuch'"),
        ("aec", "Stubborn", "step: agent 'short' has ended, and step(None) does not take it out"),
    ],
)
def test_mistakes_are_one_line(kind, name, words):
    with pytest.raises(UserError) as error:
        env = game(name, kind)
        env.reset()
        env.step(torch.tensor([[2, 0, 0]]))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{kind} {GAMES}")


def test_a_wrong_option_is_named_where_the_users_class_begins():
    with pytest.raises(UserError, match=r"its factory with \{'speed': 1\} failed: TypeError.*turn_games.py, line \d+"):
        game("Count", options={"speed": 1})


def test_there_is_no_list_of_them():
    with pytest.raises(UserError, match="aec has no maps of its own; name your environment: --env aec:"):
        available_maps("aec")


@pytest.mark.filterwarnings("ignore")
def test_tictactoe_of_pettingzoo_is_played_whole():
    pytest.importorskip("pygame", reason="pettingzoo[classic] is not installed")
    where = EnvConfig("aec", "pettingzoo.classic.tictactoe_v3:env", 4, 1.0, episode_limit=9)
    env = build_env(where, 0, torch.device("cpu"))
    played = rollout(env, random_policy(env.spec, torch.Generator().manual_seed(0)))
    assert env.spec.obs_dim == 18 and not played.episodes.reward.any()  # who wins takes 1 from who loses
    lengths = played.episodes.lengths
    assert bool(((lengths >= 5) & (lengths <= 9)).all()) and not played.episodes.truncated.any()
