"""The adapter to the real game and its worker process, against a stand-in for the package smac."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import smac_python
import smac_stand_in
import torch
from learning import events
from smac_stand_in import LIMIT, STOP

from mast_train.commands.play import record
from mast_train.envs import make_env, smac_process, smac_worker, starcraft
from mast_train.envs.smac import SmacEnv
from mast_train.runs.run import Evaluation, Run
from mast_train.settings.config import EnvConfig, override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

CPU = torch.device("cpu")
STEPS, SEED, RESETS, MAX_REWARD, OPTIONS = range(5)
"""What the stand-in's state holds."""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return str(smac_python.make(tmp_path_factory.mktemp("smac") / "python"))


@pytest.fixture
def machine(tmp_path, monkeypatch, python):
    """A machine on which a game and SMAC are installed, SMAC in a Python of its own."""
    monkeypatch.setenv("SC2PATH", str(smac_python.lay_out_game(tmp_path / "game", 75689)))
    monkeypatch.setenv(smac_process.VARIABLE, python)
    return tmp_path


@pytest.fixture
def smac(machine):
    made = []

    def make(script: str = "win", num_envs: int = 1, seed: int = 0, **options) -> SmacEnv:
        made.append(SmacEnv("3m", num_envs, seed, CPU, script=script, **options))
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
    assert spec.version == "StarCraft II 4.10 (Base75689), SMAC 1.0.0, PySC2 4.0.0"
    assert smac(game_version="4.6.2").spec.version.startswith("StarCraft II 4.6.2 (Base69232)")


def test_options_reach_the_game_as_it_expects_them(smac):
    given = {"difficulty": 9, "game_version": "4.10", "reward_sparse": True}
    assert starcraft.checked_options(given) == {**given, "difficulty": "9"}
    assert smac(**given).reset().state[0, OPTIONS] == 3
    for wrong, words in (({"difficulty": "hard"}, "published results use 7"), ({"game_version": 4.1}, "quote it")):
        with pytest.raises(UserError, match=words):
            smac(**wrong)
    with pytest.raises(UserError, match=r"Unknown game version: 4\.9"):
        smac(game_version="4.9")


def test_training_and_evaluation_take_turns_on_one_set_of_games(machine):
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
    assert last.next.state[0, STEPS] == len(steps)
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
    assert crashed.truncated.all() and not crashed.terminated.any() and crashed.reward.tolist() == [0.0]
    assert torch.equal(crashed.next.obs, before.next.obs)
    assert env.reset().state[0, STEPS] == 0


def test_a_game_that_crashes_while_it_is_reset_is_reset_again(smac):
    env = smac("fresh")
    play(env)
    assert env.reset().state[0, [STEPS, RESETS]].tolist() == [0, 1]


def test_rewards_keep_their_scale_whatever_was_reset_before(smac):
    """One enemy of 45 health: 10 for its death, 200 for the battle. SMAC adds the health up in every first reset."""
    env = smac()
    assert [float(env.reset().state[0, MAX_REWARD]) for _ in range(3)] == [255.0] * 3
    play(env)
    assert env.reset().state[0, MAX_REWARD] == 255


def test_an_unfinished_first_episode_is_followed_by_a_new_game_with_another_seed(smac):
    env = smac()
    first, second = env.reset().state[0], env.reset().state[0]
    assert first[RESETS] == second[RESETS] == 1 and second[SEED] == (first[SEED] + 1) % 1000
    play(env)
    env.reset()
    assert env.reset().state[0, RESETS] == 3


def test_every_row_keeps_an_available_action(smac):
    last = play(smac("mute"))[-1]
    assert last.next.avail_actions[..., 0].all() and not last.next.avail_actions[..., 1:].any()


def test_an_unavailable_action_is_reported(smac):
    env = smac(num_envs=2)
    env.reset()
    actions = stop(env)
    actions[-1, 0] = 0
    with pytest.raises(UserError, match=r"failed: AssertionError: Agent cannot perform action 0$"):
        env.step(actions)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise", "failed: ConnectionError: the game went away; the game last said: the game chats"),
        ("exit", "stopped with exit code 3; it last said: out of memory"),
        ("wide", r"after reset, get_obs has shape \(3, 5\), expected \(3, 4\)"),
        ("nan", "after reset, get_obs has a value that is not finite"),
    ],
)
def test_a_failing_game_is_reported_on_one_line(smac, script, words):
    env = smac(script, seed=2)
    with pytest.raises(UserError, match=words) as error:
        env.reset()
        for _ in range(2):
            env.step(stop(env))
    assert "\n" not in str(error.value)


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
        assert all(step.next.state[index, STEPS] == length for step in steps[length - 1 :])
    assert env.reset().state[:, STEPS].eq(0).all()


def test_a_resumed_run_does_not_repeat_its_first_episodes(smac):
    env = smac()
    play(env)
    saved = json.loads(json.dumps(env.state_dict()))
    first = smac(seed=0).reset().state[0, SEED]
    env.load_state_dict(saved)
    assert env.state_dict() == saved
    with pytest.raises(ValueError, match="before reset"):
        env.step(stop(env))
    assert env.reset().state[0, SEED] != first


def test_wrong_shape(smac):
    env = smac()
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(1, 3\)"):
        env.step(torch.ones(3, dtype=torch.int64))


def test_play_writes_the_games_own_replay(machine):
    where = EnvConfig("smac", "3m", reward_scale=1.0)
    output = machine / "replays" / "battle.SC2Replay"
    output.parent.mkdir()
    episode = record(None, where, 0, "auto", output, 8.0)
    assert [path.name for path in output.parent.iterdir()] == ["battle.SC2Replay"]
    assert episode.result == "won" and output.read_bytes() == b"replay of 1"
    with pytest.raises(UserError, match=r"name it battle\.SC2Replay"):
        record(None, where, 0, "auto", output.with_suffix(".gif"), 8.0)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_ends_with_us_and_a_hanging_one_is_ended(smac, monkeypatch):
    env = smac("hang")
    env.reset()
    (worker,) = env._workers
    worker.send("step", [1, 1, 1])
    monkeypatch.setattr(smac_process, "PATIENCE_S", 0.3)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 5 and not alive(worker._process.pid)


def test_ctrl_c_while_a_game_is_waited_for_ends_it(machine):
    code = (
        "import signal, torch; from mast_train.envs.smac import SmacEnv\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "env = SmacEnv('3m', 2, 0, torch.device('cpu'), script='hang'); env.reset()\n"
        "print(*(w._process.pid for w in env._workers), flush=True)\n"
        "from mast_train.envs import smac_process; smac_process.PATIENCE_S = 0.3\n"
        "env.step(torch.ones(2, 3, dtype=torch.int64))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert not any(map(alive, workers))


def test_the_worker_is_a_file_for_an_older_python_with_numpy():
    tree = ast.parse(Path(smac_worker.__file__).read_text(), feature_version=(3, 8))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.partition(".")[0] for name in imports} - set(sys.stdlib_module_names)
    assert others == {"numpy", "smac", "pysc2", "google"}


def test_stand_in_matches_the_map():
    assert sum(starcraft.ALLIES["3m"].values()) == smac_stand_in.N_AGENTS


def test_unknown_map():
    with pytest.raises(UserError, match="unknown smac map '2s3zz': did you mean '2s3z'"):
        make_env("smac", "2s3zz", 1, 0, CPU, {})
