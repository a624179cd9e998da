"""mast export --format c of continuous actions and of networks without a memory: the runtime's actions."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from bounded import HEAD, bounded_bundle, by_hand
from networks import random_bundle
from test_c_export import EXACT, STRICT, compiler, record, run
from test_c_prefix import bare, on_chip

from mast_export.bounded import bounds
from mast_export.c.build import build, find_compiler, parse_bits
from mast_export.c.source import generate
from mast_export.errors import ExportError
from mast_export.formats.c import export_c
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import Bundle
from mast_runtime.head import Head
from mast_runtime.network import LAYERS

BLOCKS = {"mid": 16, "fc1": 8, "fc2": 8}
CASES = {
    "gru": {"hidden": 40, "sparsity": 0.8},
    "limited": {"hidden": 24, "rate_limit": 0.04},
    "shared": {"hidden": 24, "sparsity": 0.7, "shared": True},
    "blocks": {"hidden": 37, "sparsity": 0.8, "blocks": dict.fromkeys(LAYERS, 8)},
    "dense": {"hidden": 21, "fc1": 12, "sparsity": None, "rate_limit": 0.2},
    "mlp": {"hidden": 40, "fc1": 24, "memory": False},
    "mlp blocks": {"hidden": 45, "memory": False, "blocks": BLOCKS, "rate_limit": 0.1},
    "mlp shared dense": {"hidden": 20, "memory": False, "sparsity": None, "shared": True},
}


def traced(bundle: Bundle, steps: int = 200, seed: int = 0) -> Trace:
    """Random observations, and what the reference makes of them where a rate limit never held an action back."""
    head = bundle.contract.head
    assert head is not None
    obs = np.random.default_rng(seed).standard_normal((steps, 3, 20)).astype(np.float32)
    free = replace(bundle, contract=replace(bundle.contract, head=replace(head, rate_limit=None)))
    team, q, hidden = free.team(backend="reference"), [], []
    for row in obs:
        team.act(row)
        q.append(team.q.copy())
        hidden.append(team.hidden.copy())
    has = np.broadcast_to(np.arange(3) < np.array([[len(low)] for low in head.low]), (steps, 3, 3))
    return Trace(obs, has, np.array(q), np.array(hidden), None, {}, head, (0, 1, 2))


def write(bundle: Bundle, k: int, folder, trace: Trace):
    """The files of agent k alone, built by nobody yet."""
    folder.mkdir()
    for name, text in generate(bundle, k, trace.agent(k)).files.items():
        (folder / name).write_text(text)
    return folder


@compiler
@pytest.mark.parametrize(("name", "k"), [(name, i % 3) for i, name in enumerate(CASES)])
def test_strict_builds_take_the_runtimes_actions(name, k, tmp_path):
    """Of agents with three, one and two components; their self-tests and refusals are part of the program."""
    bundle = bounded_bundle(3, **CASES[name])
    trace = traced(bundle)
    build(find_compiler(), write(bundle, k, tmp_path / "c", trace), tmp_path / "test", STRICT)
    assert "200 steps: the actions" in run(tmp_path / "test").stdout
    size = len(HEAD.low[k])
    actions, q, _ = parse_bits(run(tmp_path / "test", "bits").stdout, size, continuous=True)
    last = trace.last_actions
    low, high, _ = bounds(HEAD, (0, 1, 2), 3)
    done = low + (last.astype(np.float64) + 1) / 2 * (high - low)
    # what was executed after step t is the last action of step t + 1
    expected_q, expected = by_hand(bundle, trace.obs, np.concatenate([done[1:], done[:1]]))
    np.testing.assert_allclose(q, expected_q[:, k, :size], atol=2e-5)
    share = np.abs(actions - expected[:, k, :size]) / (high - low)[k, :size]
    assert share.max() < 2e-5 and np.ptp(actions, 0).max() > 0


@compiler
@pytest.mark.parametrize("name", ["limited", "mlp"])
def test_a_team_is_verified_by_the_rule(name, tmp_path):
    bundle = bounded_bundle(3, **CASES[name])
    for file in export_c(bundle, tmp_path / "c", None, traced(bundle)):
        assert file.report is not None and file.report.passed and file.report.actions_equal == 200
        assert file.report.max_action_error is not None and file.report.max_action_error < 1e-5


@compiler
def test_ranges_that_are_narrow_and_far_from_zero(tmp_path):
    bundle = bounded_bundle(3, hidden=12)
    head = Head(
        ((35.9, 99.9, 1000.0), (0.5235,), (-100.1, 7.0)), ((36.1, 100.1, 1000.1), (0.5245,), (-99.9, 7.01)), None
    )
    bundle = replace(bundle, contract=replace(bundle.contract, head=head))
    assert all(file.report and file.report.passed for file in export_c(bundle, tmp_path / "c", None, traced(bundle)))


@compiler
@pytest.mark.parametrize("name", ["limited", "mlp blocks"])
def test_sanitizers_and_every_optimisation(name, tmp_path):
    """Also as C++17; no bit depends on how it is built."""
    bundle = bounded_bundle(3, **CASES[name])
    folder = write(bundle, 2, tmp_path / "c", traced(bundle, 20))
    outputs, checked = set(), ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for flags in ((*EXACT, "-O1", *checked), ("-x", "c++", "-std=c++17", "-ffp-contract=off")):
        try:
            build(find_compiler(), folder, tmp_path / "test", flags)
        except ExportError as error:
            if "sanitize" in str(error) or "asan" in str(error):
                pytest.skip(f"no sanitizers: {error}")
            raise
        assert "the actions" in run(tmp_path / "test").stdout
        outputs.add(run(tmp_path / "test", "bits").stdout)
    assert len(outputs) == 1


@compiler
@pytest.mark.parametrize(("dtype", "blocks"), [("f32", {}), ("f16", BLOCKS)])
def test_choices_without_a_memory(blocks, dtype, tmp_path):
    bundle = quantise(random_bundle(5, memory=False, hidden=40, fc1=24, blocks=blocks), dtype)
    trace = record(bundle)
    (file,) = export_c(bundle, tmp_path / "c", 1, trace)
    assert file.report is not None and file.report.passed and file.report.actions_equal == 200
    assert file.report.dtype == dtype
    build(find_compiler(), file.path, tmp_path / "test", STRICT)
    assert "200 steps: the actions" in run(tmp_path / "test").stdout
    actions, q, hidden = parse_bits(run(tmp_path / "test", "bits").stdout, 7)
    assert np.array_equal(actions, trace.actions[:, 1]) and not hidden.size
    assert np.abs(q - trace.q[:, 1]).max() < 1e-4
    header = (file.path / "src" / "policy.h").read_text()
    assert "hidden" not in header and "POLICY_HIDDEN" not in header


@compiler
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
@pytest.mark.parametrize("name", ["limited", "mlp"])
def test_only_the_api_is_exported_and_every_name_has_the_prefix(name, tmp_path):
    bundle = bounded_bundle(3, **CASES[name])
    (file,) = export_c(bundle, tmp_path / "c", 0, traced(bundle, 20), "f32", "arm")
    source = file.path / "src"
    subprocess.run([*find_compiler(), *STRICT, "-Wconversion", "-c", "arm.c"], cwd=source, check=True)
    symbols = [line.split()[-2:] for line in run("nm", "arm.o", prefix=("env", "-C", source)).stdout.splitlines()]
    public = {name for kind, name in symbols if kind.isupper() and kind != "U"}
    assert public == {"arm_act", "arm_reset", "arm_executed", "arm_low", "arm_high"}
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
    header = (source / "arm.h").read_text()
    assert "#define ARM_CONTINUOUS 1" in header and ("ARM_RATE_LIMIT 0.04f" in header) == (name == "limited")
    assert "within [-0.25, 0.25] [-2, 5] [0, 1]" in header
    sketch = (file.path / "examples" / "arm" / "arm.ino").read_text()
    assert "arm_act(&state, obs, action) != 0" in sketch


@compiler
def test_what_is_executed_is_the_next_last_action(tmp_path):
    """In the action's units, beyond the bounds as the bound; a limit counts from it."""
    bundle = bounded_bundle(3, 0.04, hidden=16)
    trace = traced(bundle, 6)
    folder = write(bundle, 0, tmp_path / "c", trace)
    (folder / "main.c").write_text(
        '#include "policy.h"\n#include "policy_trace.h"\n#include <stdio.h>\n'
        "int main(void) {\n policy_state s;\n float a[3];\n policy_reset(&s);\n"
        " for (int t = 0; t < 6; t++) {\n  const float done[3] = {0.1f * (float)t, 9.0f, 0.25f};\n"
        "  if (policy_act(&s, policy_trace_obs[t], a)) return 1;\n"
        '  printf("%.9g %.9g %.9g\\n", (double)a[0], (double)a[1], (double)a[2]);\n'
        "  if (policy_executed(&s, done)) return 2;\n }\n return 0;\n}\n"
    )
    command = [*find_compiler(), *STRICT, "-o", "main", "policy.c", "main.c"]
    subprocess.run([flag for flag in command if flag != "-Werror"], cwd=folder, check=True, capture_output=True)
    found = np.array([line.split() for line in run(folder / "main").stdout.splitlines()], float)
    done = np.zeros((6, 3, 3), np.float32)
    done[:, 0] = np.array([[0.1 * t, 9.0, 0.25] for t in range(6)])
    done[:, 2, 0] = 3.0
    _, expected = by_hand(bundle, trace.obs, done)
    np.testing.assert_allclose(found, expected[:, 0], atol=2e-5)


def both_tests_see(folder, changes):
    """The host's test and the target's self-test pass on the export as it is, and fail after each of the changes."""
    good = (folder / "policy.c").read_text()
    (folder / "main.c").write_text('#include "policy.h"\nint main(void) { return policy_selftest(); }\n')
    parts = [*find_compiler(), "-DPOLICY_SELFTEST", "policy.c", "policy_selftest.c"]
    for old, new in {**changes, "": ""}.items():
        assert old in good
        (folder / "policy.c").write_text(good.replace(old, new))
        for program, main in (("test", "policy_test.c"), ("try", "main.c")):
            subprocess.run([*parts, main, "-o", program], cwd=folder, check=True)
            passed = subprocess.run([folder / program], capture_output=True).returncode == 0
            assert passed == (not old), (old, program)


@compiler
def test_a_wrong_table_fails_the_tests(tmp_path):
    """One bias, one bound, one last action: the host's test and the target's self-test both see it."""
    bundle = bounded_bundle(3, hidden=24)
    folder = write(bundle, 0, tmp_path / "c", traced(bundle))
    changes = {
        "fc2_bias[] = {\n    0.5f": "fc2_bias[] = {\n    0.51f",
        "half_range[] = {\n    0.25f": "half_range[] = {\n    0.2f",
        "middle[] = {\n    0.0f": "middle[] = {\n    0.01f",
        "copy(x + OBS, state->last_action, ACTIONS)": "copy(x + OBS, state->q, ACTIONS)",
        "half_range[k], policy_low": "half_range[0], policy_low",
    }
    both_tests_see(folder, changes)


@bare
@pytest.mark.parametrize("name", ["limited", "mlp"])
def test_on_a_bare_chip(name, tmp_path):
    """The program compares every action with the runtime's."""
    bundle = bounded_bundle(3, **CASES[name])
    write(bundle, 0, tmp_path / "c", traced(bundle, 12))
    assert "the actions of the runtime" in on_chip(tmp_path / "c", "m0")
