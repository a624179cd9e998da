"""Policies in fixed point: the numpy reference and the compiled C to the bit, their limits, the actions taken."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from networks import random_bundle
from test_c_export import EXACT, STRICT, compiler, record, run

from mast_export import fixed as fixed_module
from mast_export.c import fixed_source, trials
from mast_export.c.build import build, find_compiler, parse_bits
from mast_export.c.source import generate
from mast_export.errors import ExportError
from mast_export.fixed import MEMORY, Fixed, fix, tanh_table
from mast_export.fixed_rows import LEVELS
from mast_export.formats import c as c_format
from mast_export.formats.c import export_c
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import Layer
from mast_runtime.network import LAYERS

WARNED = (*STRICT, "-Wconversion", "-Wpedantic", "-Wsign-conversion")
CASES = {
    "unstructured": {"hidden": 64, "sparsity": 0.95},
    "16x1 ragged": {"hidden": 37, "fc1": 41, "blocks": dict.fromkeys(LAYERS, 16)},
    "dense": {"hidden": 33, "fc1": 20, "sparsity": None},
    "nearly empty": {"hidden": 5, "sparsity": 0.999},
    "wide": {"hidden": 20, "fc1": 120, "obs_dim": 150, "sparsity": 0.02},
    "far apart": {"hidden": 9, "fc1": 90, "obs_dim": 250, "sparsity": 0.985},
    "shared": {"hidden": 32, "shared": True},
}


def fixed(bundle, trace, k=0) -> Fixed:
    """The integers of agent k, as an export of it has them."""
    source = generate(bundle, k, trace.agent(k), fixed=True)
    assert source.fixed is not None
    return source.fixed


def write(bundle, k, folder, trace) -> Fixed:
    """The files of agent k, and the integers in them."""
    folder.mkdir()
    source = generate(bundle, k, trace.agent(k), fixed=True)
    for name, text in source.files.items():
        (folder / name).write_text(text)
    assert source.fixed is not None
    return source.fixed


@compiler
@pytest.mark.parametrize("name", CASES)
def test_c_computes_the_references_bits_without_a_warning(name, tmp_path):
    """With the recorded last actions, in policy_act and policy_act_i16; under sanitizers, which see any overflow."""
    bundle = random_bundle(3, 2, **CASES[name])
    trace = record(bundle, 100)
    integers = write(bundle, 1, tmp_path / "c", trace)
    build(find_compiler(), tmp_path / "c", tmp_path / "test", (*WARNED, "-fsanitize=address,undefined"))
    assert "100 steps: the actions" in run(tmp_path / "test").stdout
    found = parse_bits(run(tmp_path / "test", "bits").stdout, bundle.contract.n_actions, np.int32)
    for there, here in zip(found, integers.play(trace.agent(1)), strict=True):
        assert np.array_equal(there, here)
    assert (found[0] == trace.actions[:, 1]).mean() >= 0.99


@compiler
def test_observations_far_from_the_recorded_ones(tmp_path):
    """Mixed units; huge, tiny, halves of integers: C and numpy agree on every bit, and sums stay within 32 bits."""
    bundle, rng = random_bundle(5, 1, hidden=24, sparsity=0.8), np.random.default_rng(0)
    contract, network = bundle.contract, bundle.networks[0]
    units = 10.0 ** rng.integers(-3, 4, contract.input_dim)
    units[contract.obs_dim :] = 1.0
    layer = Layer.from_dense(network.fc1.dense() / units, network.fc1.mask())
    bundle = replace(bundle, networks=(replace(network, fc1=layer),))
    recorded = record(bundle, 40, change=lambda n: np.diag(units[:n]))
    integers = write(bundle, 0, tmp_path / "c", recorded)
    step = 2.0 ** -integers.obs_bits.astype(np.float64)
    assert np.ptp(integers.obs_bits) > 7 and "policy_obs_bits[]" in (tmp_path / "c" / "policy.c").read_text()
    wild = rng.standard_normal((400, contract.obs_dim)) * 10.0 ** rng.integers(-38, 38, (400, 1))
    wild[:100] = np.rint(wild[:100] * 8) / 2 * step
    wild[100:104] = np.array([[3.4e38], [-3.4e38], [1e-45], [-0.0]])
    wild[104:200] = rng.choice([-1, 1], (96, len(step))) * 3e38
    flags = np.ones((400, 1, contract.n_actions), bool)
    q, hidden = (np.resize(x, (400, *x.shape[1:])) for x in (recorded.q, recorded.hidden))
    trace = Trace(wild[:, None].astype(np.float32), flags, q, hidden)
    header = trials.fixed_trials(integers, trace).header
    words = {"prefix": "policy", "PREFIX": "POLICY", "Q_TYPE": "int32_t", "Q_COUNT": "7", "HIDDEN_TYPE": "int16_t"}
    for name, word in words.items():
        header = header.replace(f"@{name}@", word)
    (tmp_path / "c" / "policy_trace.h").write_text(header)
    build(find_compiler(), tmp_path / "c", tmp_path / "test", (*EXACT, "-O1", "-fsanitize=undefined"))
    assert "400 steps: the actions" in run(tmp_path / "test").stdout
    found = parse_bits(run(tmp_path / "test", "bits").stdout, contract.n_actions, np.int32)
    assert all(np.array_equal(*pair) for pair in zip(found, integers.play(trace), strict=True))


def test_the_step_is_the_networks_by_a_slow_loop():
    """Real arithmetic on the integers' meanings, one unit at a time: they agree but for what rounding costs."""
    bundle = random_bundle(1, hidden=12, obs_dim=6, sparsity=0.5)
    trace, network = record(bundle), bundle.networks[0]
    played = fixed(bundle, trace).play(trace.agent(0))
    w, h = {name: layer.dense() for name, layer in network.layers().items()}, np.zeros(12)
    for t in range(20):
        x = np.concatenate([trace.obs[t, 0], np.arange(7) == trace.last_actions[t, 0]])
        y = [max(0.0, sum(w["fc1"][j, i] * x[i] for i in range(13)) + network.fc1_bias[j]) for j in range(12)]
        new = []
        for i in range(12):
            a = [sum(w["weight_ih"][g * 12 + i, j] * y[j] for j in range(12)) for g in range(3)]
            b = [sum(w["weight_hh"][g * 12 + i, j] * h[j] for j in range(12)) for g in range(3)]
            r, z = (1 / (1 + np.exp(-(a[g] + b[g] + network.gru_bias[g, i]))) for g in (0, 1))
            n = np.tanh(a[2] + network.gru_bias[2, i] + r * (b[2] + network.gru_bias[3, i]))
            new.append((1 - z) * n + z * h[i])
        h = np.array(new)
        assert np.abs(played[2][t] / MEMORY - h).max() < 0.02


def test_tanh_by_straight_lines():
    points = np.linspace(-4, 4, 129)
    assert np.abs(tanh_table() / MEMORY - np.tanh(points)).max() < 4e-4
    fine = np.linspace(-4, 4, 10_001)
    assert np.abs(np.interp(fine, points, tanh_table() / MEMORY) - np.tanh(fine)).max() < 3e-4


def test_weights_fit_and_connections_far_apart_are_reached():
    bundle = random_bundle(3, **CASES["far apart"])
    integers = fixed(bundle, record(bundle))
    for rows in (integers.fc1, integers.middle, integers.fc2):
        assert np.abs(rows.weights).max() <= LEVELS and np.ptp(rows.shifts) <= 3 and rows.shifts.min() >= 0
    tables = {table.name: table for table in fixed_source.tables(integers)}
    rows, connections = tables["rows"].values, tables["connections"].values.tolist()
    rebuilt = np.zeros_like(integers.fc1.weights)
    for row, head in zip(rebuilt, rows, strict=False):
        column = 0
        for packed in [connections.pop(0) for _ in range(head >> 2)]:
            column += packed & 63
            row[column] += packed >> 6
    assert np.array_equal(rebuilt, integers.fc1.weights)
    assert max(np.diff(np.flatnonzero(row)).max(initial=0) for row in rebuilt) > 63


def test_rounding_serves_what_was_recorded():
    """Observations move together, as they do in an environment: errors that cancel beat the nearest integers."""
    plain = fitted = 0.0
    for seed in range(2):
        bundle, rng = random_bundle(seed, 1, hidden=48, sparsity=0.9), np.random.default_rng(seed)
        trace = record(bundle, change=lambda n, rng=rng: rng.standard_normal((n, 3)) @ rng.standard_normal((3, n)) / n)
        integers = fix(bundle.contract, bundle.networks[0], trace)
        fitted += np.abs(integers.play(trace)[1] * integers.unit - trace.q[:, 0]).mean()
        nearest = fixed_module._fix(bundle.contract, bundle.networks[0], trace, ridge=1e9)
        plain += np.abs(nearest.play(trace)[1] * nearest.unit - trace.q[:, 0]).mean()
    assert 0 < fitted < 0.85 * plain


def test_a_bundle_of_int8_weights_is_in_fixed_point():
    bundle = quantise(random_bundle(3, hidden=16), "i8")
    assert generate(bundle, 0, record(bundle, 20).agent(0)).fixed is not None


def test_it_is_verified_without_a_compiler(tmp_path, monkeypatch):
    bundle = random_bundle(3, hidden=32)
    monkeypatch.setattr(c_format, "find_compiler", list)
    (file,) = export_c(bundle, tmp_path / "c", 0, record(bundle), "i8")
    assert file.report is not None and file.report.agreement >= 0.99


def test_what_integers_cannot_hold_is_refused(tmp_path):
    bundle = random_bundle(3, hidden=16)
    network = bundle.networks[0]
    huge = replace(network.weight_hh, values=network.weight_hh.values * np.float32(1e4))
    bundle = replace(bundle, networks=(replace(network, weight_hh=huge), *bundle.networks[1:]))
    with pytest.raises(ExportError, match="too large for fixed point; export f32 or f16"):
        export_c(bundle, tmp_path / "c", 0, record(bundle, 20), "i8")


def test_other_actions_are_refused(tmp_path):
    bundle = random_bundle(3, hidden=16)
    trace = record(bundle)
    other = replace(trace, q=np.roll(trace.q, 1, 2))
    with pytest.raises(
        ExportError, match=r"takes \d+\.\d% of .* recorded decisions \(at least 99% are needed\) .*export f32"
    ):
        export_c(bundle, tmp_path / "c", 0, other, "i8")


@compiler
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
@pytest.mark.parametrize("standard", ["c99", "c++17"])
def test_no_float_arithmetic_no_libc_nothing_that_changes(standard, tmp_path):
    """Of soft-float targets too: the object asks for no function but what copies memory."""
    bundle = random_bundle(3, hidden=16)
    write(bundle, 0, tmp_path / "c", record(bundle))
    cross = shutil.which("arm-none-eabi-gcc")
    language = ["-x", "c++"] if standard == "c++17" else []
    commands = [[*find_compiler(), *language]]
    if cross:
        commands.append([cross, *language, "-mcpu=cortex-m0", "-mthumb", "-ffreestanding"])
    for command in commands:
        flags = [f"-std={standard}", *WARNED[1:], "-O2", "-c", "policy.c"]
        subprocess.run([*command, *flags], cwd=tmp_path / "c", check=True)
        listing = run("nm", "policy.o", prefix=("env", "-C", str(tmp_path / "c"))).stdout
        symbols = [line.split()[-2:] for line in listing.splitlines()]
        assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
        public = {name for kind, name in symbols if kind.isupper() and kind != "U"}
        assert public == {"policy_act", "policy_act_i16", "policy_reset", "policy_executed"}
        assert not [name for kind, name in symbols if kind in "dDbBC"]


def test_flash_and_memory_of_the_usual_size():
    """Hidden 64, 95 %: what the tables and the state may take of 6 kB of flash and 1 kB of RAM."""
    bundle = random_bundle(1, 1, 66, 14, hidden=64, sparsity=0.95)
    source = generate(bundle, 0, record(bundle).agent(0), fixed=True)
    assert source.table_bytes < 4600
    header = source.files["policy.h"]
    assert "a state 188 bytes, 416 bytes of local arrays" in header
