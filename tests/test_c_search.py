"""mast export --format c of policies that search for their actions: the runtime's search, candidate by candidate."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from searched import WIDTH, by_loops, searching_bundle
from test_c_bounded import both_tests_see, write
from test_c_export import EXACT, STRICT, compiler, run
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
from mast_runtime.search import GRID, Values

BROAD = Head(tuple((-1.0,) * n for n in (14, 7, 6)), tuple((0.5,) * n for n in (14, 7, 6)))
"""Components in lines of six in the C text, of agents with more than one line and with a full one."""
CASES: dict[str, dict[str, Any]] = {
    "gru": {"hidden": 40, "sparsity": 0.8},
    "limited": {"hidden": 24, "rate_limit": 0.04},
    "mlp": {"hidden": 30, "memory": False},
    "blocks": {"hidden": 37, "sparsity": 0.8, "blocks": dict.fromkeys(LAYERS, 8)},
    "shared": {"hidden": 20, "sparsity": 0.7, "shared": True},
    "blind": {"hidden": 16, "blind": True},
    "one elite": {"hidden": 16, "elites": 1},
    "all elites": {"hidden": 16, "elites": 32},
    "blind, one elite": {"hidden": 16, "blind": True, "elites": 1},
    "broad": {"hidden": 16, "head": BROAD},
    "seven": {"hidden": 16, "head": BROAD, "memory": False},
    "six": {"hidden": 16, "head": BROAD, "candidates": 33},
}


SORTING = """
#include "policy.c"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
static float values[CANDIDATES], copied[CANDIDATES];
static int order[ELITES];
static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}
int main(int count, char **arguments)
{
    FILE *file = fopen(arguments[count - 1], "rb");
    clock_t ours = 0, theirs = 0;
    while (fread(values, sizeof values, 1, file) == 1) {
        clock_t start = clock();
        find_elites(values, order);
        ours += clock() - start;
        for (int j = 0; j < CANDIDATES; j++)
            copied[j] = values[j];
        start = clock();
        qsort(copied, CANDIDATES, sizeof *copied, descending);
        theirs += clock() - start;
        for (int e = 0; e < ELITES; e++)
            printf("%d ", order[e]);
        printf("\\n");
    }
    printf("%g %g\\n", (double)ours / CLOCKS_PER_SEC, (double)theirs / CLOCKS_PER_SEC);
    return 0;
}
"""


def traced(bundle: Bundle, steps: int = 60, seed: int = 0) -> Trace:
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
    sizes = np.array([len(row) for row in head.low])
    has = np.broadcast_to(np.arange(sizes.max()) < sizes[:, None], (steps, 3, sizes.max()))
    values = Values.of(bundle.team_networks)
    return Trace(obs, has, np.array(q), np.array(hidden), None, {}, head, (0, 1, 2), values)


@compiler
@pytest.mark.parametrize(("name", "k"), [(name, i % 3) for i, name in enumerate(CASES)])
def test_strict_builds_take_the_runtimes_actions(name, k, tmp_path):
    """Without a rate limit also what loops over the candidates find."""
    bundle = searching_bundle(3, **CASES[name])
    trace = traced(bundle)
    build(find_compiler(), write(bundle, k, tmp_path / "c", trace), tmp_path / "test", (*STRICT, "-Wconversion"))
    assert "60 steps: the actions" in run(tmp_path / "test").stdout
    head: Any = bundle.contract.head
    size = len(head.low[k])
    printed = run(tmp_path / "test", "bits").stdout
    actions, q, hidden = parse_bits(printed, size, continuous=True, outputs=WIDTH)
    agent: Any = bundle.agent(k, "reference")
    low, high, _ = bounds(head, (0, 1, 2), max(map(len, head.low)))
    for t in range(len(trace.obs)):
        given = agent.act(trace.obs[t, k])
        np.testing.assert_allclose(q[t], agent.q, atol=2e-5)
        np.testing.assert_allclose(actions[t], given, atol=2e-5 * (high - low)[k].max())
        if "rate_limit" not in CASES[name] and t % 6 == 0:
            wanted = low[k, :size] + (by_loops(bundle, k, q[t]) + 1.0) / 2.0 * (high - low)[k, :size]
            np.testing.assert_allclose(actions[t], wanted, atol=2e-5 * (high - low)[k].max())
        agent.executed(trace.actions[t, k, :size], scaled=True)
    assert hidden.shape[1] == (0 if "memory" in CASES[name] else bundle.networks[0].hidden)
    assert (np.ptp(actions, 0).max() > 0) == (not name.startswith("blind"))


@compiler
@pytest.mark.parametrize("elites", [1, 2, 32])
def test_no_optimisation_warns(elites, tmp_path):
    folder = write(searching_bundle(3, hidden=8, elites=elites), 0, tmp_path / "c", traced(searching_bundle(3), 2))
    for level in ("-Os", "-O1", "-O2", "-O3"):
        command = [*find_compiler(), *STRICT, "-Wconversion", level, "-c", "policy.c", "-o", "policy.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (level, done.stderr[:500])


@compiler
@pytest.mark.parametrize(("candidates", "elites"), [(65, 1), (65, 7), (64, 64), (20_000, 20_000)])
def test_elites_are_those_of_a_stable_sort_in_as_good_a_time(candidates, elites, tmp_path):
    """Of values with ties, in order, in reverse order, alike, tiny and huge; within twenty times what qsort takes."""
    folder = write(searching_bundle(3, hidden=8), 0, tmp_path / "c", traced(searching_bundle(3), 2))
    text = (folder / "policy.c").read_text()
    assert "CANDIDATES = 32, ELITES = 5 }" in text
    sizes = f"CANDIDATES = {candidates}, ELITES = {elites} }}"
    (folder / "policy.c").write_text(text.replace("CANDIDATES = 32, ELITES = 5 }", sizes))
    (folder / "main.c").write_text(SORTING)
    command = [*find_compiler(), "-std=c99", "-O2", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    build_ = subprocess.run([*command, "-o", "main", "main.c"], cwd=folder, capture_output=True, text=True)
    if "sanitize" in build_.stderr or "ubsan" in build_.stderr:
        pytest.skip(f"no sanitizers: {build_.stderr[:200]}")
    rng, ramp = np.random.default_rng(0), np.linspace(-1.0, 1.0, candidates)
    mixed = rng.integers(-1024, 1024, candidates) / 1024.0
    mixed[0] = -1.0
    rows = rng.integers(-9, 9, candidates), mixed, ramp, -ramp, ramp * 0.0, ramp * 1e-36, ramp * 3e38
    values = np.array(rows, np.float32)
    values.tofile(folder / "values")
    lines = run(folder / "main", folder / "values").stdout.splitlines()
    orders, times = lines[: len(rows)], [float(word) for word in lines[len(rows)].split()]
    for row, line in zip(values.astype(np.float64), orders, strict=True):
        keys = np.rint(row / (np.abs(row).max() or 1.0) / GRID)
        assert np.array_equal(np.array(line.split(), int), np.argsort(-keys, kind="stable")[:elites])
    assert times[0] < 20 * times[1] + 0.02, times


@compiler
@pytest.mark.parametrize(("name", "dtype"), [("limited", "f32"), ("mlp", "f16")])
def test_a_team_is_verified_by_the_rule(name, dtype, tmp_path):
    bundle = quantise(searching_bundle(3, **CASES[name]), dtype)
    for file in export_c(bundle, tmp_path / "c", None, traced(bundle)):
        assert file.report is not None and file.report.passed and file.report.actions_equal == 60
        assert file.report.max_action_error is not None and file.report.max_action_error < 1e-3


@compiler
def test_sanitizers_and_every_optimisation(tmp_path):
    """Also as C++17; no bit depends on how it is built."""
    bundle = searching_bundle(3, **CASES["limited"])
    folder = write(bundle, 0, tmp_path / "c", traced(bundle, 12))
    outputs, checked = set(), ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    for flags in ((*EXACT, "-O1", *checked), ("-x", "c++", "-std=c++17", "-ffp-contract=off"), (*EXACT, "-O3")):
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
def test_a_wrong_table_fails_the_tests(tmp_path):
    """The host's test and the target's self-test both see it; and what a search adds needs no library."""
    bundle = searching_bundle(3, hidden=24)
    folder = write(bundle, 0, tmp_path / "c", traced(bundle))
    changes = {
        "w[1] * u1": "w[1] * u0",
        "!(y <= 0.0f)": "y < 1e30f",
        "noise[j * ACTIONS + k]": "noise[j * ACTIONS]",
        "key > keys[0]": "key < keys[0]",
        "keys[next] < keys[child]": "keys[next] > keys[child]",
        "squares / (float)ELITES": "squares",
        "copy(x + OBS, state->last_action, ACTIONS)": "copy(x + OBS, state->q, ACTIONS)",
    }
    both_tests_see(folder, changes)
    if shutil.which("nm"):
        subprocess.run([*find_compiler(), "-O2", "-c", "policy.c"], cwd=folder, check=True)
        symbols = [
            line.split()[-2:] for line in run("nm", "policy.o", prefix=("env", "-C", folder)).stdout.splitlines()
        ]
        assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}


@compiler
def test_square_roots_and_values_that_overflow(tmp_path):
    """Roots within two units of the last place; what float cannot hold is refused and leaves the state."""
    bundle = searching_bundle(3, hidden=12)
    huge = [replace(network, fc3=replace(network.fc3, values=network.fc3.values * 1e38)) for network in bundle.networks]
    folder = write(replace(bundle, networks=tuple(huge)), 0, tmp_path / "c", traced(bundle, 6))
    (folder / "main.c").write_text(
        '#include "policy.c"\n#include "policy_trace.h"\n#include <stdio.h>\n#include <string.h>\n'
        "int main(void) {\n policy_state s, before;\n float a[3] = {7, 7, 7}, x;\n policy_reset(&s);\n before = s;\n"
        " if (policy_act(&s, policy_trace_obs[0], a) != POLICY_OVERFLOW || memcmp(&s, &before, sizeof s)) return 1;\n"
        " if (a[0] != 7) return 2;\n"
        ' for (x = 1e-29f; x < 5; x *= 1.37f) printf("%.9g %.9g\\n", (double)x, (double)square_root(x));\n'
        ' printf("%.9g\\n", (double)(square_root(0.0f) + square_root(1e-35f)));\n return 0;\n}\n'
    )
    command = [*find_compiler(), "-std=c99", "-O2", "-o", "main", "main.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    *rows, last = (line.split() for line in run(folder / "main").stdout.splitlines())
    x, roots = np.array(rows, np.float64).T
    assert len(rows) > 150 and (np.abs(roots - np.sqrt(x)) <= 2 * np.spacing(np.sqrt(x).astype(np.float32))).all()
    assert float(last[0]) == 0.0


def test_integers_do_not_search():
    bundle = searching_bundle(3, hidden=12)
    with pytest.raises(ExportError, match=r"searches for its actions, .*; export f32 or f16, not i8"):
        generate(bundle, 0, traced(bundle, 6).agent(0), fixed=True)


def test_integers_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    """Also weights that are integers already."""
    bundle = searching_bundle(3, hidden=12)
    monkeypatch.setattr("mast_export.formats.c.replaced", lambda *_: pytest.fail("written"))
    for given, dtype in ((bundle, "i8"), (quantise(bundle, "i8"), "")):
        with pytest.raises(ExportError, match="export f32 or f16, not i8"):
            export_c(given, tmp_path / "c", None, traced(bundle, 2), dtype)


@bare
def test_on_a_bare_chip(tmp_path):
    """The program compares every action with the runtime's."""
    bundle = searching_bundle(3, **CASES["mlp"])
    write(bundle, 0, tmp_path / "c", traced(bundle, 12))
    assert "the actions of the runtime" in on_chip(tmp_path / "c", "m0")
