"""The adapter to the real game, against a stand-in with SMAC's API; and what it says when something is missing."""

import importlib
import json
from pathlib import Path

import pytest
import smac_stand_in
import torch
from learning import events
from smac_stand_in import LIMIT, STOP, StandIn

from mast_train.commands.play import record
from mast_train.envs import make_env, starcraft
from mast_train.envs.smac import SmacEnv
from mast_train.runs.run import Evaluation, Run
from mast_train.settings.config import EnvConfig, override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

CPU = torch.device("cpu")


@pytest.fixture
def smac(request):
    made = []

    def make(script: str = "win", num_envs: int = 1, seed: int = 0, factory=StandIn) -> SmacEnv:
        made.append(SmacEnv("3m", num_envs, seed, CPU, env_factory=factory, script=script))
        return made[-1]

    yield make
    for env in made:
        env.close()


def stop(env: SmacEnv) -> torch.Tensor:
    return torch.full((env.num_envs, env.spec.n_agents), STOP)


def play(env: SmacEnv) -> list:
    env.reset()
    steps = [env.step(stop(env))]
    while not (steps[-1].terminated | steps[-1].truncated).all():
        steps.append(env.step(stop(env)))
    return steps


def test_spec(smac):
    spec = smac().spec
    assert (spec.n_agents, spec.obs_dim, spec.state_dim, spec.n_actions, spec.episode_limit) == (3, 4, 5, 9, LIMIT)
    assert spec.agent_types == ("marine",) * 3
    assert spec.version.startswith("StarCraft II")


def test_options_reach_the_game_as_it_expects_them():
    made = []

    def factory(map_name, seed, options):
        made.append(options)
        return StandIn(map_name, seed, {})

    given = {"difficulty": 9, "game_version": "4.10", "replay_dir": "/replays"}
    SmacEnv("3m", 1, 0, CPU, env_factory=factory, **given).close()
    assert made == [{"difficulty": "9", "game_version": "4.10", "replay_dir": "/replays"}]
    for wrong, words in (({"difficulty": "hard"}, "published results use 7"), ({"game_version": 4.1}, "quote it")):
        with pytest.raises(UserError, match=words):
            SmacEnv("3m", 1, 0, CPU, env_factory=factory, **wrong)


def test_training_and_evaluation_take_turns_on_one_set_of_games(monkeypatch):
    monkeypatch.setattr(SmacEnv.__init__, "__defaults__", (StandIn,))
    settings = {"env.name": "smac", "env.num_envs": 1, "train.episodes_per_update": 1, "train.eval_episodes": 2}
    trainer = Run(override(preset("dense"), {**settings, "train.total_steps": 10, "net.hidden": 4}))
    assert trainer.eval_env is trainer.env
    evaluations = [event for event in events(trainer) if isinstance(event, Evaluation)]
    trainer.close()
    assert [event.win_rate for event in evaluations] == [1.0, 1.0]


def test_a_won_battle_is_terminated_and_keeps_its_last_observation(smac):
    env = smac()
    steps = play(env)
    last = steps[-1]
    assert [bool(step.won) for step in steps] == [False] * (len(steps) - 1) + [True]
    assert last.terminated.all() and not last.truncated.any()
    assert last.reward.tolist() == [12.5] and last.reward.dtype == torch.float32
    assert last.next.state.eq(len(steps)).all()
    again = env.step(stop(env))
    assert again.reward.tolist() == [0.0] and again.won.all() and again.terminated.all()
    assert torch.equal(again.next.obs, last.next.obs)


def test_the_time_limit_truncates(smac):
    steps = play(smac("limit"))
    assert len(steps) == LIMIT
    assert steps[-1].truncated.all() and not steps[-1].terminated.any() and not steps[-1].won.any()


def test_a_crashed_game_truncates_and_shows_the_last_observation_it_had(smac):
    env = smac("crash", seed=2)
    env.reset()
    before = env.step(stop(env))
    crashed = env.step(stop(env))
    assert crashed.truncated.all() and not crashed.terminated.any()
    assert torch.equal(crashed.next.obs, before.next.obs)


def test_every_row_keeps_an_available_action(smac):
    last = play(smac("mute"))[-1]
    assert last.next.avail_actions[..., 0].all() and not last.next.avail_actions[..., 1:].any()


@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_unavailable_action_is_reported(smac, num_envs):
    env = smac(num_envs=num_envs)
    env.reset()
    actions = stop(env)
    actions[-1, 0] = 0
    with pytest.raises(UserError, match="failed: AssertionError: Agent cannot perform action 0"):
        env.step(actions)


def test_a_failing_game_is_reported_on_one_line(smac):
    env = smac("raise", seed=2)
    env.reset()
    env.step(stop(env))
    with pytest.raises(UserError, match="failed: ConnectionError: the game went away"):
        env.step(stop(env))


def test_a_dead_process_is_reported(smac):
    env = smac("exit", num_envs=2)
    env.reset()
    env.step(stop(env))
    with pytest.raises(UserError, match="stopped with exit code 3"):
        env.step(stop(env))


def test_several_battles_run_side_by_side_and_wait_for_each_other(smac):
    env = smac(num_envs=3, seed=5)
    seen = env.reset()
    assert seen.obs.shape == (3, 3, 4) and seen.state.shape == (3, 5) and seen.avail_actions.shape == (3, 3, 9)
    assert not seen.avail_actions[..., 8].any()
    steps = []
    for _ in range(5):
        steps.append(env.step(stop(env)))
    lengths = [1 + [bool(step.won[index]) for step in steps].index(True) for index in range(3)]
    assert set(lengths) == {2, 3, 4}
    for index, length in enumerate(lengths):
        assert [float(step.reward[index]) for step in steps] == [0.5] * (length - 1) + [12.5] + [0.0] * (5 - length)
        assert all(step.next.state[index].eq(length).all() for step in steps[length - 1 :])
    assert env.reset().state.eq(0).all()


def test_a_resumed_run_does_not_repeat_its_first_episodes(smac):
    seeds = []

    def factory(map_name, seed, options):
        seeds.append(seed)
        return StandIn(map_name, seed, options)

    env = smac(factory=factory)
    play(env)
    saved = json.loads(json.dumps(env.state_dict()))
    env.load_state_dict(saved)
    smac(factory=factory, seed=0)
    assert seeds[1] != seeds[0] and seeds[2] == seeds[0]
    assert env.state_dict() == saved
    with pytest.raises(ValueError, match="before reset"):
        env.step(stop(env))


def test_an_unfinished_first_episode_is_closed_before_another_starts(smac):
    games = []
    env = smac(factory=lambda *arguments: games.append(StandIn(*arguments)) or games[-1])
    env.reset()
    play(env)
    env.reset()
    env.save_replay()
    assert games[0].log == ["reset", "close", "reset", "reset", "save_replay"]


def test_wrong_shape(smac):
    env = smac()
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(1, 3\)"):
        env.step(torch.ones(3, dtype=torch.int64))


def install_smac(folder, *parts):
    package = folder.joinpath("site", "smac", *parts)
    package.mkdir(parents=True)
    (folder / "site" / "smac" / "__init__.py").touch()
    importlib.invalidate_caches()


def install_game(folder, *builds):
    for build in builds:
        (folder / "game" / "Versions" / build).mkdir(parents=True)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine: SC2PATH points at nothing, and packages are looked up in tmp_path/site first."""
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path


def complaint() -> str:
    with pytest.raises(UserError) as error:
        make_env("smac", "3m", 1, 0, CPU, {})
    return str(error.value)


def test_what_is_missing_is_named_in_turn(machine):
    if starcraft.which_smac() == "none":
        assert "pip install git+https://github.com/oxwhirl/smac.git" in complaint()
    install_smac(machine, "env", "starcraft2")
    assert "SC2PATH" in complaint() and str(machine / "game") in complaint()
    install_game(machine, "Base69232")
    assert str(machine / "game" / "Maps" / "SMAC_Maps") in complaint()


def test_the_other_package_called_smac_is_recognised(machine):
    install_smac(machine, "facade")
    assert "SMAC3" in complaint() and "pip uninstall smac" in complaint()


def test_unknown_map():
    with pytest.raises(UserError, match="unknown smac map '2s3zz': did you mean '2s3z'"):
        make_env("smac", "2s3zz", 1, 0, CPU, {})


def test_game_version_is_the_highest_build(machine):
    game = machine / "game"
    assert starcraft.game_version(game) is None
    install_game(machine, "Base69232", "BaseX")
    assert starcraft.game_version(game) == "4.6.2 (Base69232)"
    install_game(machine, "Base75689")
    assert starcraft.game_version(game) == "4.10 (Base75689)"
    install_game(machine, "Base90000")
    assert starcraft.game_version(game) == "Base90000"


def test_stand_in_matches_the_map():
    assert sum(starcraft.ALLIES["3m"].values()) == smac_stand_in.N_AGENTS


def test_play_writes_the_games_own_replay(tmp_path, monkeypatch):
    class Recorded(StandIn):
        def __init__(self, map_name, seed, options):
            super().__init__(map_name, seed, options)
            self.folder, self.prefix = options["replay_dir"], options["replay_prefix"]

        def save_replay(self):
            Path(self.folder, f"{self.prefix}_2026-01-01.SC2Replay").write_bytes(b"replay")

    monkeypatch.setattr(SmacEnv.__init__, "__defaults__", (Recorded,))
    where = EnvConfig("smac", "3m", reward_scale=1.0)
    episode = record(None, where, 0, "auto", tmp_path / "battle.SC2Replay", 8.0)
    assert [path.name for path in tmp_path.iterdir()] == ["battle.SC2Replay"]
    assert (episode.result, episode.size_bytes) == ("won", 6)
    with pytest.raises(UserError, match=r"name it battle\.SC2Replay"):
        record(None, where, 0, "auto", tmp_path / "battle.gif", 8.0)
