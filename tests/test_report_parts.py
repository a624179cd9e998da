"""What reports are made of: statistics by hand, charts, colours that everyone can tell apart, masks as bits."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from mast_train.report import curves
from mast_train.report.masks import decode, encode, png
from mast_train.report.statistics import critical_sparsity, iqm, last_count, pareto, probability_of_improvement, score
from mast_train.report.svg import COLOURS, STROKES, Chart, style, ticks

PAGE = Path(curves.__file__).with_name("page.css").read_text()


def test_a_score_averages_the_papers_twenty_or_the_last_quarter():
    assert [last_count(n) for n in (1, 7, 21, 80, 201)] == [1, 1, 5, 20, 20]
    assert score([0.0, 0.0, 0.0, 0.0, 0.2, 0.4, 0.3, 0.5]) == pytest.approx(0.4)
    assert score([0.1, 0.2, 0.6], last=2) == pytest.approx(0.4)


def test_the_interquartile_mean_and_its_interval():
    found = iqm([[0.0, 0.4, 0.6, 9.0]])
    assert found is not None and found[0] == pytest.approx(0.5) and found[1] < 0.5 < found[2]
    assert iqm([[0.0, 0.4, 0.6, 9.0]]) == found, "a report made twice says the same"
    assert iqm([[0.3, 0.3], [0.3, 0.3]]) == pytest.approx((0.3, 0.3, 0.3))
    assert iqm([[0.5]]) is None and iqm([[0.5, 0.6], [0.5]]) is None


def test_the_probability_of_improvement_counts_pairs():
    found = probability_of_improvement([[1.0, 3.0]], [[2.0, 0.0]])
    assert found is not None and found[0] == pytest.approx(3 / 4)
    assert probability_of_improvement([[1.0]], [[2.0, 0.0]]) is None


def test_the_critical_sparsity_is_where_97_percent_of_dense_is_lost():
    assert critical_sparsity({0.9: 1.0, 0.95: 0.98, 0.99: 0.88}, 1.0) == pytest.approx(0.954)
    assert critical_sparsity({0.9: 0.9, 0.95: 1.0}, 1.0) is None
    assert critical_sparsity({0.95: 1.0, 0.9: 1.0}, 1.0) == 0.95


def test_the_pareto_front_is_what_nothing_beats_in_both():
    assert pareto([(2.0, 0.9), (1.0, 0.5), (1.5, 0.4), (1.0, 0.6), (3.0, 0.9)]) == [3, 0]


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1] and ticks(0, 400_000) == [0, 100_000, 200_000, 300_000, 400_000]
    assert ticks(-0.3, 0.1) == [-0.3, -0.2, -0.1, 0.0, 0.1]


def test_names_of_close_points_do_not_cover_each_other():
    chart = Chart("t", (0, 1), (0, 1), ("x", "y"))
    points = [(0.5 + i / 200, 0.5 + i / 200) for i in range(4)]
    chart.name_points([(point, f"row {i}", f"a row's name {i}") for i, point in enumerate(points)], points)
    found = re.findall(r'class="label" x="([\d.]+)" y="([\d.]+)">', chart.render())
    places = [(float(x), float(y)) for x, y in found]
    assert len(places) == 4
    for i, (x, y) in enumerate(places):
        assert all(abs(x - other) > 60 or abs(y - height) > 10 for other, height in places[:i])


def test_a_mask_travels_as_bits_and_shows_as_a_picture():
    from PIL import Image

    mask = np.random.default_rng(0).random((5, 11)) < 0.3
    assert (decode(encode(mask), [5, 11]) == mask).all()
    image = Image.open(io.BytesIO(base64.b64decode(png(mask).partition(",")[2]))).convert("RGBA")
    assert image.size == (11, 5) and ((np.asarray(image)[..., 3] == 255) == mask).all()


def linear(colour):
    """Linear RGB of "#rrggbb" (sRGB, IEC 61966-2-1)."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2."""
    dark, bright = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


SIGHT = {
    "full": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
"""Linear RGB as it is seen (Machado, Oliveira and Fernandes 2009, severity 1)."""


def seen(colour, sight):
    """OKLab (Ottosson 2020) of a colour."""
    to_cones = [[0.412221, 0.536333, 0.051446], [0.211903, 0.6807, 0.107397], [0.088302, 0.281719, 0.629979]]
    to_lab = [[0.210454, 0.793618, -0.004072], [1.977998, -2.428592, 0.450594], [0.025904, 0.782772, -0.808676]]
    return to_lab @ np.cbrt(to_cones @ np.clip(np.array(SIGHT[sight]) @ linear(colour), 0.0, 1.0))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_rows_are_told_apart_by_every_eye(theme):
    block = re.findall(r":root(?:\[[^]]*\])? \{(.*?)\}", PAGE, re.S)[theme == "dark"]
    found = dict(re.findall(r"--([a-z0-9]+): (#\w{6})", block))
    colours = [found[f"s{i}"] for i in range(COLOURS)]
    assert all(contrast(colour, found["card"]) >= 3.0 for colour in colours), "WCAG's floor for graphics"
    for one, other in itertools.combinations(colours, 2):
        near = {sight: float(np.linalg.norm(seen(one, sight) - seen(other, sight))) for sight in SIGHT}
        assert near["full"] > 0.2 and min(near.values()) > 0.12, (one, other, near)
    if theme == "light":
        assert tuple(colours) == curves.COLOURS and len(curves.STROKES) == STROKES
    assert len({style(row) for row in range(COLOURS * STROKES)}) == COLOURS * STROKES
    assert all(f".k{k}.line" in PAGE for k in range(1, STROKES))
