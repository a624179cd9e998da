"""What an environment returns is checked at one door: the right value comes in, a wrong one is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import wrong_values
from wrong_values import Closed, Gone, Nobody, Plain, Shown, Stateful, Stranger, changed, put, replaced, wrong_names

from mast_train.envs.parallel import ParallelGame
from mast_train.settings.errors import UserError

OBS, REWARD, ENDED, CUT, INFO = range(5)
NAN, BIG = float("nan"), 1e39


def game(factory, **settings):
    return ParallelGame("pettingzoo mine.py:make", factory, {}, **settings)


def refusal(factory, steps=1, **settings):
    with pytest.raises(UserError) as error:
        made = game(factory, **settings)
        for _ in range(steps):
            made.step([0, 0])
    said = str(error.value)
    assert said.startswith("pettingzoo mine.py:make: ") and "\n" not in said and len(said) < 400
    return said


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (put(REWARD, None), "step: rewards['a'] is None, expected one finite number"),
        (put(REWARD, "1"), "rewards['a'] is '1'"),
        (put(REWARD, [1.0, 2.0]), "rewards['a'] is [1.0, 2.0]"),
        (put(REWARD, NAN), "rewards['a'] is nan"),
        (put(REWARD, 1j), "rewards['a'] is 1j"),
        (put(REWARD, BIG), "rewards['a'] is 1e+39: the team's, times env.reward_scale 1, is more than a float32"),
        (put(REWARD, 1.0, "c"), "rewards has an entry 'c', none of possible_agents ['a', 'b']"),
        (replaced(REWARD, [1.0, 1.0]), "rewards is [1.0, 1.0], expected a dictionary"),
        (replaced(REWARD, 1.0), "rewards is 1.0, expected a dictionary"),
        (replaced(INFO, None), "infos is None, expected a dictionary"),
        (replaced(ENDED, True), "terminations is True, expected a dictionary"),
        (put(ENDED, "False"), "terminations['a'] is 'False', expected True or False"),
        (put(ENDED, None), "terminations['a'] is None"),
        (put(CUT, np.array([True, False])), "truncations['a'] is array([ True, False])"),
        (put(ENDED, True, "__all__"), "terminations has an entry '__all__'"),
        (put(INFO, {"success": np.array([True, False])}), "infos['a']['success'] is array([ True, False])"),
        (put(INFO, {"won": 0.5}), "infos['a']['won'] is 0.5, expected True or False"),
        (put(INFO, {"action_mask": [0.0, -np.inf, 0.0]}), "the action_mask of agent 'a' is [0.0, -inf, 0.0]"),
        (put(INFO, {"action_mask": [1, 1]}), "expected 3 flags, each 0 or 1"),
        (put(INFO, {"action_mask": "110"}), "the action_mask of agent 'a' is '110'"),
        (put(OBS, None), "the observation of agent 'a' is None, expected numbers"),
        (put(OBS, "12"), "the observation of agent 'a' is '12', expected numbers"),
        (put(OBS, [0.0, BIG]), "the observation of agent 'a' holds 1e+39 at position 1; values must be finite float32"),
        (put(OBS, [NAN, 0.0]), "holds nan at position 0"),
        (put(OBS, [[0.0], [1.0, 2.0]]), "the observation of agent 'a' is [[0.0], [1.0, 2.0]]"),
        (put(OBS, np.zeros(3)), "agent 'a' observed 3 values, its observation space has 2"),
        (put(OBS, {"observation": np.zeros(2), "goal": 1}), "agent 'a' observed an entry 'goal'"),
        (changed(lambda env, answer: answer[:4]), "step returned something other than (observations, rewards,"),
        (changed(lambda env, answer: [{}, *answer[1:]]), "agent 'a' is in the game, but the observations hold []"),
        (Closed, "step failed: SystemExit"),
        (Gone, "step: it leaves no attribute agents"),
        (Stranger, "agents holds 'c', which is none of possible_agents ['a', 'b']"),
        (Nobody, "reset: nobody takes part"),
        (wrong_names, "expected the team's names, each once"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_the_call_the_agent_and_itself(factory, words):
    assert words in refusal(factory)


def test_the_line_is_the_users_own():
    lines = Path(wrong_values.__file__).read_text(encoding="utf-8").splitlines()
    step = next(i for i, line in enumerate(lines, 1) if "def step" in line)
    assert refusal(put(REWARD, None)).endswith(f"(wrong_values.py, line {step})")
    product = next(i for i, line in enumerate(lines, 1) if "one @ two" in line)
    said = refusal(wrong_values.Deep)
    assert "step failed: ValueError: matmul" in said and said.endswith(f"(wrong_values.py, line {product})")


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.array([1.0]), np.array(1), torch.tensor([[1.0]])])
def test_a_reward_is_any_one_number(reward):
    after = game(put(REWARD, reward)).step([0, 0])
    assert after.reward == 2.0 and isinstance(after.reward, float)


def test_a_scaled_reward_is_checked_as_the_learner_sees_it():
    assert game(put(REWARD, 1e38), reward_scale=3.0).step([0, 0]).reward == pytest.approx(3e38)
    assert "rewards['a'] is 1e+38: the team's, times env.reward_scale 4, is more" in refusal(
        put(REWARD, 1e38), reward_scale=4.0
    )
    assert game(put(REWARD, 1e38), reward_scale=4.0, team_reward="mean").step([0, 0]).reward == pytest.approx(2e38)


@pytest.mark.parametrize("flag", [np.True_, 1, np.array([True]), np.array([1.0])])
def test_a_flag_is_any_one_truth(flag):
    made = game(changed(lambda env, answer: [*answer[:2], dict.fromkeys("ab", flag), *answer[3:]]))
    after = made.step([0, 0])
    assert after.terminated and not after.truncated


def test_an_agent_without_a_reward_or_a_flag_earns_nothing_and_goes_on():
    after = game(changed(lambda env, answer: [answer[0], {}, {}, {}, {}])).step([0, 0])
    assert (after.reward, after.terminated, after.truncated, after.won) == (0.0, False, False, None)


def test_a_state_that_is_none_is_no_state():
    for factory in (wrong_values.Talks, wrong_values.Wrapped, Plain, lambda: Stateful(lambda env: None)):
        made = game(factory)
        assert made.state_dim == 4 and made.step([0, 0]).frame.state.tolist() == [np.float32(0.2), 0.5] * 2


def test_a_state_may_be_a_dictionary_and_is_not_asked_for_when_nobody_is_left():
    made = game(lambda: Stateful(lambda env: {"b": np.full((2, 1), env.t), "a": len(env.agents) ** -1}))
    assert made.reset(0).state.tolist() == [0.5, 0.0, 0.0]
    steps = [made.step([0, 0]) for _ in range(5)]
    assert steps[3].frame.state.tolist() == [0.5, 4.0, 4.0]
    assert steps[4].terminated and steps[4].frame.state.tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda env: np.zeros(4 - min(env.t, 1)), "state: its state has 3 values, at the first reset it had 4"),
        (lambda env: "here", "state: its state is 'here', expected numbers"),
        (
            lambda env: {"x": [0.0, 1 / env.t if env.t else 0.0], "y": -np.inf},
            "its state['y'] holds -inf at position 0",
        ),
        (lambda env: None if env.t else np.zeros(2), "state: its state is None, expected numbers"),
        (lambda env: env.missing, "state failed: AttributeError: 'Stateful' object has no attribute 'missing'"),
    ],
)
def test_a_wrong_state_is_named(give, words):
    assert words in refusal(lambda: Stateful(give))


def test_a_picture_is_whole_numbers_of_light():
    picture = np.full((2, 3, 4), 200, np.int64)
    assert np.array_equal(game(lambda: Shown(picture)).picture(), np.full((2, 3, 3), 200, np.uint8))
    assert game(lambda: Shown("a map in letters")).picture() is None and game(Plain).picture() is None
    assert game(wrong_values.Unseen).picture() is None
    for wrong in (np.ones((2, 3, 3)), np.zeros((2, 3), np.uint8), np.full((2, 3, 3), 256)):
        with pytest.raises(UserError, match=r"render: an array of shape .*, expected an image"):
            game(lambda picture=wrong: Shown(picture)).picture()


def test_the_order_of_a_set_has_no_part_in_the_sum():
    """Rewards add up in the order of possible_agents, whatever the hashes of their names."""
    values = {"a": 1e16, "b": 1.0, "c": -1e16, "d": 1.0}

    class Four(Plain):
        def __init__(self):
            self.possible_agents = list(values)

    made = game(lambda: Four())
    made._env.change = lambda answer: [answer[0], values, *answer[2:]]
    assert made.step([0] * 4).reward == sum(values.values())
