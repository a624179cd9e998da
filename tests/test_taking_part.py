"""Who takes part in an episode, and whether it was won, are the episode's own: others do not care."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learning import events
from wrong_values import Plain

from mast_train.envs.find import load_factory
from mast_train.envs.parallel import ParallelGame
from mast_train.envs.pettingzoo import PettingZooEnv
from mast_train.envs.together import together
from mast_train.experience.rollout import Rollout, Rollouts, rollout, rollouts
from mast_train.runs.run import Evaluation, Run, summarise
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

CPU = torch.device("cpu")


class Crew(Plain):
    """Of a, b, c only a and c begin; b joins with step 2 as c leaves, and c comes back with step 4."""

    def __init__(self):
        self.possible_agents = ["a", "b", "c"]

    def reset(self, seed=None, options=None):
        self.t, self.agents = 0, ["a", "c"]
        return {x: self.look(x) for x in self.agents}, {}

    def step(self, actions):
        assert list(actions) == self.agents, actions
        acted, self.t = self.agents, self.t + 1
        self.agents = [["a", "c"], ["a", "b"], ["a", "b"], ["a", "b", "c"], []][self.t - 1]
        seen = {x: self.look(x) for x in {*acted, *self.agents}}
        ended = {x: x not in self.agents for x in acted}
        return seen, {"a": 1.0, "b": 10.0, "c": 100.0}, ended, {}, {}


def test_agents_that_are_not_there_are_zeros_and_earn_nothing_until_they_join():
    game = ParallelGame("crew", Crew, {})
    first = game.reset(0)
    steps = [game.step([1, 2, 2]) for _ in range(5)]
    there = [[True, False, True], [True, False, True], [True, True, False], [True, True, False], [True, True, True]]
    for frame, present in zip([first, *(step.frame for step in steps[:4])], there, strict=True):
        assert [bool(row.any()) for row in frame.obs] == present
        assert [row.tolist() for row in frame.avail_actions] == [
            [True] * 3 if p else [True, False, False] for p in present
        ]
        assert np.array_equal(frame.state, frame.obs.reshape(-1))
    assert [step.reward for step in steps] == [101.0, 101.0, 11.0, 11.0, 111.0]
    assert [step.terminated for step in steps] == [False] * 4 + [True]


def test_who_has_left_stays_away_while_the_environment_goes_on_listing_it():
    class Listed(Plain):
        def step(self, actions):
            assert set(actions) == ({"a", "b"} if self.t == 0 else {"b"})
            self.t += 1
            return {x: self.look(x) for x in "ab"}, {"a": 1.0, "b": 1.0}, {"a": self.t == 1, "b": self.t == 3}, {}, {}

    game = ParallelGame("listed", Listed, {})
    game.reset(0)
    steps = [game.step([0, 0]) for _ in range(3)]
    assert [step.reward for step in steps] == [2.0, 1.0, 1.0] and steps[2].terminated
    assert not steps[0].frame.obs[0].any() and steps[0].frame.obs[1].any()


class Says(Plain):
    """One step; whether it is won is said for every seed but those that `silent` divides."""

    def __init__(self, silent=0):
        super().__init__()
        self.silent = silent

    def reset(self, seed=None, options=None):
        self.seed = seed
        return super().reset(seed)

    def step(self, actions):
        seen, rewards, _, cut, infos = super().step(actions)
        if not self.silent or self.seed % self.silent:
            infos["a"]["won"] = self.seed % 2 == 1
        return seen, rewards, dict.fromkeys("ab", True), cut, infos


def says(silent, num_envs=4, seed=0):
    return PettingZooEnv("test_taking_part:Says", num_envs, seed, CPU, options={"silent": silent})


def still(env):
    return lambda t, observation, playing: torch.zeros(env.num_envs, 2, dtype=torch.int64)


def drawn(seed, count):
    return np.random.default_rng(seed).integers(2**31, size=count).tolist()


def test_one_silent_episode_is_not_won_and_takes_no_win_from_others():
    env = says(silent=3, num_envs=8)
    rng = np.random.default_rng(0)
    rounds = [rollout(env, still(env)) for _ in range(3)]
    seeds = [seed for _ in rounds for seed in rng.integers(2**31, size=8).tolist()]
    told, won = [seed % 3 > 0 for seed in seeds], [seed % 3 > 0 and seed % 2 == 1 for seed in seeds]
    assert 0 < sum(won) < sum(told) < len(seeds)
    assert [x for one in rounds for x in one.verdicts()[0].tolist()] == won
    assert summarise(rounds, 0, 20).wins == sum(won[:20])
    assert summarise(rounds[1:2], 0, 1).wins == (None if not told[8] else int(won[8]))


def test_where_no_episode_says_there_are_no_wins():
    env = says(silent=1)
    assert rollout(env, still(env)).won is None and summarise([rollout(env, still(env))], 0, 4).wins is None


def test_a_seed_that_says_nothing_takes_no_win_rate_from_its_neighbour():
    envs = [says(silent=1, seed=1), says(silent=0, seed=2)]
    both = together(envs, 2)
    played = rollouts(both, lambda t, observation, playing: torch.zeros(8, 2, dtype=torch.int64), 2)
    alone = rollout(says(silent=0, seed=2), still(envs[0]))
    assert played[0].won is None and torch.equal(played[1].won, alone.won)
    quiet, loud = played.means()
    assert "train_win_rate" not in quiet
    assert (
        loud["train_win_rate"]
        == np.mean([seed % 2 for seed in drawn(2, 4)])
        == Rollouts.of(alone).means()[0]["train_win_rate"]
    )


def test_a_saved_rollout_still_knows_who_said_what():
    env = says(silent=3, num_envs=8)
    played = rollout(env, still(env))
    again = Rollout.from_state_dict(played.state_dict(), CPU)
    assert all(torch.equal(a, b) for a, b in zip(played.verdicts(), again.verdicts(), strict=True))


def test_a_resumed_run_says_what_the_uninterrupted_one_says(tmp_path):
    settings = {
        "env.name": "pettingzoo", "env.map": "test_taking_part:Says", "env.num_envs": 2, "env.options": {"silent": 2},
        "net.hidden": 8, "mixer.embed": 4, "mixer.hypernet_hidden": 4, "replay.capacity": 50, "replay.batch": 4,
        "replay.recent_batch": 2, "train.total_steps": 60, "train.eval_interval": 10, "train.eval_episodes": 1,
    }  # fmt: skip
    whole, first = (Run(override(preset("mast"), settings), tmp_path) for _ in range(2))

    def scores(run, until=99):
        found = []
        for event in events(run):
            if isinstance(event, Evaluation):
                found.append((event.step, event.wins, event.return_mean))
            run.stop_requested = run.step >= until
        return found

    expected = scores(whole)
    assert scores(first, until=30) + scores(Run.resume(tmp_path)) == expected
    assert {wins for _, wins, _ in expected} >= {None, 1}


HELPER = "from gymnasium.spaces import Box\nNAME = {name!r}\n"


def test_an_environment_file_finds_its_neighbours_and_not_those_of_another(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "rules").mkdir(parents=True)
        (folder / "shared_rules_for_test.py").write_text(HELPER.format(name=name))
        (folder / "rules" / "__init__.py").write_text("")
        (folder / "rules" / "inner.py").write_text(f"WHERE = {name!r}\n")
        (folder / "mine.py").write_text(
            "import shared_rules_for_test as helper\nfrom rules.inner import WHERE\n\n\ndef make():\n"
            "    import shared_rules_for_test\n    return helper.NAME, WHERE, shared_rules_for_test.NAME\n"
        )
    for name in ("one", "two", "one"):
        assert load_factory(f"{tmp_path / name / 'mine.py'}:make")() == (name,) * 3


def test_a_missing_neighbour_is_not_to_be_installed_from_a_stranger(tmp_path):
    (tmp_path / "mine.py").write_text("import no_such_helper_for_test\n")
    with pytest.raises(
        UserError, match=r"no module named 'no_such_helper_for_test'; it is neither in .* nor installed"
    ):
        load_factory(f"{tmp_path / 'mine.py'}:make")
    (tmp_path / "odd.py").write_text("def make(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*\(odd.py, line 1\)"):
        load_factory(f"{tmp_path / 'odd.py'}:make")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserError, match=r"importing it failed: SystemExit: 3 \(leaves.py, line 2\)"):
        load_factory(f"{tmp_path / 'leaves.py'}:make")


def test_a_factory_whose_environments_differ_is_named():
    sizes = iter([["a", "b"], ["a", "b", "c"]])

    def make():
        env = Plain()
        env.possible_agents = next(sizes)
        return env

    globals()["differing"] = make
    with pytest.raises(UserError, match=r"its factory makes environments of different sizes"):
        PettingZooEnv("test_taking_part:differing", 2, 0, CPU)
