"""Episodes to watch: what is drawn where, the same bytes for the same seed, and what cannot be drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mast_runtime import load
from mast_train.commands.play import record
from mast_train.envs import draw, smax_jax, smax_scene
from mast_train.envs.scene import Circle, Line, Polygon, Scene
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

HERE = Path(__file__).resolve().parent
GAME = EnvConfig("pettingzoo", f"{HERE / 'parallel_games.py'}:Expedition", reward_scale=1.0)
RED, BLUE = (220, 0, 0), (0, 0, 220)


def frames(path):
    with Image.open(path) as image:
        return image.n_frames


def test_shapes_are_drawn_where_they_are():
    scene = Scene((Circle((1.0, 1.0), 0.5, RED), Polygon(((3, 3), (5, 3), (5, 5), (3, 5)), BLUE)))
    view = draw.views([scene])[0]
    image = draw.draw_scene(scene, view)

    def pixel(x, y):
        return image.getpixel((round(view.scale * (x - view.left)), round(view.scale * (view.top - y))))

    assert pixel(1.0, 1.0) == RED and pixel(4.0, 4.0) == BLUE and pixel(1.0, 4.0) == draw.PAPER
    assert pixel(1.0, 1.4) == RED and pixel(1.4, 1.4) == draw.PAPER


def test_a_line_may_have_round_ends():
    ends = (0.0, 0.0), (4.0, 0.0)
    pictures = []
    for rounded in (False, True):
        scene = Scene((Line(*ends, RED, 1.0, rounded),), corners=((-2.0, -2.0), (6.0, 2.0)))
        view = draw.views([scene])[0]
        image = draw.draw_scene(scene, view)
        at = [(round((x - view.left) * view.scale), round(view.top * view.scale)) for x in (-0.4, 2.0, 4.4, 4.7)]
        pictures.append([image.getpixel(place) for place in at])
    assert pictures == [[draw.PAPER, RED, draw.PAPER, draw.PAPER], [RED, RED, RED, draw.PAPER]]


def test_one_view_holds_every_moment():
    scenes = [Scene((Circle((x, 0.0), 1.0, RED),)) for x in (-5.0, 20.0)]
    view = draw.views(scenes)[0]
    assert view.left < -6.0 and view.left + view.width / view.scale > 21.0


def test_a_view_may_leave_out_the_ends_of_a_wall():
    wall = Polygon(((-50, 0), (50, 0), (50, 1), (-50, 1)), RED)
    view = draw.views([Scene((wall,), corners=((0.0, 0.0), (4.0, 2.0)))])[0]
    assert view.width / view.scale < 10.0


def test_an_animation_repeats_to_the_byte_and_holds_its_last_frame():
    frames = [draw.caption(Image.new("RGB", (320, 40), (10 * i, 0, 0)), f"step {i}") for i in range(3)]
    data = draw.animation(frames, fps=10)
    assert data == draw.animation(frames, fps=10)
    shown = Image.open(io.BytesIO(data))
    durations = []
    for index in range(shown.n_frames):
        shown.seek(index)
        durations.append(shown.info["duration"])
    assert durations == [100, 100, 2000] and shown.size == (320, 40 + draw.BAR)


def test_a_battle_shows_teams_health_and_fire():
    """Ally 0 fires at enemy 3 (the first of two); enemy 4 at ally 1, whom enemies number from the last ally down."""
    battle = smax_jax.simulator("3m")
    first = battle.num_movement_actions
    positions = np.array([[10.0, 10], [10, 12], [10, 20], [13, 10], [13, 12], [13, 30]])
    alive = np.array([True, True, False, True, True, True])
    health = np.array([45.0, 9.0, 0.0, 45.0, 45.0, 45.0])
    attacks = np.array([first, 0, 0, 1, first + 1, first])
    scene = smax_scene.scene(battle, positions, alive, health, np.zeros(6, np.int64), attacks)
    lines = [shape for shape in scene.shapes if isinstance(shape, Line)]
    assert [(line.colour, line.start[0], line.end[0]) for line in lines] == [
        (smax_scene.ALLY, 10.0, 13.0),
        (smax_scene.ENEMY, 13.0, 10.0),
    ]
    assert [line.start[1] for line in lines] == pytest.approx([9.88, 12.12])
    circles = [shape for shape in scene.shapes if isinstance(shape, Circle)]
    assert [circle.colour for circle in circles] == [smax_scene.DEAD] + [smax_scene.ALLY] * 2 + [smax_scene.ENEMY] * 3
    bars = [shape for shape in scene.shapes if isinstance(shape, Polygon)]
    widths = [bar.points[1][0] - bar.points[0][0] for bar in bars]
    assert widths[1] == pytest.approx(widths[0]) and widths[3] == pytest.approx(0.2 * widths[2])
    assert (bars[1].colour, bars[3].colour) == (smax_scene.HEALTHY, smax_scene.WEAK)


def test_a_rendered_episode(tmp_path):
    first, second = tmp_path / "a.gif", tmp_path / "b.gif"
    episode = record(None, GAME, 3, "auto", first, 8.0)
    record(None, GAME, 3, "auto", second, 8.0)
    assert first.read_bytes() == second.read_bytes() and episode.size_bytes == first.stat().st_size
    assert (episode.steps, episode.episode_return, episode.result) == (4, 42.0, "finished")
    assert frames(first) == 5


def test_an_exported_policy_plays_a_battle_through_its_runtime(tmp_path):
    bundle = load(HERE / "data" / "3m.mast")
    episode = record(bundle, EnvConfig("smax", "3m"), 0, "reference", tmp_path / "battle.gif", 8.0)
    assert episode.backend == "reference" and episode.result in ("won", "lost", "time is up")
    assert frames(tmp_path / "battle.gif") == episode.steps + 1
    assert episode.size_bytes < 2_000_000


@pytest.mark.parametrize(
    ("where", "name", "words"),
    [
        (EnvConfig("matrix", "climbing"), "a.gif", "cannot be drawn: it has no picture"),
        (EnvConfig("matrix", "climbing"), "a.mp4", "written as .gif; name it a.gif"),
        (EnvConfig("matrix", "climbing"), "nowhere/a.gif", "there is no folder"),
    ],
)
def test_what_cannot_be_written(tmp_path, where, name, words):
    with pytest.raises(UserError, match=words):
        record(None, where, 0, "auto", tmp_path / name, 8.0)
    assert not list(tmp_path.iterdir())
