"""Continuous actions in environments: bounds, padding, refusals; the small game's optimum; VMAS."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mast_train.envs import make_env
from mast_train.envs.acts import Acts
from mast_train.envs.base import EnvSpec
from mast_train.envs.box import Box
from mast_train.envs.points import BOX, STEPS
from mast_train.experience.rollout import random_policy, rollout
from mast_train.runs.checkpoint import spec_of
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")
pytest.importorskip("gymnasium", reason="spaces are gymnasium's: pip install mast-marl[pettingzoo]")
from gymnasium import spaces  # noqa: E402

WIDE = spaces.Box(np.array([-1.0, 0.0, 5.0], np.float32), np.array([3.0, 10.0, 6.0], np.float32))
TWO = spaces.Box(-0.4, 0.4, (2, 1), np.float32)


class Noting:
    """A ParallelEnv of two agents with three and two components, which notes what it is given."""

    episode_limit = 3
    possible_agents = ("arm", "leg")

    def __init__(self, arm=WIDE, leg=TWO):
        self.spaces, self.given = {"arm": arm, "leg": leg}, []
        self.agents = []

    def observation_space(self, agent):
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent):
        return self.spaces[agent]

    def _seen(self):
        return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.given.append(actions)
        none = dict.fromkeys(self.possible_agents, False)
        return self._seen(), dict.fromkeys(self.possible_agents, 1.0), none, none, {a: {} for a in self.possible_agents}

    def close(self):
        pass


MADE = []


def make(**options):
    MADE.append(Noting(**options))
    return MADE[-1]


def noting():
    return make_env("pettingzoo", f"{__name__}:make", 1, 0, CPU, {})


def test_actions_reach_an_environment_within_its_bounds_in_its_shape_and_kind():
    env = noting()
    assert env.spec.n_actions == 3 and env.spec.action_shape == (2, 3)
    seen = env.reset()
    assert seen.avail_actions[0].tolist() == [[True] * 3, [True, True, False]]
    given = {-1.0: ([-1.0, 0.0, 5.0], -0.4), 1.0: ([3.0, 10.0, 6.0], 0.4), 0.0: ([1.0, 5.0, 5.5], 0.0)}
    for share, (arm, leg) in given.items():
        env.step(torch.full((1, 2, 3), share))
        joint = MADE[-1].given[-1]
        assert joint["arm"].tolist() == arm and joint["leg"].tolist() == [[np.float32(leg)]] * 2
    for agent, value in joint.items():
        assert value.dtype == np.float32 and value.shape == MADE[-1].spaces[agent].shape
    env.reset()
    env.step(torch.full((1, 2, 3), 7.0))
    assert all(MADE[-1].spaces[agent].contains(value) for agent, value in MADE[-1].given[-1].items())


def test_an_action_that_is_no_number_is_caught_before_the_environment_sees_it():
    env = noting()
    env.reset()
    before, actions = len(MADE[-1].given), torch.zeros(1, 2, 3)
    actions[0, 1, 1] = torch.nan
    with pytest.raises(UserError, match=r"not a finite number: the policy diverged; lower train\.lr"):
        env.step(actions)
    with pytest.raises(ValueError, match="expected"):
        env.step(torch.zeros(1, 2, dtype=torch.int64))
    assert len(MADE[-1].given) == before


@pytest.mark.parametrize(
    ("arm", "leg", "said"),
    [
        (spaces.Box(-np.inf, 1.0, (2,)), TWO, r"component 0 of agent 'arm'.* \[-inf, 1\], expected finite"),
        (spaces.Box(np.array([0.0, 2.0]), np.array([1.0, 2.0]), dtype=np.float64), TWO, r"component 1 .* no choice"),
        (spaces.Discrete(3), TWO, r"'arm' acts in Discrete\(3\) and agent 'leg' in Box.* partly continuous"),
        (WIDE, spaces.Discrete(2), "partly continuous"),
        (WIDE, spaces.MultiDiscrete([2, 2]), r"'leg' acts in MultiDiscrete.*, expected Discrete\(n\), or a Box"),
        (spaces.Box(0, 255, (2,), np.uint8), TWO, "or a Box of floating-point numbers"),
        (spaces.Box(-1.0, 1.0, (0,)), TWO, "has no actions"),
    ],
)
def test_spaces_that_no_policy_acts_in_are_refused_in_one_line(arm, leg, said):
    with pytest.raises(UserError, match=said) as caught:
        Acts("pettingzoo game", ["arm", "leg"], [arm, leg])
    assert "\n" not in str(caught.value) and str(caught.value).startswith("pettingzoo game: ")


def test_a_spec_survives_its_header():
    spec = EnvSpec("points", "meet", 2, 4, 4, 2, 8, ("a", "b"), box=BOX)
    for each in (spec, replace(spec, box=None)):
        assert spec_of({"spec": json.loads(json.dumps(asdict(each)))}) == each
    old = {name: value for name, value in asdict(replace(spec, box=None)).items() if name != "box"}
    assert spec_of({"spec": old}).box is None


def test_scaling_reaches_both_bounds_exactly_and_never_leaves_them():
    random = np.random.default_rng(0)
    for _ in range(200):
        low = np.float32(random.normal(size=(2, 3)) * 10 ** random.uniform(-3, 3))
        high = low + np.float32(random.uniform(0.01, 10, (2, 3)))
        box = Box.of("test", ["a", "b"], list(low), list(high))
        assert (box.bounded(np.full((2, 3), -1.0)) == low).all() and (box.bounded(np.ones((2, 3))) == high).all()
        inside = box.bounded(random.uniform(-2, 2, (50, 2, 3))).astype(np.float32)
        assert (inside >= low).all() and (inside <= high).all()


def test_the_small_game_is_played_best_by_closing_the_gap_as_fast_as_one_can():
    """By a loop over steps, in the environment's own units; nobody at random does better."""
    env = make_env("points", "meet", 64, 3, CPU, {})
    env.reset()
    best, returns = env.optimum(), torch.zeros(64)
    for _ in range(STEPS):
        x, y, z = env._at.unbind(1)
        share = ((z - x) / (0.25 + torch.where(z > x, 0.1, 0.3))).clamp(-1, 1)  # of the fastest approach
        trolley = torch.where(z > x, share * 0.1, -share.abs() * 0.3).neg()
        wanted = torch.stack(
            [torch.stack([0.25 * share, (-y).clamp(-0.25, 0.25)], 1), trolley[:, None].repeat(1, 2)], 1
        )
        low, high = (torch.tensor(side) for side in BOX.padded)
        actions = (2.0 * (wanted - low) / (high - low) - 1.0).float()
        returns += env.step(actions).reward
    assert torch.allclose(returns, best, atol=1e-4)
    env.reset()
    optimum = env.optimum()
    env.load_state_dict({"random": torch.Generator().manual_seed(5).get_state().tolist()})
    played = rollout(env, random_policy(env.spec, torch.Generator().manual_seed(0)))
    env.load_state_dict({"random": torch.Generator().manual_seed(5).get_state().tolist()})
    env.reset()
    assert (played.returns <= env.optimum() + 1e-5).all() and played.returns.mean() < optimum.mean() - 3.0


def test_random_teams_stay_inside_and_move_only_what_they_have():
    env = make_env("points", "meet", 32, 0, CPU, {})
    actions = rollout(env, random_policy(env.spec, torch.Generator().manual_seed(0))).episodes.actions
    assert actions.shape == (32, STEPS, 2, 2) and actions.dtype == torch.float32
    assert actions.abs().max() <= 1.0 and (actions[:, :, 1, 1] == 0.0).all()
    assert actions[:, :, 0].std() == pytest.approx(1 / 3**0.5, rel=0.1)


def test_vmas_takes_continuous_actions_as_an_option():
    pytest.importorskip("vmas", reason="pip install mast-marl[vmas]")
    env = make_env("vmas", "navigation", 3, 0, CPU, {"continuous_actions": True, "n_agents": 2, "episode_limit": 5})
    assert env.spec.box == Box(((-1.0, -1.0),) * 2, ((1.0, 1.0),) * 2) and env.spec.n_actions == 2
    env.reset()
    before = torch.stack([agent.state.pos for agent in env._env.agents], 1)
    actions = torch.zeros(3, 2, 2)
    actions[0, 0, 0], actions[1, 1, 1] = 1.0, -1.0
    for _ in range(2):
        env.step(actions)
    moved = torch.stack([agent.state.pos for agent in env._env.agents], 1) - before
    assert moved[0, 0, 0] > 1e-3 and moved[1, 1, 1] < -1e-3
    still = torch.ones(3, 2, 2, dtype=torch.bool)
    still[0, 0, 0] = still[1, 1, 1] = False
    assert moved[still].abs().max() < 1e-4
