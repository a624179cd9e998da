"""mast export --format c: strict builds, the runtime's actions and bits everywhere, refusals, sanitizers, symbols."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from networks import random_bundle

from mast_export.c import build as build_module
from mast_export.c.build import build, cross_compile, find_compiler, parse_bits
from mast_export.c.source import generate
from mast_export.errors import ExportError
from mast_export.formats import c as c_format
from mast_export.formats.c import export_c
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import load
from mast_runtime.native import missing
from mast_runtime.network import LAYERS

compiler = pytest.mark.skipif(not find_compiler(), reason="no C compiler")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wshadow", "-Wdouble-promotion", "-Werror", "-O2")
EXACT = ("-std=c99", "-ffp-contract=off")
TEAM = Path(__file__).parent / "data" / "3m.mast"
CASES = {
    "unstructured": ({"hidden": 64, "sparsity": 0.95}, "f32"),
    "8x1": ({"hidden": 64, "sparsity": 0.95, "blocks": dict.fromkeys(LAYERS, 8)}, "f32"),
    "16x1 ragged": ({"hidden": 37, "fc1": 41, "blocks": dict.fromkeys(LAYERS, 16)}, "f32"),
    "mixed": ({"hidden": 65, "blocks": {"weight_ih": 16, "weight_hh": 8}}, "f32"),
    "dense": ({"hidden": 33, "fc1": 20, "sparsity": None}, "f32"),
    "nearly empty": ({"hidden": 5, "sparsity": 0.999}, "f32"),
    "wide": ({"hidden": 20, "fc1": 300, "obs_dim": 270, "sparsity": 0.02}, "f32"),
    "8x1 ragged": ({"hidden": 37, "blocks": dict.fromkeys(LAYERS, 8)}, "f32"),
    "f16": ({"hidden": 64}, "f16"),
    "f16 16x1": ({"hidden": 40, "blocks": dict.fromkeys(LAYERS, 16)}, "f16"),
    "shared": ({"hidden": 32, "shared": True}, "f32"),
    "shared dense": ({"hidden": 16, "shared": True, "sparsity": None}, "f16"),
}


def make(name):
    network, dtype = CASES[name]
    return quantise(random_bundle(3, **network), dtype)


def record(bundle, steps=200, backend="reference", change=np.eye):
    """An episode of random observations, times the matrix change(O), as `backend` plays it: a Trace."""
    rng, c, n = np.random.default_rng(1), bundle.contract, len(bundle.agents)
    obs = (rng.standard_normal((steps, n, c.obs_dim)) @ change(c.obs_dim)).astype(np.float32)
    avail = rng.random((steps, n, c.n_actions)) < 0.6
    avail[..., -1] = True
    team, q, hidden = bundle.team(backend=backend), [], []
    for row, flags in zip(obs, avail, strict=True):
        team.act(row, flags)
        q.append(team.q.copy())
        hidden.append(team.hidden.copy())
    return Trace(obs, avail, np.array(q), np.array(hidden))


def write(bundle, k, folder, trace=None):
    """The files of agent k alone, built by nobody yet."""
    folder.mkdir()
    for name, text in generate(bundle, k, trace or record(bundle).agent(k)).files.items():
        (folder / name).write_text(text)
    return folder


def run(program, *arguments, prefix=()):
    return subprocess.run([*prefix, str(program), *arguments], capture_output=True, text=True, timeout=120, check=True)


@compiler
@pytest.mark.parametrize("name", CASES)
def test_strict_build_takes_the_runtimes_actions(name, tmp_path):
    bundle = make(name)
    trace = record(bundle)
    folder = write(bundle, 1, tmp_path / "c", trace.agent(1))
    build(find_compiler(), folder, tmp_path / "test", STRICT)
    assert "200 steps: the actions" in run(tmp_path / "test").stdout
    actions, q, hidden = parse_bits(run(tmp_path / "test", "bits").stdout, bundle.contract.n_actions)
    assert np.array_equal(actions, trace.actions[:, 1])
    assert np.abs(q - trace.q[:, 1]).max() < 1e-4 * max(1.0, np.abs(q).max())
    assert np.abs(hidden - trace.hidden[:, 1]).max() < 1e-4
    if not missing():
        assert np.array_equal(actions, record(bundle, backend="native").actions[:, 1])


@compiler
@pytest.mark.parametrize("name", ["unstructured", "16x1 ragged", "f16", "dense"])
def test_the_bits_do_not_depend_on_optimisation(name, tmp_path):
    folder = write(make(name), 0, tmp_path / "c")
    outputs = set()
    for level in ("-O0", "-O3"):
        build(find_compiler(), folder, tmp_path / "test", (*EXACT, level))
        outputs.add(run(tmp_path / "test", "bits").stdout)
    assert len(outputs) == 1


@compiler
@pytest.mark.parametrize("name", ["unstructured", "16x1 ragged", "8x1 ragged", "f16 16x1", "nearly empty", "shared"])
def test_sanitizers(name, tmp_path):
    folder = write(make(name), 0, tmp_path / "c", record(make(name), 20).agent(0))
    flags = (*STRICT[:-1], "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        build(find_compiler(), folder, tmp_path / "test", flags)
    except ExportError as error:
        pytest.skip(f"no sanitizers: {error}")
    assert "the actions" in run(tmp_path / "test").stdout


@compiler
def test_only_the_api_is_exported_and_nothing_is_allocated(tmp_path):
    folder = write(make("mixed"), 0, tmp_path / "c")
    subprocess.run([*find_compiler(), "-std=c99", "-O2", "-c", "policy.c"], cwd=folder, check=True)
    if not shutil.which("nm"):
        pytest.skip("no nm")
    symbols = [line.split()[-2:] for line in run("nm", "policy.o", prefix=("env", "-C", folder)).stdout.splitlines()]
    public = {name for kind, name in symbols if kind.isupper() and kind != "U"}
    assert public == {"policy_act", "policy_reset", "policy_executed"}
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
    assert not [name for kind, name in symbols if kind in "dDbBC"], "nothing that changes is static"


@compiler
def test_activations_keep_their_bound(tmp_path):
    folder = write(make("unstructured"), 0, tmp_path / "c")
    (folder / "bound.c").write_text(
        '#include "policy.c"\n#include <math.h>\n#include <stdio.h>\n'
        "int main(void) {\n double t = 0, s = 0, r = 0;\n"
        " for (int i = -400000; i <= 400000; i++) {\n  const float x = (float)i * 5e-5f;\n"
        "  t = fmax(t, fabs((double)tanh_fit(x) - tanh((double)x)));\n"
        "  r = fmax(r, i ? fabs((double)tanh_fit(x) / tanh((double)x) - 1) : 0);\n"
        "  s = fmax(s, fabs((double)sigmoid_fit(x) - 1 / (1 + exp(-(double)x))));\n }\n"
        ' printf("%g %g %g\\n", t, s, r);\n}\n'
    )
    command = [*find_compiler(), "-std=c99", "-O2", "-o", tmp_path / "bound", folder / "bound.c", "-lm"]
    subprocess.run(command, check=True)
    tanh, sigmoid, relative = map(float, run(tmp_path / "bound").stdout.split())
    assert tanh < 6e-7 and sigmoid < 4e-7 and relative < 9e-7


@compiler
def test_an_overflow_is_refused_and_the_state_stays(tmp_path):
    """Also: a last action out of range, which only a caller can make, writes nowhere."""
    folder = write(make("dense"), 0, tmp_path / "c")
    (folder / "overflow.c").write_text(
        '#include "policy.h"\n#include <string.h>\n'
        "int main(void) {\n policy_state s, before;\n float obs[POLICY_OBS];\n policy_reset(&s);\n"
        " for (int i = 0; i < POLICY_OBS; i++) obs[i] = i % 2 ? 3e38f : -3e38f;\n"
        " before = s;\n if (policy_act(&s, obs, 0) != POLICY_OVERFLOW || memcmp(&s, &before, sizeof s)) return 1;\n"
        " for (int i = 0; i < POLICY_OBS; i++) obs[i] = 0.5f;\n s.last_action = 12345;\n"
        " return policy_act(&s, obs, 0) < 0;\n}\n"
    )
    command = [*find_compiler(), "-std=c99", "-O2", "-o", "overflow", "policy.c", "overflow.c"]
    subprocess.run(command, cwd=folder, check=True)
    run(folder / "overflow")


@compiler
def test_a_wrong_policy_fails_its_test(tmp_path):
    folder = write(make("unstructured"), 0, tmp_path / "c")
    text = (folder / "policy.c").read_text()
    (folder / "policy.c").write_text(text.replace("gates + HIDDEN);", "gates);"))
    with pytest.raises(ExportError, match="fails its own test"):
        build_module.run_test(find_compiler(), folder, 7)


@compiler
@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_test_and_names_that_are_not_c(tmp_path):
    bundle = make("unstructured")
    named = replace(bundle.agents[0], name='*/ #error "é" /* ??/')
    bundle = replace(bundle, agents=(named, *bundle.agents[1:]))
    (file,) = export_c(bundle, tmp_path / "c", 0, record(bundle))
    made = subprocess.run(["make", "-C", file.path, "test", "CFLAGS=-O1 -Werror -Wall"], capture_output=True, text=True)
    assert made.returncode == 0 and "200 steps" in made.stdout, made.stderr


def test_a_team_has_a_folder_each_and_the_text_is_deterministic(tmp_path):
    bundle = load(TEAM)
    trace = record(bundle)
    files = export_c(bundle, tmp_path / "team", None, trace)
    assert [file.path for file in files] == [tmp_path / "team" / f"agent_{k}" for k in range(3)]
    manifest = json.loads((tmp_path / "team" / "manifest.json").read_text())
    assert [agent["folder"] for agent in manifest["agents"]] == ["agent_0", "agent_1", "agent_2"]
    assert {path.name for path in (files[0].path / "src").iterdir()} == {"policy.c", "policy.h", "policy_selftest.c"}
    if find_compiler():
        assert all(file.report is not None and file.report.actions_equal == 200 for file in files)
    (single,) = export_c(bundle, tmp_path / "team", 2, trace)
    assert single.path == tmp_path / "team" and not (tmp_path / "team" / "agent_0").exists()
    assert (single.path / "src" / "policy.c").read_text() == generate(bundle, 2, trace.agent(2)).files["policy.c"]
    assert [path.name for path in tmp_path.iterdir()] == ["team"]


def test_without_a_compiler_the_export_is_not_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(c_format, "find_compiler", list)
    (file,) = export_c(make("f16"), tmp_path / "c", 0, record(make("f16"), 5))
    assert file.report is None
    assert json.loads((file.path / "manifest.json").read_text())["agents"][0]["verification"] is None


def test_destinations_are_respected(tmp_path, monkeypatch):
    bundle = make("nearly empty")
    trace = record(bundle, 5)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExportError, match="not a C export"):
        export_c(bundle, tmp_path / "mine", None, trace)
    with pytest.raises(IndexError, match="agents 0 to 2"):
        export_c(bundle, tmp_path / "c", 3, trace)
    monkeypatch.setattr(c_format, "find_compiler", lambda: ["false"])
    with pytest.raises(ExportError, match="false cannot build"):
        export_c(bundle, tmp_path / "c", 0, trace)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_target_without_ziglang_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="pip install ziglang"):
        cross_compile(tmp_path, "wasm32-wasi")


WASI = """\
const { WASI } = require("node:wasi");
const wasi = new WASI({ version: "preview1", args: process.argv.slice(1) });
WebAssembly.instantiate(require("node:fs").readFileSync(process.argv[1]), wasi.getImportObject()).then(
  ({ instance }) => process.exit(wasi.start(instance)));
"""
EMULATORS = {
    "aarch64-linux-musl": ("qemu-aarch64",),
    "arm-linux-musleabihf": ("qemu-arm",),
    "riscv64-linux-musl": ("qemu-riscv64",),
    "wasm32-wasi": ("node", "--no-warnings", "-e", WASI),
}


@compiler
@pytest.mark.skipif(find_spec("ziglang") is None, reason="ziglang is not installed: pip install ziglang")
@pytest.mark.parametrize("target", EMULATORS)
def test_the_same_bits_on_every_target(target, tmp_path, monkeypatch):
    if not shutil.which(EMULATORS[target][0]):
        pytest.skip(f"no {EMULATORS[target][0]}")
    monkeypatch.setattr(build_module, "FLAGS", (*EXACT, "-O2"))
    for name in ("unstructured", "f16"):
        folder = write(make(name), 0, tmp_path / name)
        build(find_compiler(), folder, tmp_path / "test", (*EXACT, "-O2"))
        program = cross_compile(folder, target)
        here, there = (run(p, "bits", prefix=e) for p, e in ((tmp_path / "test", ()), (program, EMULATORS[target])))
        assert here.stdout == there.stdout
        assert os.listdir(folder).count(program.name) == 1
