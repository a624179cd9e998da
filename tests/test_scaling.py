"""Running normalisation: its statistics, folding, and that it is training on observations scaled by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import events, update

from mast_export.export import export_run
from mast_export.extract import record_trace
from mast_runtime import load
from mast_runtime.console import new_console
from mast_train.commands import session
from mast_train.engines import native
from mast_train.envs.base import EnvSpec
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.scaling import Moments, Scaling, Statistics
from mast_train.learning.learner import Learner, scaling
from mast_train.networks.agents import AgentNets
from mast_train.runs.events import Evaluation
from mast_train.runs.folders import find_snapshot
from mast_train.runs.run import Run
from mast_train.runs.tickets import warm_start
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.limits import validate
from mast_train.settings.methods import preset

CPU, GAME = torch.device("cpu"), f"{Path(__file__).parent / 'metres.py'}:Metres"
SPEC = EnvSpec("test", "test", 2, 3, 4, 2, 5, ("car", "car"))


def config(method="dense", **given):
    base = {
        "env.name": "pettingzoo", "env.map": GAME, "env.num_envs": 4, "env.reward_scale": 1.0, "net.hidden": 16,
        "mixer.embed": 8, "mixer.hypernet_hidden": 8, "train.total_steps": 400, "train.epsilon_steps": 400,
        "train.eval_interval": 200, "train.eval_episodes": 4, "train.lr": 2e-3, "sparse.update_interval": 5,
        "replay.batch": 8, "replay.capacity": 60, "replay.recent_batch": 0, "train.save_minutes": 1e6,
        "device": "cpu",
    }  # fmt: skip
    return override(preset(method), {**base, **given})


def episodes(seed=0, lengths=(5, 2, 3)):
    """Random episodes of SPEC; what lies behind an episode's end is large."""
    draw = torch.Generator().manual_seed(seed)
    b, t, (n, o, a, s) = len(lengths), max(lengths), (2, 3, 2, 4)
    filled = torch.arange(t) < torch.tensor(lengths)[:, None]
    seen = torch.arange(t + 1) < torch.tensor(lengths)[:, None]
    obs = torch.randn(b, t + 1, n, o, generator=draw) * torch.tensor([1.0, 300.0, 0.01]) + torch.tensor([0, 5e3, 1.0])
    state = torch.randn(b, t + 1, s, generator=draw) * 7.0 - 2.0
    return EpisodeBatch(
        torch.where(seen[..., None, None], obs, 1e9), torch.where(seen[..., None], state, 1e9),
        torch.ones(b, t + 1, n, a, dtype=torch.bool), torch.zeros(b, t, n, dtype=torch.int64), torch.zeros(b, t),
        torch.zeros(b, t, dtype=torch.bool), torch.zeros(b, t, dtype=torch.bool), filled,
    )  # fmt: skip


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.floats(-1e6, 1e6), st.floats(1e-2, 1e4), st.integers())
@settings(deadline=None, max_examples=40)
def test_moments_in_parts_are_those_of_the_whole(sizes, mean, deviation, seed):
    rng, moments = np.random.default_rng(abs(seed)), Moments(2, 3, CPU)
    values = [(rng.normal(mean, deviation, (size, 2, 3))).astype(np.float32) for size in sizes]
    counted = [rng.random((size, 2)) < 0.7 for size in sizes]
    for value, mask in zip(values, counted, strict=True):
        moments.add(torch.from_numpy(value), torch.from_numpy(mask))
    for group in range(2):
        kept = np.concatenate([v[m[:, group], group] for v, m in zip(values, counted, strict=True)]).astype(np.float64)
        assert moments.count[group] == len(kept)
        if len(kept):
            expected = kept.std(0)
            expected[expected <= 1e-6 * np.abs(kept.mean(0))] = 1.0
            np.testing.assert_allclose(moments.mean[group], kept.mean(0), rtol=1e-6, atol=1e-6 * deviation)
            np.testing.assert_allclose(moments.deviation[group], expected, rtol=1e-4)
        else:
            assert (moments.deviation[group] == 1.0).all()


@pytest.mark.parametrize("shared", [False, True])
def test_counted_are_the_steps_on_which_agents_act(shared):
    """Not the padding, not last observations, not an agent that is gone; but one that observes zeros and may choose."""
    batch = episodes()
    batch.obs[0, 1], batch.avail_actions[0, 1, 0, 1] = 0.0, False  # agent 0 is gone, agent 1 observes zeros
    rows = [[], []]
    for b, t in batch.filled.nonzero().tolist():
        for agent in range(2):
            if (b, t, agent) != (0, 1, 0):
                rows[agent].append(batch.obs[b, t, agent].double().numpy())
    groups = [rows[0] + rows[1]] if shared else rows
    found = Statistics(SPEC, shared, CPU)
    found.add(batch)
    assert found.obs.count.flatten().tolist() == [len(group) for group in groups]
    np.testing.assert_allclose(found.obs.mean, [np.mean(group, 0) for group in groups], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.obs.deviation, [np.std(group, 0) for group in groups], rtol=1e-5)
    states = batch.state[:, :-1][batch.filled].double()
    np.testing.assert_allclose(found.state.deviation[0], states.std(0, correction=0), rtol=1e-5)


def test_a_constant_input_is_moved_to_zero_and_not_stretched():
    found, batch = Statistics(SPEC, False, CPU), episodes()
    batch.obs[..., 2] = 1234.56
    found.add(batch)
    scaled = found.scaling().observed(batch.obs)[:, :-1][batch.filled]
    assert (scaled[..., 2].abs() < 1e-3).all() and (found.scaling().obs_scale[..., 2] == 1.0).all()
    assert found.scaling().obs_scale.isfinite().all()


@pytest.mark.parametrize("shared", [False, True])
def test_a_folded_layer_reads_observations_as_they_are(shared):
    """Two seeds of two agents. Absent weights stay absent, and only connections move the bias: by a loop in float64."""
    statistics = [Statistics(SPEC, shared, CPU) for _ in range(2)]
    for seed, own in enumerate(statistics):
        own.add(episodes(seed))
    both = Scaling.joined([own.scaling() for own in statistics])
    groups, inputs = 2 * (1 if shared else 2), 3 + 2 + 2 * shared
    torch.manual_seed(0)
    nets = AgentNets(groups, inputs, 6, 2)
    nets.seeds = 2
    mask = torch.rand_like(nets.fc1_weight) < 0.5
    with torch.no_grad():
        nets.fc1_weight.mul_(mask)
    nets.requires_grad_(False)
    weight, bias = both.fold(nets.fc1_weight, nets.fc1_bias)
    assert torch.equal(weight != 0, mask)
    assert torch.equal(weight[..., 3:], nets.fc1_weight[..., 3:])
    for g in range(groups):
        mean, scale = both.obs_mean.flatten(0, 1)[g].tolist(), both.obs_scale.flatten(0, 1)[g].tolist()
        for h in range(6):
            moved = sum(float(nets.fc1_weight[g, h, o]) * scale[o] * mean[o] for o in range(3) if mask[g, h, o])
            assert bias[g, h].item() == pytest.approx(float(nets.fc1_bias[g, h]) - moved, rel=1e-6, abs=1e-6)
    obs = torch.cat([episodes(2).obs[:, 0], episodes(3).obs[:, 0]])
    rest = torch.rand(6, 2, inputs - 3)
    hidden = nets.initial_hidden(6, 2)
    expected = nets.step(torch.cat([both.observed(obs), rest], -1), hidden)
    with torch.no_grad():
        nets.fc1_weight.copy_(weight), nets.fc1_bias.copy_(bias)
    for got, want in zip(nets.step(torch.cat([obs, rest], -1), hidden), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


KERNELS = ["torch", pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason=native.status()))]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("unit", [1.0, 2.0**13])
def test_training_is_that_on_observations_scaled_by_hand(kernel, unit):
    """Updates on what the environment gives, with statistics, against updates on the same scaled by hand, without."""
    wanted = config("mast", kernel=kernel, **{"env.options": {"unit": unit}})
    run = Run(override(wanted, {"env.normalise": "running"}))
    list(events(run))
    seen = run.learner.statistics
    mean, deviation = seen.obs.mean.float(), seen.obs.deviation.float()
    own, other = Learner(run.config, run.spec, CPU), Learner(wanted, run.spec, CPU)
    own.statistics = seen
    for step in range(0, 60, 6):
        batch = run.replay.gather(torch.arange(8)) if step == 0 else run.replay.gather(run.replay.draw(run.sampling))
        by_hand = replace(
            batch, obs=(batch.obs - mean) / deviation,
            state=((batch.state.double() - seen.state.mean) / seen.state.deviation).float(),
        )  # fmt: skip
        update(other, by_hand, step)
        update(own, scaling([own]).in_place(batch), step)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_the_unit_of_observations_makes_no_difference():
    """Metres or units of 8192 metres: a power of two, so to the bit."""
    runs = [Run(config(**{"env.normalise": "running", "env.options": {"unit": unit}})) for unit in (1.0, 2.0**13)]
    returns = [[e.return_mean for e in events(run) if isinstance(e, Evaluation)] for run in runs]
    assert returns[0][1:] == returns[1][1:]  # the first was played before anything was seen
    small, large = (run.learner.agents.state_dict() for run in runs)
    assert all(torch.equal(tensor, large[name]) for name, tensor in small.items())


def test_a_run_in_metres_learns_and_leaves_in_every_format(tmp_path):
    """What an evaluation plays, normalised, is what the snapshot and the exports play on observations as they are."""
    wanted = config(**{"env.normalise": "running", "train.total_steps": 1200, "env.options.silent": 1})
    run = Run(wanted, tmp_path)
    told = [event for event in events(run) if isinstance(event, Evaluation)]
    assert told[-1].return_mean > 1.4 * told[0].return_mean > 0
    snapshot = find_snapshot(tmp_path)
    files = export_run(tmp_path, snapshot)
    assert files[0].report.max_hidden_error < 1e-5
    assert load(tmp_path / "policy.mast").info["normalised"]["observations"] == 1200 * 9 // 10
    for request in ({"format_": "onnx"}, {"format_": "c"}, {"dtype": "f16"}):
        assert all(file.report is None or file.report.passed for file in export_run(tmp_path, snapshot, **request))
    trace = record_trace(snapshot, tmp_path / "trace.safetensors")
    seen, last = scaling([run.learner]).observed(torch.from_numpy(trace.obs)), torch.from_numpy(trace.last_actions)
    hidden = run.learner.agents.initial_hidden(1, 2)
    with torch.no_grad():
        for t in range(len(seen)):
            q, hidden = run.learner.agents.step(run.inputs(seen[t : t + 1], last[t : t + 1]), hidden)
            np.testing.assert_allclose(q[0], trace.q[t], atol=1e-4)


def test_a_policy_on_metres_leaves_unscaled_too(tmp_path):
    """Saturated gates amplify float32's rounding a thousandfold: errors that are large, and small beside that noise."""
    list(events(Run(config(**{"net.hidden": 64, "env.options.inputs": 200, "train.total_steps": 40}), tmp_path)))
    snapshot = find_snapshot(tmp_path)
    trace = record_trace(snapshot, tmp_path / "trace.safetensors")
    assert {dtype: noise.shape for dtype, noise in trace.noise.items()} == {"f32": (2,), "f16": (2,), "i8": (2,)}
    assert 1e-5 < trace.noise_of("f32") < 0.01 * trace.noise_of("f16") < 0.5 * trace.noise_of("i8")
    for format_ in ("mast", "onnx", "c"):
        for file in export_run(tmp_path, snapshot, format_):
            assert file.report is None or (file.report.passed and file.report.noise > 1e-5)


def test_networks_of_other_inputs_are_no_start(tmp_path):
    list(events(Run(config(**{"env.normalise": "running", "train.total_steps": 40}), tmp_path)))
    taken = config(**{"train.weights_from": str(tmp_path)})
    run = Run(override(taken, {"env.normalise": "running"}))
    assert run.learner.statistics.obs.count.tolist() == [[40.0], [40.0]]
    with pytest.raises(UserError, match=r"env\.normalise = 'running', not 'off'; keep that"):
        warm_start(taken, run.spec)
    with pytest.raises(UserError, match=r"unknown env\.normalise 'on'"):
        validate(override(taken, {"env.normalise": "on"}))


@pytest.mark.parametrize(
    ("given", "warned"), [({}, True), ({"env.normalise": "running"}, False), ({"env.options.unit": 8.0}, False)]
)
def test_inputs_far_from_one_are_said_once(tmp_path, given, warned):
    out = io.StringIO()
    session.start(config(**{"train.total_steps": 1100, **given}), tmp_path, "x", new_console(file=out, soft_wrap=True))
    lines = [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]
    assert len(lines) == warned
    if warned:
        assert "12 of 12 observation inputs are far from [-1, 1] (inputs 0, 1, 2, " in lines[0]
        assert "--set env.normalise=running" in lines[0]
