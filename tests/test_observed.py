"""What a run records of its observations, and what an export makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import random_bundle

from mast_export.errors import ExportError
from mast_export.export import export_run
from mast_export.formats.bundle import single
from mast_export.observed import MARGIN, RECORDED_STEPS, Seen, read_names, with_inputs, with_recording
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import load, save
from mast_runtime.selftest.replay import replay
from mast_train import api
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.runs import seen
from mast_train.runs.folders import find_snapshot
from mast_train.runs.run import Run

DATA = Path(__file__).parent / "data"


def episodes(rng, lengths, n_agents=2, obs_dim=3) -> EpisodeBatch:
    b, t = len(lengths), max(lengths)
    obs = torch.from_numpy(rng.standard_normal((b, t + 1, n_agents, obs_dim)).astype(np.float32))
    obs[:, 1, 0] = 0.0  # agent 0 is absent in every second step
    filled = torch.arange(t) < torch.tensor(lengths)[:, None]
    nothing = torch.zeros(b, t)
    avail = torch.ones(b, t + 1, n_agents, 2, dtype=torch.bool)
    return EpisodeBatch(obs, obs[:, :, 0], avail, nothing.long()[..., None], nothing, filled, filled, filled)


def test_what_training_saw_against_a_slow_count():
    rng, spec = np.random.default_rng(0), EnvSpec("test", "map", 2, 3, 3, 2, 8, ("a", "b"))
    record, rounds = seen.Seen(spec, torch.device("cpu")), [episodes(rng, [3, 5]), episodes(rng, [2, 2])]
    rows: list[list[np.ndarray]] = [[], []]
    for batch in rounds:
        record.add(batch)
        for e, length in enumerate(batch.lengths.tolist()):
            for t in range(length):
                for agent in (0, 1):
                    rows[agent].append(batch.obs[e, t, agent].double().numpy())
    found = Seen(**{name: tensor.numpy() for name, tensor in record.state_dict().items()})
    for agent in (0, 1):
        every, there = np.array(rows[agent]), np.array([row for row in rows[agent] if row.any()])
        assert len(there) < len(every) if agent == 0 else len(there) == len(every) == 12
        expected = every.min(0), every.max(0), there.mean(0), there.std(0)
        for value, right in zip(found.pooled([agent]), expected, strict=True):
            np.testing.assert_allclose(value, right, rtol=1e-9, atol=1e-12)
    both = np.array([row for agent in rows for row in agent if row.any()])
    np.testing.assert_allclose(found.pooled([0, 1])[3], both.std(0), rtol=1e-9)
    again = seen.Seen(spec, torch.device("cpu"))
    again.load_state_dict(record.state_dict())
    again.load_state_dict({})
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), record.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="tensor low of shape"):
        again.load_state_dict({"low": torch.zeros(2, 4)})


def trace(bundle, rng, steps=40, scale=1.0) -> Trace:
    c, n = bundle.contract, len(bundle.agents)
    avail = rng.random((steps, n, c.n_actions)) < 0.6
    avail[..., 0] = True
    starts = np.arange(steps) % 7 == 0
    obs = (scale * rng.standard_normal((steps, n, c.obs_dim))).astype(np.float32)
    return Trace(obs, avail, np.zeros(avail.shape, np.float32), np.zeros((steps, n, 1), np.float32), starts)


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
@pytest.mark.parametrize(("shared", "scale"), [(False, 1.0), (True, 1.0), (False, 1e5)])
def test_a_recording_is_what_every_backend_does(tmp_path, dtype, shared, scale):
    bundle, rng = quantise(random_bundle(7, hidden=24, shared=shared), dtype), np.random.default_rng(0)
    recorded = trace(bundle, rng, scale=scale)
    made = with_recording(with_inputs(bundle, Seen.of(recorded.obs)), recorded)
    save(made, tmp_path / "p.mast")
    loaded = load(tmp_path / "p.mast")
    result = replay(loaded)
    assert result.passed, result.checks
    network = loaded.networks[0]
    assert network.recording and network.inputs and len(network.recording) == RECORDED_STEPS
    assert recorded.starts is not None
    for t, step in enumerate(network.recording.steps(network.inputs)):
        span = network.inputs.high - network.inputs.low
        assert (np.abs(np.array(step.obs) - recorded.obs[t, 0]) <= span * (0.5 / 255 + 1e-6)).all()
        assert step.start == recorded.starts[t]
        assert np.all(recorded.avail_actions[t, 0] >= np.frombuffer(step.avail, bool)), "nothing becomes available"


def test_actions_too_near_to_each_other_are_no_choice_in_a_recording():
    bundle, rng = random_bundle(7, n_agents=1, hidden=24), np.random.default_rng(0)
    network = bundle.networks[0]
    twin = network.fc2.dense()
    twin[3] = twin[2]
    bias = network.fc2_bias.copy()
    bias[2:4] = 5.0, 5.0 + MARGIN / 10
    fc2 = type(network.fc2).from_dense(twin, twin != 0.0)
    near = replace(bundle, networks=(replace(network, fc2=fc2, fc2_bias=bias),))
    recorded = trace(near, rng)
    recorded.avail_actions[:, :, 2:4] = True
    made = with_recording(with_inputs(near, Seen.of(recorded.obs)), recorded).networks[0]
    steps = list(made.recording.steps(made.inputs)) if made.recording and made.inputs else []
    assert {step.action for step in steps} == {3} and not any(step.avail[2] for step in steps)


def test_ranges_that_float16_cannot_hold_are_float32():
    bundle = random_bundle(1, n_agents=1, obs_dim=2)
    for low, high, exact in ((0.1, 0.3, False), (1e6, 2e6, True), (1000.0, 1000.5, True), (5.0, 5.0, False)):
        obs = np.array([[[low, -low]], [[high, -high]]], np.float32)
        inputs = with_inputs(bundle, Seen.of(obs)).networks[0].inputs
        assert inputs and (inputs.low <= obs.min((0, 1))).all() and (inputs.high >= obs.max((0, 1))).all()
        assert (inputs.low[0] == np.float32(low)) == (exact or np.float32(np.float16(low)) == np.float32(low))


def test_names_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("wheel angle, rad\n distance \nx, y, m\n")
    assert read_names(path, 3) == [("wheel angle", "rad"), ("distance", ""), ("x, y", "m")]
    for text, message in (
        ("a\nb\n", r"2 lines, the observation has 3 inputs; give each a line"),
        ("a\n\nc\n", r"line 2: '': expected name\[, unit\]"),
        ("a\nb\nb\n", r"'b' names two inputs; give each a name of its own"),
        ("a\nb\n" + "c" * 121, r"line 3: 'c+'*: expected name"),
        ("a\nb\nc\x07\n", r"line 3: 'c\\x07': expected name"),
    ):
        path.write_text(text)
        with pytest.raises(ExportError, match=message):
            read_names(path, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {"env.name": "matrix", "env.map": "two_step", "method": "mast", "sparsity": 0.8}
    folder = tmp_path_factory.mktemp("runs")
    return api.train({**settings, "train.total_steps": 400, "train.eval_interval": 200}, runs=folder, name="game")


def test_a_run_and_its_exports_say_which_policy_it_is(run, tmp_path):
    (tmp_path / "names").write_text("here\nthere, m\nafter\n")
    snapshot, options = find_snapshot(run), {"policy_version": "1.4", "names": tmp_path / "names"}
    (file,) = export_run(run, snapshot, output=tmp_path / "p.mast", **options)
    bundle = load(file.path)
    assert bundle.identity.version == "1.4" and bundle.identity.producer.startswith("mast-marl ")
    inputs = bundle.networks[0].inputs
    assert inputs and inputs.names == ("here", "there", "after") and inputs.units == ("", "m", "")
    assert set(inputs.high) | set(inputs.low) == {0.0, 1.0}, "the game's states, one-hot"
    assert replay(bundle).passed
    recording = bundle.networks[0].recording
    assert recording and list(recording.starts) == [1, 0] * (RECORDED_STEPS // 2), "episodes of two steps"
    again = export_run(run, snapshot, "onnx", output=tmp_path / "onnx", **options)
    import onnx

    model = onnx.load(again[0].path)
    manifest = json.loads(next(prop.value for prop in model.metadata_props if prop.key == "mast"))
    assert manifest["identity"] == bundle.identity._asdict()
    assert manifest["inputs"]["names"] == ["here", "there", "after"] and manifest["inputs"]["units"] == ["", "m", ""]
    assert manifest["inputs"]["low"] == inputs.low.tolist()
    with pytest.raises(ExportError, match=r"--policy-version 'a\\nb': expected at most 60 printable characters"):
        export_run(run, snapshot, output=tmp_path / "p.mast", policy_version="a\nb")


def test_what_was_seen_is_resumed(tmp_path):
    from mast_train.settings.config import Config, override

    values = {"env.name": "matrix", "env.map": "two_step", "train.total_steps": 400}
    one = Run(override(Config(), values), tmp_path)
    one.seen.add(episodes(np.random.default_rng(0), [2], obs_dim=3))
    one.save("interrupted")
    other = Run.resume(tmp_path)
    for a, b in zip(one.seen.state_dict().values(), other.seen.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    one.close()
    other.close()


def test_one_agent_of_3m_with_names_and_an_episode_is_small(tmp_path):
    """hidden 64, 95 % sparsity, int8."""
    team, obs = load(DATA / "3m.mast"), np.load(DATA / "3m-robot.npz")["obs"].astype(np.float32)
    avail = np.ones((len(obs), 1, team.contract.n_actions), bool)
    nothing = np.zeros((len(obs), 1, 1), np.float32)
    recorded = Trace(obs[:, None], avail, np.zeros(avail.shape, np.float32), nothing)
    one = with_recording(quantise(single(team, 0), "i8"), recorded)
    assert one.networks[0].inputs and len(one.networks[0].inputs.names) == 75
    assert save(one, tmp_path / "p.mast") < 8_000
    assert replay(load(tmp_path / "p.mast")).passed
