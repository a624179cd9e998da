"""The page of an episode in a real browser: WebAssembly decides as recorded, and keys, slider and buttons work."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import PROGRAM, Browser
from networks import random_bundle

from mast_export.errors import ExportError
from mast_export.web import page, wasm
from mast_export.web.page import Played, build
from mast_runtime import load
from mast_train.commands.explore import watch
from mast_train.runs.run import build_env
from mast_train.settings.config import EnvConfig
from mast_train.settings.errors import UserError

HERE = Path(__file__).resolve().parent

COMPILER = shutil.which("wasm-ld") is not None or wasm.find_spec("ziglang") is not None
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no compiler for WebAssembly: clang and lld, or ziglang")
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium")
STEPS, LEFT, RIGHT, HOME, END, SPACE = 30, 37, 39, 36, 35, 32
ROOT = "document.documentElement"
DRAWN = """(() => {
  const { width, height } = document.querySelector("#network");
  const pixels = document.querySelector("#network").getContext("2d").getImageData(0, 0, width, height).data;
  return pixels.reduce((n, value, i) => n + (i % 4 === 3 && value > 0), 0);
})()"""


def episode(bundle, seed: int = 0) -> Played:
    """Random observations of a team that acts by the runtime's reference; shapes of every kind, and names to escape."""
    rng = np.random.default_rng(seed)
    contract, n = bundle.contract, len(bundle.agents)
    obs = rng.standard_normal((STEPS, n, contract.obs_dim)).astype(np.float32)
    avail = rng.random((STEPS, n, contract.n_actions)) < 0.6
    avail[..., 0] |= ~avail.any(-1)
    team = bundle.team(backend="reference")
    actions = np.array([team.act(*step) for step in zip(obs, avail, strict=True)])
    shapes = [
        ["c", 1.0, -2.0, 0.5, "#ff0000", "<m>"],
        ["p", [0, 0, 1, 0, 1, 1], "#00ff00"],
        ["l", 0, 0, 2, 2, "#0000ff", 0.1],
    ]
    reward = np.ones(STEPS, np.float32)
    return Played(
        obs,
        avail,
        actions,
        reward,
        [shapes] * (STEPS + 1),
        [(-1, -3, 6, 4)],
        [("allies", "#ff0000")],
        "a <b> & c",
        "Won",
    )


def payload(html: bytes) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(re.search(rb'id="data">([^<]+)<', html)[1])))


@pytest.fixture(scope="module")
def built():
    bundle = random_bundle(n_agents=3, obs_dim=20, n_actions=7, hidden=32, sparsity=0.9)
    return bundle, build(bundle, episode(bundle))


@needs_compiler
def test_a_page_holds_everything_and_nothing_that_is_elsewhere(built):
    bundle, html = built
    text = html.decode()
    assert not re.search(r'(src|href)="(?!data:)|@import|https?://|url\(', text) and "@" not in re.findall(
        r"@[A-Z]+@", text
    )
    assert "<title>a &lt;b&gt; &amp; c</title>" in text and len(html) < 200_000
    data = payload(html)
    layer = data["networks"][1]["layers"]["weight_hh"]
    rows, columns = (np.frombuffer(base64.b64decode(layer[key]), np.uint16) for key in ("rows", "columns"))
    expected = np.argwhere(bundle.networks[1].weight_hh.mask())
    assert np.array_equal(np.stack([rows, columns], 1), expected) and layer["all"] == 96 * 32


@needs_compiler
def test_the_same_team_and_episode_make_the_same_page(built):
    bundle, html = built
    assert build(bundle, episode(bundle)) == html


@needs_compiler
@needs_browser
def test_webassembly_takes_the_recorded_actions_at_every_step(built, tmp_path):
    """And its values are the reference's; a person steps, scrubs, plays, changes agents and weights by keys."""
    bundle, html = built
    (tmp_path / "page.html").write_bytes(html)
    with Browser(tmp_path / "profile") as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.wait(f"{ROOT}?.dataset.ready")
        seen = browser.value(f"({{...{ROOT}.dataset}})")
        assert (seen["decisions"], seen["equalSparse"], seen["equalDense"]) == (str(3 * STEPS),) * 3
        assert float(seen["sparseUs"]) > 0 and float(seen["denseUs"]) > 0
        check_values(browser, bundle)
        check_controls(browser)
        browser.value("(() => { performance.now = () => 7; page.measure(); })()")
        assert "too coarse" in browser.value("document.querySelector('#times').textContent")
        assert browser.value("document.querySelector('#battle text').textContent") == "<m>"
        assert browser.value("document.body.scrollWidth <= innerWidth") and browser.faults == []


def check_values(browser: Browser, bundle) -> None:
    played = episode(bundle)
    team, q, hidden = bundle.team(backend="reference"), [], []
    for step in zip(played.obs, played.avail_actions, strict=True):
        team.act(*step)
        q.append(team.q)
        hidden.append(team.hidden)
    for kind in ("sparse", "dense"):
        found = browser.value(f"page.decided.{kind}.map((s) => s.map(({{q, after}}) => [[...q], [...after]]))")
        for k in range(3):
            assert np.array([row[0] for row in found[k]]) == pytest.approx(np.array(q)[:, k], abs=1e-4)
            assert np.array([row[1] for row in found[k]]) == pytest.approx(np.array(hidden)[:, k], abs=1e-4)
    network, obs = bundle.networks[0], played.obs[0, 0]
    x = np.concatenate([obs, np.zeros(bundle.contract.n_actions)])  # no last action yet
    y = np.maximum(network.fc1.dense() @ x + network.fc1_bias, 0.0)
    h = np.array(hidden)[0, 0]
    fired = [network.fc1.dense() * x, network.weight_ih.dense() * y, network.fc2.dense() * h]
    assert browser.value("activity(page.data, page.data.agents[0], page.decided.sparse[0][0]).fired") == sum(
        np.count_nonzero(part) for part in fired
    )


def check_controls(browser: Browser) -> None:
    def state() -> tuple:
        seen = browser.value(f"({{...{ROOT}.dataset}})")
        return int(seen["step"]), int(seen["agent"]), seen["kind"]

    assert state() == (0, 0, "sparse")
    browser.press("ArrowRight", RIGHT)
    browser.press("ArrowRight", RIGHT)
    browser.press("ArrowLeft", LEFT)
    browser.press("3", 51, "3")
    browser.press("d", 68, "d")
    assert state() == (1, 2, "dense")
    assert browser.value("document.querySelector('#dense').getAttribute('aria-checked')") == "true"
    browser.press("End", END)
    assert state() == (STEPS, 2, "dense")
    assert "return 30.00" in browser.value("document.querySelector('#counter').textContent")
    browser.press("Home", HOME)
    browser.press(" ", SPACE, " ")
    browser.wait(f"Number({ROOT}.dataset.step) >= 2")
    browser.press(" ", SPACE, " ")
    assert browser.value(f"{ROOT}.dataset.playing") == "no"
    browser.value(
        "(() => { const s = document.querySelector('#scrub'); s.value = 7; s.dispatchEvent(new Event('input')); })()"
    )
    browser.value("document.querySelector('[data-agent=\"1\"]').click()")
    browser.value("document.querySelector('#sparse').click()")
    assert state() == (7, 1, "sparse")
    before = browser.value("getComputedStyle(document.body).backgroundColor")
    browser.value("document.querySelector('#theme').click()")
    assert browser.value("getComputedStyle(document.body).backgroundColor") != before
    assert browser.value(DRAWN) > 5000


def test_without_a_compiler_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(wasm.shutil, "which", lambda name: None)
    monkeypatch.setattr(wasm, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="pip install ziglang"):
        wasm.find_compiler.__wrapped__()


def test_a_team_too_large_for_a_page_is_refused(monkeypatch):
    bundle = random_bundle(n_agents=1, hidden=16)
    monkeypatch.setattr(page, "MAX_WEIGHTS", 1000)
    with pytest.raises(ExportError, match="holds up to 1,000 dense weights"):
        build(bundle, episode(bundle))


@needs_compiler
@needs_browser
def test_a_trained_team_on_3m_fits_300_kb_and_decides_as_it_did(tmp_path):
    output = tmp_path / "battle.html"
    bundle = load(HERE / "data" / "3m.mast")
    battle = watch(bundle, EnvConfig("smax", "3m"), 0, "auto", None, output, 8.0)
    assert battle.size_bytes == output.stat().st_size < 300_000 and battle.result in ("won", "lost", "time is up")
    data = payload(output.read_bytes())
    assert len(data["frames"]) == battle.steps + 1 == len(data["reward"]) + 1
    assert sum(data["reward"]) == pytest.approx(battle.episode_return, abs=1e-3)
    assert data["legend"] == [["allies", "#266cb8"], ["enemies", "#c44034"]]
    with Browser(tmp_path / "profile") as browser:
        browser.open(output.as_uri() + "#step=3&agent=1")
        browser.wait(f"{ROOT}?.dataset.ready")
        seen = browser.value(f"({{...{ROOT}.dataset}})")
        assert seen["equalSparse"] == seen["equalDense"] == seen["decisions"] == str(3 * battle.steps)
        assert (seen["step"], seen["agent"]) == ("3", "1") and browser.faults == []


@needs_compiler
def test_rendered_pixels_are_embedded(tmp_path):
    game = EnvConfig("pettingzoo", f"{HERE / 'parallel_games.py'}:Expedition", reward_scale=1.0)
    spec = build_env(replace(game, num_envs=1), 0, torch.device("cpu")).spec
    bundle = random_bundle(n_agents=spec.n_agents, obs_dim=spec.obs_dim, n_actions=spec.n_actions, hidden=16)
    watch(bundle, game, 3, "reference", tmp_path / "a.html", None, 8.0)
    data = payload((tmp_path / "a.html").read_bytes())
    assert data["views"] == []
    assert all(base64.b64decode(frame).startswith(b"\x89PNG") for frame in data["frames"])


@pytest.mark.parametrize(
    ("where", "files", "words"),
    [
        (EnvConfig("smax", "3m"), (None, "a.gif"), "written as .html; name it a.html"),
        (EnvConfig("smax", "3m"), ("a.gif", "a.html"), "give one of them"),
        (EnvConfig("smax", "3m"), (None, "nowhere/a.html"), "there is no folder"),
        (EnvConfig("smax", "3m"), ("a.html", None), "a random team has no network"),
        (EnvConfig("smac", "3m"), ("a.html", None), "written as .SC2Replay"),
    ],
)
def test_pages_that_cannot_be_written(tmp_path, where, files, words):
    output, html = (name and tmp_path / name for name in files)
    with pytest.raises(UserError, match=words):
        watch(None, where, 0, "auto", output, html, 8.0)
    assert not list(tmp_path.iterdir())
