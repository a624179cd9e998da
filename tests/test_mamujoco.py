"""MaMuJoCo where it is installed: the same episodes in any number of processes, its contract, pictures, mistakes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import random_bundle

from mast_export.web import page, wasm
from mast_runtime.head import Head
from mast_train.commands.explore import watch
from mast_train.envs import available_maps, make_env
from mast_train.envs.mujoco_worker import Copies, bodies
from mast_train.envs.scene import Line, Scene
from mast_train.experience.rollout import random_policy, rollout
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

pytest.importorskip("gymnasium_robotics", reason="pip install mast-marl[mamujoco]")
CPU = torch.device("cpu")


def env(map_name="HalfCheetah-2x3", copies=3, **options):
    return make_env("mamujoco", map_name, copies, 0, CPU, {"episode_limit": 12, **options})


def played(made, seed=0):
    try:
        return rollout(made, random_policy(made.spec, torch.Generator().manual_seed(seed)))
    finally:
        made.close()


def test_episodes_do_not_depend_on_the_number_of_processes_and_are_cut_at_their_limit(capfd):
    one, two = played(env(workers=1)), played(env(workers=2))
    for name in vars(one.episodes):
        assert torch.equal(getattr(one.episodes, name), getattr(two.episodes, name)), name
    assert one.episodes.obs.shape == (3, 13, 2, 12) and one.episodes.state.shape == (3, 13, 17)
    assert one.won is None and one.episodes.truncated[:, -1].all() and not one.episodes.terminated.any()
    assert not torch.equal(one.episodes.obs[0], one.episodes.obs[1]), "copies start from seeds of their own"
    out, err = capfd.readouterr()
    assert out == err == ""


def test_one_reward_for_the_team_and_a_fall_ends_an_episode():
    """Against the same steps through gymnasium-robotics itself; Hopper's three agents see different numbers."""
    from gymnasium_robotics import mamujoco_v1

    made = env("Hopper-3x1", 1, episode_limit=200, reward_scale=0.5, agent_obsk=0)
    episodes = played(made).episodes
    own = mamujoco_v1.parallel_env("Hopper", "3x1", agent_obsk=0)
    seed = int(np.random.default_rng(0).integers(2**31, size=1)[0])
    seen, _ = own.reset(seed=seed)
    steps = int(episodes.lengths[0])
    for t in range(steps):
        for n, agent in enumerate(own.possible_agents):
            width = len(seen[agent])
            assert np.allclose(episodes.obs[0, t, n, :width], seen[agent].astype(np.float32))
            assert (episodes.obs[0, t, n, width:] == 0).all()
        joint = {agent: episodes.actions[0, t, n].numpy() for n, agent in enumerate(own.possible_agents)}
        seen, rewards, ended, _, _ = own.step(joint)
        assert float(episodes.reward[0, t]) == pytest.approx(0.5 * rewards["agent_0"], rel=1e-5, abs=1e-6)
        assert bool(episodes.terminated[0, t]) == ended["agent_0"]
    own.close()
    assert steps < 200 and episodes.terminated[0, steps - 1]


def test_sizes_that_differ_are_padded_and_bounds_are_the_robots():
    made = env("Humanoid-9|8", 1, episode_limit=1)
    episodes = played(made).episodes
    assert made.spec.n_actions == 9 and made.spec.box.low == ((pytest.approx(-0.4),) * 9, (pytest.approx(-0.4),) * 8)
    assert episodes.avail_actions[0, 0].sum(1).tolist() == [9, 8] and (episodes.actions[:, :, 1, 8] == 0).all()


def test_a_picture_is_rendered_or_drawn_from_the_bodies(monkeypatch, capfd):
    made = env(copies=1)
    made.reset()
    picture = made.picture()
    assert isinstance(picture, Scene) or (picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.std() > 5)
    made.close()
    monkeypatch.setenv("MUJOCO_GL", "disabled")  # as where no OpenGL can be had
    made = env(copies=1)
    made.reset()
    drawn = made.picture()
    made.close()
    assert isinstance(drawn, Scene) and len(drawn.shapes) > 10
    assert capfd.readouterr() == ("", "")


def test_a_page_draws_bodies_and_goes_along_with_them(tmp_path, monkeypatch, capfd):
    pages: list[page.Played] = []
    monkeypatch.setattr(page, "build", lambda bundle, played: pages.append(played) or b"page")
    monkeypatch.setattr(wasm, "find_compiler", lambda: ())
    bound = ((1.0,) * 3,) * 2
    head = Head(tuple(tuple(-x for x in row) for row in bound), bound)
    random = random_bundle(1, 2, 12, 3, hidden=8)
    bundle = replace(random, contract=replace(random.contract, head=head))
    where = EnvConfig("mamujoco", "HalfCheetah-2x3", episode_limit=12, options={"render_mode": "rgb_array"})
    assert watch(bundle, where, 0, "auto", None, tmp_path / "a.html", 8.0).steps == 12
    (played,) = pages
    assert played.actions.shape == (12, 2, 3) and len(played.frames) == len(played.views) == 13
    assert all(isinstance(frame, list) and len(frame) > 10 for frame in played.frames)
    assert len({view[0] for view in played.views}) > 6 and len({view[2:] for view in played.views}) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("length", [0.1, 20.0])
@pytest.mark.parametrize("from_above", [True, False])
def test_a_robot_of_any_length_is_in_the_picture(length, from_above):
    """Capsules in a row along x, the first of the body of the ground, which is not drawn."""
    places = np.array([[9.0, 9.0, 9.0], [0.0, 0.0, 0.5], [length, 0.0, 0.5]])
    turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    sizes = np.array([[0.02, length / 10, 0.0]] * 3)
    model = SimpleNamespace(ngeom=3, geom_bodyid=[0, 1, 2], geom_size=sizes, geom_type=[3, 3, 3])
    data = SimpleNamespace(geom_xpos=places, geom_xmat=np.stack([turn.ravel()] * 3))
    scene = bodies(SimpleNamespace(model=model, data=data), from_above)
    (left, low), (right, high) = scene.corners
    drawn = [shape for shape in scene.shapes if isinstance(shape, Line) and shape.round]
    assert len(drawn) == 2 and scene.follows
    for x, y in [end for shape in drawn for end in (shape.start, shape.end)]:
        assert left < x < right and low < y < high
    assert right - left < 1.6 * length + 0.2 if from_above else right - left < max(3.1, 1.6 * length + 0.2)


@pytest.mark.parametrize(
    ("map_name", "options", "said"),
    [
        ("HalfCheetah", {}, "expected SCENARIO-PARTITION, for example HalfCheetah-2x3"),
        ("HalfCheetah-4x4", {}, "UNKNOWN partitioning config: 4x4; see `mast maps --env mamujoco`"),
        ("Snail-1x1", {}, "mamujoco Snail-1x1: .*; see `mast maps --env mamujoco`"),
        ("HalfCheetah-2x3", {"speed": 3}, r"with options \{'speed': 3\}: TypeError: .*speed"),
    ],
)
def test_mistakes_are_one_line(map_name, options, said):
    with pytest.raises(UserError, match=said) as caught:
        env(map_name, 1, **options)
    assert "\n" not in str(caught.value)
    assert "HalfCheetah-2x3" in available_maps("mamujoco")


def test_a_process_that_dies_is_one_line():
    made = env(copies=1)
    made.reset()
    made._workers[0]._process.kill()
    with pytest.raises(UserError, match="the process of a mamujoco environment stopped with exit code -9"):
        made.step(torch.zeros(1, 2, 3))
    made.close()


@pytest.mark.parametrize(("name", "widths"), [("Hopper-3x1", [8, 9, 8]), ("HalfCheetah-2x3", [12, 12])])
def test_inputs_are_named_by_joints_that_have_their_values(name, widths):
    """Beside MuJoCo's own numbers of each named joint after a few steps, a row for each agent, padded."""
    copies = Copies(*name.split("-"), 1, {})
    facts = copies.open()
    rng = np.random.default_rng(0)
    for _ in range(5):
        copies.step(rng.uniform(-1.0, 1.0, (1, len(widths), facts.box.width)))
    data = copies._games[0].single_agent_env.unwrapped.data
    obs = copies.step(rng.uniform(-1.0, 1.0, (1, len(widths), facts.box.width))).obs[0]
    copies.close()
    for row, values, width in zip(facts.obs_names, obs, widths, strict=True):
        assert row[width:] == tuple(f"unused {i}" for i in range(width, max(widths))) and not values[width:].any()
        for words, value in zip(row[:width], values, strict=False):
            joint, kind = words.rsplit(" ", 1)
            here = data.joint(joint)
            assert value == pytest.approx({"position": here.qpos, "velocity": here.qvel}[kind][0], abs=1e-6), words


def test_what_is_no_joints_number_has_no_name():
    made = env("Reacher-2x1", 1)
    assert made.spec.obs_names == ()
    made.close()
