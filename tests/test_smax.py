"""SMAX through the adapter: 3m with four environments and 2s3z with two, compiled once for the whole module."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mast_train.envs import make_env, smax_jax
from mast_train.envs.smax import SmaxEnv, shared_with_torch
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")
STOP, FIRST_ATTACK = 4, 5
IMMORTAL = 1e9


def make(map_name: str, num_envs: int, seed: int = 0) -> SmaxEnv:
    return make_env("smax", map_name, num_envs, seed, CPU, {})


@pytest.fixture(scope="module")
def small() -> SmaxEnv:
    return make("3m", 4)


@pytest.fixture(scope="module", params=[("3m", 4), ("2s3z", 2)], ids=["3m", "2s3z"])
def env(request) -> SmaxEnv:
    return make(*request.param)


def set_health(env: SmaxEnv, health: np.ndarray) -> None:
    """health [E,U]: overwrite the simulator's, allies first."""
    import jax

    battle = env._carry.simulator
    new = jax.device_put(health.astype(np.float32), env._jax_device)
    env._carry = env._carry._replace(simulator=battle.replace(state=battle.state.replace(unit_health=new)))


def stop(env: SmaxEnv) -> torch.Tensor:
    return torch.full((env.num_envs, env.spec.n_agents), STOP)


def random_actions(avail: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(avail.float().flatten(0, 1), 1, generator=generator).view(avail.shape[:2])


def play(env: SmaxEnv, seed: int = 0) -> list:
    """One episode of random valid actions: copies of [first observation, transitions...]."""
    generator = torch.Generator().manual_seed(seed)
    seen, steps = env.reset(), []
    while not steps or not (steps[-1].terminated | steps[-1].truncated).all():
        steps.append(env.step(random_actions(seen.avail_actions, generator)))
        seen = steps[-1].next
    return steps


@pytest.mark.parametrize(
    ("map_name", "obs_dim", "state_dim", "n_actions", "agent_types"),
    [
        ("3m", 75, 72, 8, ["marine"] * 3),
        ("8m", 205, 192, 13, ["marine"] * 8),
        ("2s3z", 127, 120, 10, ["stalker"] * 2 + ["zealot"] * 3),
        ("3s_vs_5z", 101, 96, 10, ["stalker"] * 3),
        ("6h_vs_8z", 179, 168, 13, ["hydralisk"] * 6),
        ("smacv2_5_units", 127, 120, 10, ["random"] * 5),
    ],
)
def test_spec(map_name, obs_dim, state_dim, n_actions, agent_types):
    spec = make(map_name, 2).spec
    assert (spec.obs_dim, spec.state_dim, spec.n_actions) == (obs_dim, state_dim, n_actions)
    assert list(spec.agent_types) == agent_types and spec.n_agents == len(agent_types)
    assert spec.episode_limit == 101 and spec.version.startswith("jaxmarl 0.2")


def test_random_play_keeps_the_protocol(env):
    spec, seen = env.spec, env.reset()
    assert seen.obs.shape == (env.num_envs, spec.n_agents, spec.obs_dim) and seen.obs.dtype == torch.float32
    assert seen.state.shape == (env.num_envs, spec.state_dim) and seen.state.dtype == torch.float32
    assert seen.avail_actions.shape == (env.num_envs, spec.n_agents, spec.n_actions)
    assert seen.avail_actions.dtype == torch.bool
    for seed in range(3):
        for step in play(env, seed):
            assert step.next.avail_actions.any(-1).all()
            assert step.next.state.min() >= -0.5 and step.next.state.max() <= 1.5
            assert step.next.obs.abs().max() <= 1.5
            assert not (step.terminated & step.truncated).any()
            assert not (step.won & ~step.terminated).any()


def test_dead_agents_can_only_stop(env):
    health = np.full((env.num_envs, env.spec.state_dim // 12), IMMORTAL)
    health[:, 1] = 0.0
    env.reset()
    set_health(env, health)
    avail = env.step(stop(env)).next.avail_actions
    only_stop = torch.arange(env.spec.n_actions) == STOP
    assert torch.equal(avail[:, 1], only_stop.expand(env.num_envs, -1))
    assert (avail[:, 0].sum(-1) > 1).all()


def test_the_outcome_comes_from_who_is_alive_and_finished_battles_wait(small):
    win, draw, loss, undecided = [1, 1, 1, 0, 0, 0], [0] * 6, [0, 0, 0, 1, 1, 1], [1] * 6
    start = small.reset().state.clone()
    set_health(small, IMMORTAL * np.array([win, draw, loss, undecided]))
    ended = small.step(stop(small))
    assert ended.terminated.tolist() == [True, True, True, False]
    assert ended.won.tolist() == [True, False, False, False]
    assert ended.reward.tolist() == [10.0, 0.0, 0.0, 0.0]
    # The terminal state is shown, not the next episode's: units without health are zeros.
    units = ended.next.state[:, :60].reshape(4, 6, 10)
    assert torch.equal(units.any(-1), torch.tensor([win, draw, loss, undecided]).bool())
    waiting = small.step(stop(small))
    assert waiting.reward[:3].tolist() == [0.0] * 3
    for before, after in ((ended.won, waiting.won), (ended.terminated, waiting.terminated)):
        assert torch.equal(before, after)
    for name in ("obs", "state", "avail_actions"):
        before, after = getattr(ended.next, name), getattr(waiting.next, name)
        assert torch.equal(before[:3], after[:3])
    assert not torch.equal(ended.next.state[3], waiting.next.state[3])
    assert not torch.equal(small.reset().state, start)


def test_the_time_limit_truncates_at_the_episode_limit(small):
    small.reset()
    set_health(small, np.full((4, 6), IMMORTAL))
    steps = [small.step(stop(small)) for _ in range(small.spec.episode_limit + 1)]
    ended = [(step.terminated | step.truncated).tolist() for step in steps]
    assert ended == [[False] * 4] * (small.spec.episode_limit - 1) + [[True] * 4] * 2
    assert steps[-1].truncated.all() and not steps[-1].terminated.any()
    assert steps[-1].reward.tolist() == [0.0] * 4
    assert torch.equal(steps[-1].next.obs, steps[-2].next.obs)


def test_a_won_episode_returns_twenty(small):
    small.reset()
    set_health(small, np.array([[IMMORTAL] * 3 + [45.0] * 3] * 4))
    returns, seen = torch.zeros(4), None
    for _ in range(small.spec.episode_limit):
        attack = seen.avail_actions[..., FIRST_ATTACK:] if seen else torch.zeros(4, 3, 3)
        actions = torch.where(attack.any(-1), FIRST_ATTACK + attack.float().argmax(-1), STOP)
        step = small.step(actions)
        returns += step.reward
        seen = step.next
    assert step.won.all()
    assert returns.tolist() == pytest.approx([20.0] * 4)


def test_the_same_state_repeats_the_same_episodes(small):
    small.reset()
    saved = json.loads(json.dumps(small.state_dict()))
    expected = play(small)
    other = make("3m", 4, seed=123)
    assert other.state_dict() != saved
    other.load_state_dict(saved)
    repeated = play(other)
    assert len(repeated) == len(expected)
    for one, two in zip(expected, repeated, strict=True):
        assert torch.equal(one.next.obs, two.next.obs) and torch.equal(one.next.state, two.next.state)
        assert torch.equal(one.reward, two.reward) and torch.equal(one.won, two.won)
    assert other.state_dict() == small.state_dict()


def test_seeds_and_environments_differ():
    first, second = make("3m", 4, seed=1).reset().obs, make("3m", 4, seed=2).reset().obs
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_each_program_is_compiled_once(small):
    play(small)
    play(small)
    assert small._programs.reset._cache_size() == small._programs.step._cache_size() == 1


def test_wrong_calls(small):
    with pytest.raises(ValueError, match=r"shape \(4, 2\), expected \(4, 3\)"):
        small.step(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="before reset"):
        make("3m", 4).step(stop(small))
    with pytest.raises(UserError, match="unknown smax map '3mm': did you mean '3m'"):
        make("3mm", 4)


@pytest.mark.parametrize(
    ("alive", "done", "expected"),
    [
        ([1, 1, 1, 1], False, (False, False, False)),
        ([1, 1, 1, 1], True, (False, True, False)),
        ([1, 0, 0, 0], True, (True, False, True)),
        ([0, 0, 0, 1], True, (True, False, False)),
        ([0, 0, 0, 0], True, (True, False, False)),
    ],
)
def test_outcome(alive, done, expected):
    assert smax_jax.outcome(np.array(alive, dtype=bool), 2, np.bool_(done)) == expected


def test_world_state_is_scaled_once():
    import jax.numpy as jnp

    battle = smax_jax.simulator("2s3z")
    unit = [0.5, 8.0, 32.0, -40.0, 0, 0, 1, 0, 0, 0]
    loaded = [1.0, 16.0, 4.0, 1.87 / 2, 0, 0, 1, 0, 0, 0]
    types, teams = [2, 2, 3, 3, 3] * 2, [0] * 5 + [1] * 5
    raw = jnp.array([*unit, *loaded, *[0.0] * 80, *teams, *types], dtype=jnp.float32)
    scaled = np.asarray(smax_jax.normalise_world_state(battle, raw, jnp.array(types)))
    assert scaled[:4].tolist() == [0.5, 0.25, 1.0, 0.0]
    assert scaled[10:14].tolist() == pytest.approx([1.0, 0.5, 0.125, 0.5])
    assert scaled[100:110].tolist() == teams
    assert scaled[110:].tolist() == pytest.approx([kind / 5 for kind in types])


def test_a_gpu_that_jax_does_not_see_falls_back_to_the_cpu():
    with pytest.warns(UserWarning, match="JAX sees no GPU"):
        assert smax_jax.find_device("cuda", 0, 1).platform == "cpu"


def test_missing_jaxmarl_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    with pytest.raises(UserError, match=r'pip install "mast-marl\[train\]"'):
        make_env("smax", "25m", 2, 0, CPU, {})


def test_a_cache_that_cannot_be_written_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert smax_jax._cache_folder() is None


def test_importing_jaxmarl_is_silent_and_compiled_programs_are_kept(tmp_path):
    code = """
import sys
out, err = sys.stdout, sys.stderr
from mast_train.envs import smax_jax
smax_jax.find_device("cpu", 0, 1)
smax_jax.import_jaxmarl()
assert sys.stdout is sys.__stdout__ is out and sys.stderr is err and "torch" not in sys.modules
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert list((tmp_path / "mast" / "jax").iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux shows them")
def test_simulation_uses_as_many_threads_as_it_was_given():
    code = """
import os, sys
from mast_train.envs import smax_jax
smax_jax.find_device("cpu", 0, int(sys.argv[1]))
print(len(os.listdir("/proc/self/task")))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    command = [sys.executable, "-c", code]
    counts = [int(subprocess.check_output([*command, n], env=environment, text=True)) for n in ("1", "9")]
    assert counts[1] >= counts[0] + 8


def test_arrays_are_handed_over_once_they_are_computed():
    """DLPack's producer waits, or makes the consumer's stream wait: nothing else does."""
    import jax
    import jax.numpy as jnp

    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ y), x))
    x = jnp.linspace(-0.1, 0.1, 200 * 200).reshape(200, 200)
    expected = np.asarray(slow(x))
    for _ in range(3):
        view = shared_with_torch(smax_jax.View(*[slow(x)] * 7), torch.device("cpu"))
        assert (view.obs.numpy() == expected).all()
