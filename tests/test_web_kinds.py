"""Pages of other policies: continuous actions, networks without a memory, int8 weights; a view that follows."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_web
from bounded import HEAD, bounded_bundle
from chromium import Browser
from networks import random_bundle
from searched import WIDTH, searching_bundle
from test_web import ROOT, STEPS, needs_browser, needs_compiler, payload

from mast_export.c.source import generate
from mast_export.quantise import quantise
from mast_export.web import wasm
from mast_export.web.page import Played, _trace, build
from mast_runtime import Bundle, Contract
from mast_runtime.head import Head
from mast_train.commands.explore import _frames, watch
from mast_train.commands.play import Picture
from mast_train.envs.box import Box
from mast_train.envs.points import BOX
from mast_train.envs.scene import Circle, Line, Scene
from mast_train.settings.config import EnvConfig

SIZES = [len(row) for row in HEAD.low]
ZIG = ("cc", "-target", "wasm32-freestanding")
DECIDE = """async (program, observed) => {
  const bytes = Uint8Array.from(atob(program), (c) => c.charCodeAt(0));
  const { act, reset, obs_at, obs_size, last_at, action_size, memory } =
    (await WebAssembly.instantiate(bytes, {})).instance.exports;
  const obs = new Float32Array(memory.buffer, obs_at(), obs_size());
  reset();
  try {
    return observed.map((row) => {
      obs.set(row);
      return act() === 0 ? [...new Float32Array(memory.buffer, last_at(), action_size())] : null;
    });
  } catch (error) { return String(error); }
}"""


def continuous(bundle: Bundle, steps: int = STEPS) -> tuple[Played, dict[str, np.ndarray]]:
    """Random observations of a continuous team, and what the reference makes of them: q, hidden, actions [T,N,...]."""
    rng, n = np.random.default_rng(0), len(bundle.agents)
    obs = rng.standard_normal((steps, n, bundle.contract.obs_dim)).astype(np.float32)
    team: Any = bundle.team(backend="reference")
    found: dict[str, list] = {"q": [], "hidden": [], "action": [], "units": []}
    for row in obs:
        found["units"].append(team.act(row))
        found["q"].append(team.q)
        found["hidden"].append(team.hidden)
        found["action"].append(team.scaled)
    has = np.broadcast_to(Box(HEAD.low, HEAD.high).has[:n], (steps, n, 3))
    arrays = {name: np.array(rows) for name, rows in found.items()}
    reward = np.ones(steps, np.float32)
    shapes = [["l", 0, 0, 1, 1, "#ff0000", 0.1, 1]]
    frames, views = [shapes] * (steps + 1), [(-1.0 + t, -1.0, 2.0, 2.0) for t in range(steps + 1)]
    return Played(obs, has, arrays["action"], reward, frames, views, [], "three", "Finished"), arrays


def opened(browser: Browser, path, html: bytes) -> dict:
    path.write_bytes(html)
    browser.open(path.as_uri() + "#step=7&agent=2")
    browser.wait(f"{ROOT}?.dataset.ready === 'yes'")
    assert browser.faults == []
    return browser.value(f"({{...{ROOT}.dataset}})")


@needs_compiler
@needs_browser
def test_continuous_actions_in_the_page_are_the_references(tmp_path):
    """With a memory and a rate limit, of agents with three, one and two components; of one without a memory, and of one
    that searches."""
    three, alone = bounded_bundle(1, 0.05, hidden=24), bounded_bundle(1, hidden=24, memory=False)
    searched = searching_bundle(3, hidden=20)
    with Browser(tmp_path / "profile") as browser:
        alone, searched = (replace(bundle, agents=bundle.agents[:1]) for bundle in (alone, searched))
        for i, bundle in enumerate((three, alone, searched)):
            played, wanted = continuous(bundle)
            seen = opened(browser, tmp_path / f"{i}.html", build(bundle, played))
            assert (seen["decisions"], seen["equalSparse"], seen["equalDense"]) == (
                str(len(bundle.agents) * STEPS),
            ) * 3
            for name in ("q", "action", "units"):
                found = browser.value(f"page.decided.sparse.map((steps) => steps.map((s) => [...s.{name}]))")
                for k in range(len(bundle.agents)):
                    size = WIDTH if name == "q" and bundle is searched else SIZES[k]
                    assert np.array(found[k]) == pytest.approx(wanted[name][:, k, :size], abs=1e-4)
            check_activity(browser, bundle, played, wanted)
            check_words(browser, bundle, wanted)
            assert browser.value("document.querySelector('#battle svg').getAttribute('viewBox')") == "6 -1 2 2"
            assert browser.value(test_web.DRAWN) > 5000


@needs_compiler
@needs_browser
@pytest.mark.parametrize("zig", [False, True])
def test_a_search_of_many_candidates_has_its_stack_and_traps_without(zig, tmp_path, monkeypatch):
    """Its arrays are larger than the tables; the module must not write over those, however small its stack."""
    if zig:
        pytest.importorskip("ziglang")
        monkeypatch.setattr(wasm, "find_compiler", lambda: (sys.executable, "-m", "ziglang", *ZIG))
    bundle = searching_bundle(3, hidden=12, candidates=16_000, elites=16_000)
    bundle = replace(bundle, agents=bundle.agents[:1])
    played, wanted = continuous(bundle, 3)
    trace = _trace(bundle, played)
    assert generate(bundle, 0, trace).stack_bytes > 300_000 and np.ptp(wanted["action"], 0).max() > 0.5
    modules = [wasm.compiled(bundle, 0, trace)]
    monkeypatch.setattr(wasm, "_stack", lambda source: 65_536)
    modules.append(wasm.compiled(bundle, 0, trace))
    with Browser(tmp_path / "profile") as browser:
        for module, fits in zip(modules, (True, False), strict=True):
            program = json.dumps(base64.b64encode(module).decode())
            found = browser.value(f"({DECIDE})({program}, {json.dumps(played.obs[:, 0].tolist())})")
            if fits:
                assert np.array(found) == pytest.approx(wanted["action"][:, 0, : SIZES[0]], abs=1e-4)
            else:
                assert "memory access out of bounds" in found


def check_words(browser: Browser, bundle: Bundle, wanted: dict[str, np.ndarray]) -> None:
    last, words = len(bundle.agents) - 1, browser.value("document.querySelector('#said').textContent")
    bounds = [f"{low:g} to {high:g}" for low, high in zip(HEAD.low[last], HEAD.high[last], strict=True)]
    digits = (3, 2) if last else (3, 2, 3)
    each = zip(wanted["units"][7, last], digits, bounds, strict=False)
    said = ", ".join(f"{value:.{places}f} of {bound}" for value, places, bound in each)
    assert f"takes the action {said}. " in words
    assert browser.value("document.querySelectorAll('#strip polyline').length") == sum(SIZES[: last + 1])


def check_activity(browser: Browser, bundle: Bundle, played: Played, wanted: dict[str, np.ndarray]) -> None:
    """What the drawing lights at step 7 of agent 0: it reads its last action, and its outputs are the reference's."""
    found = browser.value(
        "(({ x, h }) => [[...x], [...h]])(activity(page.data, page.data.agents[0], page.decided.sparse[0][7]))"
    )
    x = np.concatenate([played.obs[7, 0], wanted["action"][6, 0]])
    network = bundle.networks[0]
    assert np.array(found[0])[: x.size] == pytest.approx(x, abs=1e-4)
    q = network.fc2.dense() @ np.array(found[1]) + network.fc2_bias
    assert q == pytest.approx(wanted["q"][7, 0], abs=1e-3)
    if network.architecture.endswith("-critic"):
        flow = browser.value("[...activity(page.data, page.data.agents[0], page.decided.sparse[0][7]).flow.fc3]")
        read = np.maximum(q + network.act.dense() @ wanted["action"][7, 0], 0.0)
        assert sum(flow) == pytest.approx(network.fc3.dense()[0] @ read, abs=1e-3)


@needs_compiler
@needs_browser
def test_choices_without_a_memory_and_of_int8_weights(tmp_path):
    small = random_bundle(2, n_agents=1, obs_dim=20, n_actions=7, hidden=16, memory=False)
    narrow = quantise(random_bundle(3, n_agents=1, obs_dim=20, n_actions=7, hidden=16, sparsity=0.8), "i8")
    with Browser(tmp_path / "profile") as browser:
        for name, bundle in (("small", small), ("narrow", narrow)):
            played = test_web.episode(bundle)
            seen = opened(browser, tmp_path / f"{name}.html", build(bundle, played))
            assert (seen["decisions"], seen["equalSparse"], seen["equalDense"]) == (str(STEPS),) * 3
            team = bundle.team(backend="reference")
            q = []
            for step in zip(played.obs, played.avail_actions, strict=True):
                team.act(*step)
                q.append(team.q)
            found = browser.value("page.decided.sparse.map((steps) => steps.map(({ q }) => [...q]))")
            assert np.array(found).transpose(1, 0, 2) == pytest.approx(np.array(q), abs=1e-3)


@needs_compiler
def test_an_episode_of_continuous_actions_becomes_a_page(tmp_path):
    head = Head(BOX.low, BOX.high)
    contract = Contract(4, 2, 2, head=head)
    random = random_bundle(1, 2, 4, 2, hidden=16)
    bundle = replace(random, contract=replace(contract, agent_id=random.contract.agent_id))
    episode = watch(bundle, EnvConfig("points", "meet"), 0, "auto", None, tmp_path / "a.html", 8.0)
    data = payload((tmp_path / "a.html").read_bytes())
    assert data["contract"]["continuous"] and len(data["frames"]) == episode.steps + 1
    assert [(agent["low"], agent["high"]) for agent in data["agents"]] == [
        ([-0.25, -0.25], [0.25, 0.25]), ([-0.1], [0.3]),
    ]  # fmt: skip
    assert sum(data["reward"]) == pytest.approx(episode.episode_return, abs=1e-3)


def test_a_view_that_follows_goes_along_at_one_scale():
    def scene(x: float, width: float = 1.0) -> Scene:
        return Scene(
            (Line((x, 0.0), (x + 1.0, 0.0), (0, 0, 0), 0.2, round=True),),
            corners=((x, 0.0), (x + width, 1.0)),
            follows=True,
        )

    frames, views, _ = _frames([scene(0.0), scene(5.0, 2.0), scene(40.0)])
    assert frames[0] == [["l", 0.0, -0.0, 1.0, -0.0, "#000000", 0.2, 1]]
    middles = [left + width / 2 for left, _, width, _ in views]
    assert middles == pytest.approx([0.5, 6.0, 40.5]) and len({round(width, 6) for *_, width, _ in views}) == 1
    still: list[Picture] = [Scene((Circle((x, 0.0), 1.0, (0, 0, 0)),)) for x in (0.0, 9.0)]
    assert len(_frames(still)[1]) == 1
