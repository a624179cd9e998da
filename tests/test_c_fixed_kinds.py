"""Fixed point of continuous actions and of networks without a memory: numpy's bits in C, near the network's actions."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from bounded import HEAD, bounded_bundle
from networks import random_bundle
from test_c_bounded import BLOCKS, traced
from test_c_export import compiler, record, run
from test_c_fixed import WARNED
from test_c_prefix import bare, on_chip

from mast_export.bounded import bounds
from mast_export.c.build import build, find_compiler, parse_bits
from mast_export.c.source import generate
from mast_export.errors import ExportError
from mast_export.fixed import MEMORY, TANH_ERROR, _tanh
from mast_export.formats.c import export_c

BOUNDED = {
    "gru": ({"hidden": 40, "sparsity": 0.8}, 0),
    "limited": ({"hidden": 24, "rate_limit": 0.04, "shared": True, "sparsity": 0.7}, 1),
    "mlp": ({"hidden": 45, "memory": False, "blocks": BLOCKS, "rate_limit": 0.1}, 2),
}


def written(bundle, k, folder, trace):
    """The files of agent k in fixed point, put into a new folder."""
    folder.mkdir()
    source = generate(bundle, k, trace.agent(k), fixed=True)
    for name, text in source.files.items():
        (folder / name).write_text(text)
    return source


@compiler
@pytest.mark.parametrize("name", BOUNDED)
def test_continuous_actions_have_the_references_bits(name, tmp_path):
    """Under sanitizers; the program's own test compares the integers of policy_act_i16 and the self-test's."""
    options, k = BOUNDED[name]
    bundle = bounded_bundle(3, **options)
    trace, size = traced(bundle, 100), len(HEAD.low[k])
    source = written(bundle, k, tmp_path / "c", trace)
    build(find_compiler(), tmp_path / "c", tmp_path / "test", (*WARNED, "-fsanitize=undefined"))
    assert "100 steps: the actions" in run(tmp_path / "test").stdout
    actions, q, hidden = parse_bits(run(tmp_path / "test", "bits").stdout, size, np.int32, continuous=True)
    assert source.fixed is not None
    squashed, expected_q, expected_hidden = source.fixed.play(source.trace)
    assert np.array_equal(q, expected_q) and np.array_equal(hidden, expected_hidden)
    low, high, _ = bounds(HEAD, (0, 1, 2), 3)
    share = (actions - low[k, :size]) / (high - low)[k, :size]
    np.testing.assert_allclose(share, (squashed / MEMORY + 1) / 2, atol=1e-6)
    (file,) = export_c(bundle, tmp_path / "x", k, trace, "i8")
    assert file.report is not None and file.report.passed and file.report.dtype == "i8"
    assert file.report.max_action_error is not None and file.report.max_action_error < 0.01


@compiler
@pytest.mark.parametrize("options", [{"blocks": BLOCKS}, {"sparsity": None}])
def test_choices_without_a_memory_have_the_references_bits(options, tmp_path):
    bundle = random_bundle(5, memory=False, hidden=40, fc1=24, **options)
    trace = record(bundle, 100)
    source = written(bundle, 1, tmp_path / "c", trace)
    build(find_compiler(), tmp_path / "c", tmp_path / "test", (*WARNED, "-fsanitize=undefined"))
    assert "100 steps: the actions" in run(tmp_path / "test").stdout
    actions, q, _ = parse_bits(run(tmp_path / "test", "bits").stdout, 7, np.int32)
    assert source.fixed is not None
    expected = source.fixed.play(source.trace)
    assert np.array_equal(actions, expected[0]) and np.array_equal(q, expected[1])
    assert (actions == trace.actions[:, 1]).mean() >= 0.99
    assert "tanh" not in (tmp_path / "c" / "policy.c").read_text()


def test_the_step_without_a_memory_is_the_networks_by_a_slow_loop():
    """Real arithmetic on the integers' meanings: outputs and actions agree but for what rounding costs."""
    bundle = bounded_bundle(1, memory=False, hidden=12, sparsity=0.5)
    trace, network = traced(bundle), bundle.networks[0]
    source = generate(bundle, 0, trace.agent(0), fixed=True)
    assert source.fixed is not None
    squashed, q, _ = source.fixed.play(source.trace)
    w = {name: layer.dense().tolist() for name, layer in network.layers().items()}
    for t in range(20):
        x = [*trace.obs[t, 0], *trace.last_actions[t, 0]]
        for name, bias in (("fc1", network.fc1_bias), ("mid", network.mid_bias), ("fc2", network.fc2_bias)):
            sums = [b + sum(a * v for a, v in zip(row, x, strict=True)) for row, b in zip(w[name], bias, strict=True)]
            x = sums if name == "fc2" else [max(0.0, s) for s in sums]
        assert np.abs(q[t] * source.fixed.unit - x).max() < 0.02
        assert np.abs(squashed[t] / MEMORY - np.tanh(x)).max() < 0.02


def test_tanh_keeps_its_bound():
    x = np.arange(-(1 << 17), 1 << 17, 7).astype(np.float64)
    assert np.abs(_tanh(x) / MEMORY - np.tanh(x / 8192)).max() < TANH_ERROR


def test_outputs_too_large_are_refused(tmp_path):
    bundle = bounded_bundle(3, hidden=16)
    network = bundle.networks[0]
    object.__setattr__(network, "fc2_bias", network.fc2_bias * np.float32(1e6))
    with pytest.raises(ExportError, match=r"outputs of 1\.5e\+06 are too large for fixed point; export f32 or f16"):
        export_c(bundle, tmp_path / "c", 0, traced(bundle, 20), "i8")


@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="apt install gcc-arm-none-eabi")
def test_the_integer_functions_call_no_float_arithmetic(tmp_path):
    bundle = bounded_bundle(3, 0.1, hidden=16)
    folder = tmp_path / "c"
    written(bundle, 0, folder, traced(bundle, 20))
    flags = ["-std=c99", *WARNED[1:], "-O2", "-mcpu=cortex-m0", "-mthumb", "-ffreestanding", "-ffunction-sections"]
    subprocess.run(["arm-none-eabi-gcc", *flags, "-c", "policy.c"], cwd=folder, check=True)
    said = run("arm-none-eabi-objdump", "-r", "policy.o", prefix=("env", "-C", str(folder))).stdout
    sections = re.findall(r"\[\.text\.(\w+)\]:\n(.*?)(?=\n\n|\Z)", said, re.DOTALL)
    calling = {name for name, records in sections if "__aeabi_" in records}
    assert "policy_act" in calling and not calling & {"policy_act_i16", "policy_executed_i16", "decide", "policy_reset"}


@bare
@pytest.mark.parametrize("integers", [False, True])
def test_on_a_bare_chip(integers, tmp_path):
    bundle = bounded_bundle(3, 0.1, hidden=24)
    written(bundle, 0, tmp_path / "c", traced(bundle, 12))
    flags = ["CFLAGS=-O2 -DINTEGERS"] if integers else []
    assert "the actions of the runtime" in on_chip(tmp_path / "c", "m0", *flags)
