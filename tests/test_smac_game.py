"""SMAC's and PySC2's own code from end to end, on a stand-in for the game's binary (tests/stand_in).

Skipped where SMAC is not installed: mast smac install, or MAST_SMAC_PYTHON.
"""

import json
import os
import re
import signal
import time

import pytest
import smac_game
import torch
from smac_game import FIRST_ATTACK, STOP, done, episode, games, mast, nothing_left, stand_still
from stand_in import install
from stand_in.units import KINDS

from mast_train.envs import smac_process, starcraft
from mast_train.envs.smac import SmacEnv

CPU = torch.device("cpu")
NORTH, SOUTH, EAST, WEST = range(2, 6)
PUBLISHED = {
    "3m": (3, 30, 48, 9, 60),
    "8m": (8, 80, 168, 14, 120),
    "2s3z": (5, 80, 120, 11, 120),
    "3s5z": (8, 128, 216, 14, 150),
    "2c_vs_64zg": (2, 332, 342, 70, 400),
}
"""Agents, observation, state, actions, episode limit: SMAC's get_env_info, in the literature since 2019."""
SETTINGS = (
    "train.eval_interval=60", "train.eval_episodes=2", "train.epsilon_steps=100", "env.num_envs=2", "replay.batch=2",
    "net.hidden=8", "mixer.embed=4", "mixer.hypernet_hidden=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def python():
    return smac_game.smac_python()


@pytest.fixture
def game(tmp_path, monkeypatch, python):
    """Installs the stand-in at SC2PATH; nothing of it may be left at the end."""
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    monkeypatch.setenv(smac_process.VARIABLE, python)

    def lay_out(**script):
        return install.install(tmp_path / "game", python, **script)

    yield lay_out
    assert nothing_left(games(tmp_path / "game"))


@pytest.fixture
def smac(game):
    made = []

    def make(name: str = "3m", num_envs: int = 1, options: dict | None = None, **script) -> SmacEnv:
        game(**script)
        made.append(SmacEnv(name, num_envs, 0, CPU, **(options or {})))
        return made[-1]

    yield make
    for env in made:
        env.close()


def test_sizes_of_every_map_are_the_published_ones_and_agents_are_who_we_say(python):
    found = smac_game.all_sizes(python)
    names = ("n_agents", "obs_shape", "state_shape", "n_actions", "episode_limit")
    assert {name: tuple(found[name][size] for size in names) for name in PUBLISHED} == PUBLISHED
    assert {name: info["n_agents"] for name, info in found.items()} == {
        name: sum(team.values()) for name, team in starcraft.ALLIES.items()
    }


@pytest.mark.parametrize("name", ["3m", "8m"])
def test_a_battle_is_won_with_all_the_reward_there_is(smac, name):
    env = smac(name)
    spec = env.spec
    assert (spec.n_agents, spec.obs_dim, spec.state_dim, spec.n_actions, spec.episode_limit) == PUBLISHED[name]
    assert re.fullmatch(r"StarCraft II 4\.10 \(Base75689\), SMAC 1\.0\.0, PySC2 4\.0\.0", spec.version)
    for _ in range(2):
        steps = episode(env)
        assert steps[-1].won.all() and steps[-1].terminated.all() and not steps[-1].truncated.any()
        # All damage to marines of 45, 10 for each death and 200 for the battle are 20 in SMAC's scale.
        assert sum(float(step.reward) for step in steps) == pytest.approx(20, abs=1e-4)
        assert not any(step.won.any() for step in steps[:-1])


def test_what_a_marine_sees(smac):
    """By hand: marines at x = 9, 1.2 apart; enemies at x = 23, out of sight; a sight range of 9, a map of 32 x 32."""
    env = smac("3m")
    seen = env.reset()
    obs, state = seen.obs[0], seen.state[0]
    where = ("distance", "relative x", "relative y", "health")
    words = [*(f"enemy {k} {x}" for k in (1, 2, 3) for x in ("can attack", *where))]
    words += [f"ally {k} {x}" for k in (1, 2) for x in ("visible", *where)]
    ways = ("north", "south", "east", "west")
    assert env.spec.obs_names == ((*(f"can move {way}" for way in ways), *words, "own health"),)
    gone = [0.0] * 15
    first = [1, 1, 1, 1, *gone, 1, 1.2 / 9, 0, 1.2 / 9, 1, 1, 2.4 / 9, 0, 2.4 / 9, 1, 1]
    middle = [1, 1, 1, 1, *gone, 1, 1.2 / 9, 0, -1.2 / 9, 1, 1, 1.2 / 9, 0, 1.2 / 9, 1, 1]
    assert torch.allclose(obs[:2], torch.tensor([first, middle]), atol=1e-5)
    allies = [[1, 0, (9 - 16) / 32, dy / 24] for dy in (-1.2, 0, 1.2)]
    enemies = [[1, (23 - 16) / 32, dy / 24] for dy in (-1.2, 0, 1.2)]
    expected = [x for row in (*allies, *enemies) for x in row] + [0.0] * 27
    assert torch.allclose(state, torch.tensor(expected), atol=1e-5)
    assert seen.avail_actions[0].tolist() == [[False, *[True] * 5, *[False] * 3]] * 3


def test_inputs_have_names_whatever_is_seen(smac):
    more = ("obs_last_action", "obs_pathing_grid", "obs_terrain_height")
    less = {"obs_all_health": False, "obs_own_health": False}
    for options in ({}, less, dict.fromkeys(more, True), less | dict.fromkeys(more, True)):
        env = smac("2s3z", options=options)
        (names,) = env.spec.obs_names
        obs = dict(zip(names, env.reset().obs[0, 0].tolist(), strict=True))
        assert len(obs) == env.spec.obs_dim, "no name twice"
        assert obs["own unit type 0"] == obs["ally 1 unit type 0"] == obs["ally 2 unit type 1"] == 1
        assert obs["ally 1 visible"] == 1 and obs.get("own shield", 1) == obs.get("ally 4 shield", 1) == 1
        assert obs.get("pathing 0", 1) == 1
        env.close()


@pytest.mark.parametrize("name", ["2s3z", "3s5z"])
def test_agents_are_numbered_by_type_and_the_dead_only_do_nothing(smac, name):
    env = smac(name)
    assert (env.spec.n_agents, env.spec.obs_dim, env.spec.state_dim) == PUBLISHED[name][:3]
    own = env.reset().obs[0, :, -2:]
    kinds = [("stalker", "zealot")[int(bits.argmax())] for bits in own]
    assert tuple(kinds) == env.spec.agent_types and own.sum(1).eq(1).all()
    steps = episode(env, stand_still)
    last = steps[-1]
    assert last.terminated.all() and not last.won.any()
    assert sum(float(step.reward) for step in steps) == 0
    assert last.next.obs.eq(0).all() and last.next.avail_actions[0, :, 0].all()
    assert not last.next.avail_actions[..., 1:].any()
    for before in steps:
        alive = before.next.obs[0].any(-1)
        assert torch.equal(before.next.avail_actions[0, :, 0], ~alive)
        assert torch.equal(before.next.avail_actions[0, :, STOP], alive)
    assert any(0 < int(step.next.obs[0].any(-1).sum()) < env.spec.n_agents for step in steps)


def test_2s3z_is_won_too(smac):
    steps = episode(smac("2s3z"))
    # Shields that come back make more damage than the scale knows of.
    assert steps[-1].won.all() and sum(float(step.reward) for step in steps) == pytest.approx(20, abs=1)


def test_two_colossi_against_64_zerglings(smac):
    env = smac("2c_vs_64zg")
    spec = env.spec
    assert (spec.n_agents, spec.obs_dim, spec.state_dim, spec.n_actions, spec.episode_limit) == PUBLISHED["2c_vs_64zg"]
    assert spec.agent_types == ("colossus", "colossus")
    steps = episode(env)
    assert steps[-1].terminated.all() and sum(float(step.reward) for step in steps) > 1
    assert any(int(step.next.avail_actions[0, 0, FIRST_ATTACK:].sum()) > 20 for step in steps)


def test_the_time_limit_truncates(smac):
    steps = episode(smac("3m", enemy="passive"), stand_still)
    assert len(steps) == 60 and steps[-1].truncated.all() and not steps[-1].terminated.any()
    assert not steps[-1].won.any()


def test_units_that_are_late_do_not_change_the_scale_of_rewards(smac):
    env = smac("3m", spawn_delay=6, late=4)
    for _ in range(3):
        assert sum(float(step.reward) for step in episode(env)) == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize("at", [40, 230], ids=["first-episode", "second-episode"])
def test_a_game_that_crashes_is_started_again(smac, game, tmp_path, at):
    env = smac("3m", crash_at=at)
    first = episode(env)
    crashed = first if at == 40 else episode(env)
    before, last = crashed[-2:]
    assert last.truncated.all() and not last.terminated.any() and last.reward.tolist() == [0]
    assert torch.equal(last.next.obs, before.next.obs) and torch.equal(last.next.state, before.next.state)
    for _ in range(2):
        steps = episode(env)
        assert steps[-1].won.all() and sum(float(step.reward) for step in steps) == pytest.approx(20, abs=1e-4)
    env.close()
    assert len(games(tmp_path / "game")) >= 2 and nothing_left(games(tmp_path / "game"))


@pytest.mark.parametrize("request_", ["step", "observation"])
def test_a_game_that_crashes_in_a_reset_begins_a_whole_battle(smac, request_):
    """All three marines die in the first; in the second they are there, where they begin."""
    env = smac("3m", crash_after_kill=request_)
    first = env.reset().state
    assert episode(env, stand_still)[-1].next.obs.eq(0).all()
    assert torch.allclose(env.reset().state, first, atol=0.02)
    assert sum(float(step.reward) for step in episode(env)) == pytest.approx(20, abs=1e-4)


def test_an_early_reset_leaves_one_game_and_the_scale_of_rewards(smac, tmp_path):
    env = smac("3m")
    env.reset()
    env.step(stand_still(env.reset().avail_actions))
    assert sum(float(step.reward) for step in episode(env)) == pytest.approx(20, abs=1e-4)
    assert sum(map(smac_game.alive, games(tmp_path / "game"))) == 1


def test_a_game_that_hangs_is_ended_with_its_battle(smac, tmp_path, monkeypatch):
    env = smac("3m", hang_at=20)
    avail = env.reset().avail_actions
    monkeypatch.setattr(smac_process, "PATIENCE_S", 1.0)
    for _ in range(3):
        env._workers[0].send("step", stand_still(avail)[0].tolist())
    time.sleep(1)
    env.close()
    assert nothing_left(games(tmp_path / "game"), 1.0)


@pytest.mark.parametrize("build", [install.BUILD, 69232])
def test_where_units_can_walk_is_read_from_both_kinds_of_grid(smac, build):
    """One wall, east of the first agent and north of the last: neither transposed nor turned over."""
    walls = {"walls": [[10, 14, 11, 15], [9, 18, 10, 19]]}
    env = smac("3m", maps=walls, build=build)
    assert ("4.6.2" in env.spec.version) == (build == 69232)
    avail = env.reset().avail_actions[0, :, [NORTH, SOUTH, EAST, WEST]]
    assert avail.tolist() == [[True, True, False, True], [True] * 4, [False, True, True, True]]


def test_battles_run_side_by_side(smac, tmp_path):
    env = smac("3m", num_envs=2)
    steps = episode(env)
    assert steps[-1].won.all() and len(games(tmp_path / "game")) == 2
    for index in range(2):
        assert sum(float(step.reward[index]) for step in steps) == pytest.approx(20, abs=1e-4)


def test_what_the_game_lacks_is_one_line(game, tmp_path, python):
    folder = game()
    binary = folder / "Versions" / f"Base{install.BUILD}" / "SC2_x64"
    binary.write_text(f"#!{python}\nimport sys\nsys.exit('error while loading shared libraries: libGL.so.1')\n")
    answer = mast("eval", "--random", "--env", "smac:3m", "--episodes", "1", "--num-envs", "1", cwd=tmp_path)
    error = answer.communicate(timeout=120)[1]
    assert answer.returncode == 2 and len(error.splitlines()) == 1, error
    assert "Failed to connect to the SC2 websocket" in error and "libGL.so.1" in error


def test_train_interrupt_resume_eval_and_play(game, tmp_path):
    folder = game()
    name = ("--name", "battle")
    options = [f"--set={setting}" for setting in SETTINGS]
    train = mast("train", "--env", "smac:3m", "--method", "dense", "--steps", "400", *name, *options, cwd=tmp_path)
    run = tmp_path / "runs" / "battle"
    smac_game.interrupted_after(train, run / "metrics.jsonl", 4)
    assert "continue with: mast train --resume --name runs/battle" in done(train)
    assert nothing_left(games(folder), 1.0)
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    done(mast("train", "--resume", *name, cwd=tmp_path))
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished" and len(info["sessions"]) == 2 and info["spec"]["map"] == "3m"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "evaluation"][-1] >= 400
    result = json.loads(done(mast("eval", "battle", "--episodes", "3", "--num-envs", "2", "--json", cwd=tmp_path)))
    assert result["episodes"] == 3 and 0 <= result["win_rate"] <= 1
    done(mast("play", "battle", "-o", "battle.SC2Replay", cwd=tmp_path))
    replay = json.loads((tmp_path / "battle.SC2Replay").read_bytes())
    assert replay["map"] == os.path.join("SMAC_Maps", "3m.SC2Map") and replay["loops"] > 8
    assert nothing_left(games(folder), 1.0)


def test_a_trainer_that_is_killed_leaves_no_game(game, tmp_path):
    folder = game()
    options = [f"--set={setting}" for setting in SETTINGS]
    train = mast("train", "--env", "smac:3m", "--method", "dense", "--steps", "9000", *options, cwd=tmp_path)
    until = time.monotonic() + 60
    while len(games(folder)) < 2 and train.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    train.send_signal(signal.SIGKILL)
    train.communicate(timeout=10)
    assert len(games(folder)) == 2 and nothing_left(games(folder))


def test_cooldowns_in_the_state_are_those_of_the_unit(smac):
    """SMAC divides by 15 loops for a marine; the published 0.61 s are 13.7, and up to two loops of delay."""
    steps = episode(smac("3m"))
    highest = max(float(step.next.state[0, [1, 5, 9]].max()) for step in steps)
    loops = KINDS["marine"].cooldown_s * 22.4
    assert (loops - 8) / 15 <= highest <= (loops + 2) / 15
