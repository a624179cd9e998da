"""The table of environments, and the games with a known optimum."""

import json
import subprocess
import sys

import pytest
import torch

from mast_train.envs import available_maps, make_env
from mast_train.envs.matrix import END, GAMES, OPTIMAL_RETURN, Game
from mast_train.settings.errors import UserError, suggest

CPU = torch.device("cpu")


def matrix(name: str, num_envs: int = 3, seed: int = 0):
    return make_env("matrix", name, num_envs, seed, CPU, {})


def test_importing_the_table_loads_no_simulator_and_no_torch():
    code = "import sys, mast_train.envs; print([m for m in ('torch', 'jax', 'jaxmarl', 'smac') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("env", "map_name", "options", "num_envs", "words"),
    [
        ("smacs", "3m", {}, 1, ["environment 'smacs'", "did you mean 'smac'?"]),
        ("matrix", "climbin", {}, 1, ["map 'climbin'", "did you mean 'climbing'?"]),
        ("matrix", "zzz", {}, 1, ["expected one of: climbing, coordination"]),
        ("matrix", "climbing", {"reward_scale": 1.0}, 1, ["'reward_scale'", "takes no options"]),
        ("smax", "3m", {"reward_scal": 1.0}, 1, ["'reward_scal'", "did you mean 'reward_scale'?"]),
        ("matrix", "climbing", {}, 0, ["num_envs is 0", "at least 1"]),
    ],
)
def test_mistakes_are_named_on_one_line(env, map_name, options, num_envs, words):
    with pytest.raises(UserError) as error:
        make_env(env, map_name, num_envs, 0, CPU, options)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_suggest_names_the_nearest_or_all():
    assert suggest("3mm", ["3m", "8m"]) == "did you mean '3m'?"
    assert suggest("qqq", ["3m", "8m"]) == "expected one of: 3m, 8m"


def test_available_maps():
    assert available_maps("matrix") == tuple(GAMES) == tuple(OPTIMAL_RETURN)
    assert "2c_vs_64zg" in available_maps("smac")


def best_return(game: Game, state: int) -> float:
    """The best sum of rewards from `state` when the joint action may depend on everything."""
    n_actions = game.avail_actions.shape[-1]
    returns = []
    for joint in range(n_actions**2):
        if game.avail_actions[state, 0, joint // n_actions] and game.avail_actions[state, 1, joint % n_actions]:
            after = int(game.next[state, joint])
            returns.append(float(game.reward[state, joint]) + (0.0 if after == END else best_return(game, after)))
    return max(returns)


@pytest.mark.parametrize("name", GAMES)
def test_optimal_return_is_the_optimum_from_every_start(name):
    game = GAMES[name]()
    assert {best_return(game, start) for start in game.starts} == {OPTIMAL_RETURN[name]}


@pytest.mark.parametrize("name", GAMES)
def test_random_play_keeps_the_protocol(name):
    env = matrix(name, num_envs=64)
    spec, generator = env.spec, torch.Generator().manual_seed(0)
    seen, returns = env.reset(), torch.zeros(64)
    for t in range(1, spec.episode_limit + 1):
        assert seen.obs.shape == (64, spec.n_agents, spec.obs_dim) and seen.obs.dtype == torch.float32
        assert seen.state.shape == (64, spec.state_dim)
        assert seen.avail_actions.shape == (64, spec.n_agents, spec.n_actions)
        assert seen.avail_actions.any(-1).all()
        rows = seen.avail_actions.float().flatten(0, 1)
        step = env.step(torch.multinomial(rows, 1, generator=generator).view(64, spec.n_agents))
        returns += step.reward
        seen = step.next
        assert bool(step.terminated.all()) == bool(step.terminated.any()) == (t == spec.episode_limit)
        assert not step.truncated.any()
    assert torch.equal(step.won, returns >= OPTIMAL_RETURN[name] - 1e-6)
    again = env.step(torch.zeros(64, spec.n_agents, dtype=torch.int64))
    assert not again.reward.any() and again.terminated.all()
    assert torch.equal(again.won, step.won) and torch.equal(again.next.obs, step.next.obs)


@pytest.mark.parametrize(
    ("name", "joint_actions", "rewards", "won"),
    [
        ("climbing", [(0, 0)], [11.0], True),
        ("climbing", [(1, 0)], [-30.0], False),
        ("climbing", [(2, 1)], [0.0], False),
        ("coordination", [(2, 2)], [9.0], True),
        ("coordination", [(1, 2)], [6.0], False),
        ("two_step", [(1, 0), (1, 1)], [0.0, 8.0], True),
        ("two_step", [(0, 1), (1, 1)], [0.0, 7.0], False),
        ("two_step", [(1, 1), (0, 1)], [0.0, 1.0], False),
        ("masked", [(0, 2), (2, 3)], [2.0, 5.0], True),
        ("masked", [(0, 1), (2, 3)], [1.0, 5.0], False),
    ],
)
def test_payoffs(name, joint_actions, rewards, won):
    env = matrix(name, num_envs=1)
    env.reset()
    steps = [env.step(torch.tensor([joint])) for joint in joint_actions]
    assert [float(step.reward) for step in steps] == rewards
    assert bool(steps[-1].terminated) and bool(steps[-1].won) == won


def test_recall_shows_the_cue_once_and_pays_for_remembering_it():
    env = matrix("recall", num_envs=200)
    first = env.reset()
    cue = first.obs[:, :, :2].argmax(-1)
    assert torch.equal(first.obs[:, :, :2].sum(-1), torch.ones(200, 2)) and 0 < cue.float().mean() < 1
    wait = torch.zeros(200, 2, dtype=torch.int64)
    for _ in range(2):
        later = env.step(wait).next
        assert not later.obs[:, :, :2].any()
    assert torch.equal(later.avail_actions, torch.tensor([False, True, True]).expand(200, 2, 3))
    guess = torch.where(torch.arange(200)[:, None] < 100, 1 + cue, 2 - cue)
    guess[:50, 1] = 2 - cue[:50, 1]
    last = env.step(guess)
    assert last.reward.tolist() == [0.5] * 50 + [1.0] * 50 + [0.0] * 100
    assert last.won.tolist() == [False] * 50 + [True] * 50 + [False] * 100


def test_matrix_refuses_wrong_shapes_and_unavailable_actions():
    env = matrix("masked")
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected \(3, 2\)"):
        env.step(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="not available"):
        env.step(torch.tensor([[0, 1], [0, 2], [0, 3]]))


def test_matrix_repeats_from_its_state():
    env = matrix("recall", num_envs=16, seed=5)
    env.reset()
    saved = json.loads(json.dumps(env.state_dict()))
    expected = [env.reset().obs for _ in range(4)]
    other = matrix("recall", num_envs=16, seed=6)
    other.load_state_dict(saved)
    assert all(torch.equal(other.reset().obs, obs) for obs in expected)
