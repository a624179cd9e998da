"""What a stranger adds to the runtime and to the export takes one file and one line: each is done in a copy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mast_export.c.build import find_compiler

ROOT = Path(__file__).resolve().parent.parent
TESTS = Path(__file__).parent
GOLDEN = TESTS / "data" / "3m.mast"


@pytest.fixture
def copy(tmp_path) -> Path:
    """The packages and the command line."""
    for name in ("mast_runtime", "mast_export", "mast_train"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", tmp_path)
    return tmp_path


def add(folder: Path, file: str, text: str, table: str, before: str, line: str) -> None:
    """One new file, and one line in the table."""
    (folder / file).write_text(text)
    found = (folder / table).read_text()
    assert found.count(before) == 1
    (folder / table).write_text(found.replace(before, f"{line}\n{before}"))


def python(folder: Path, code: str, *arguments: object, **environment: str) -> str:
    """What the code prints in a process that finds the copy first, and the helpers of these tests."""
    path = os.pathsep.join(map(str, (folder, TESTS)))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


BACKEND = '''
"""Every product in float64."""

import numpy as np

from mast_runtime.backends.base import stepped
from mast_runtime.backends.reference import network_input


class DoubleStep:
    def __init__(self, contract, network):
        self.hidden, self._contract, self._network = network.hidden, contract, network
        self._weights = {name: layer.dense().astype(np.float64).T for name, layer in network.layers().items()}

    def __call__(self, obs, last_action, agent_id, hidden):
        w, b = self._weights, self._network.gru_bias
        x = network_input(self._contract, obs, last_action, agent_id)
        y = np.maximum(x @ w["fc1"] + self._network.fc1_bias, 0.0)
        from_y, from_h = np.split(y @ w["weight_ih"], 3, axis=1), np.split(hidden @ w["weight_hh"], 3, axis=1)
        r, z = (1.0 / (1.0 + np.exp(-(from_y[i] + from_h[i] + b[i]))) for i in (0, 1))
        n = np.tanh(from_y[2] + b[2] + r * (from_h[2] + b[3]))
        hidden = (1.0 - z) * n + z * hidden
        return hidden @ w["fc2"] + self._network.fc2_bias, hidden


BACKEND = stepped(DoubleStep, lambda: "")
'''


def test_a_backend_is_one_file_and_one_line(copy):
    table = "mast_runtime/backends/__init__.py"
    add(copy, "mast_runtime/backends/double.py", BACKEND, table, '    "onnx",', '    "double",')
    code = (
        "import sys, json, numpy as np, mast_runtime, subprocess\n"
        "policy = mast_runtime.load(sys.argv[1])\n"
        "team, oracle = policy.team(6, 'double'), policy.team(6, 'reference')\n"
        "for obs in np.random.default_rng(0).standard_normal((30, 6, policy.contract.obs_dim)):\n"
        "    assert list(team.act(obs)) == list(oracle.act(obs))\n"
        "    np.testing.assert_allclose(team.q, oracle.q, atol=1e-4)\n"
        "print(policy.agent(0, 'double').backend, mast_runtime.__file__)\n"
    )
    name, where = python(copy, code, GOLDEN).split()
    assert name == "double" and Path(where).parent.parent == copy
    bench = "import sys, cli; sys.argv[1:1] = ['bench']; cli.main()"
    assert '"backend": "double"' in python(copy, bench, GOLDEN, "--backend", "double", "--rounds", "1", "--json")
    assert "double" in python(copy, "import sys, cli; sys.argv[1:] = ['serve', '--help']; cli.main()")


FORMAT = '''
"""Policies as numpy arrays: one .npz of the team's dense matrices and biases."""

import numpy as np

from mast_export.formats.base import Exported, Format
from mast_export.verify import verify


def write(request):
    report = verify(request.bundle, request.trace, "reference").require(str(request.path))
    arrays = {}
    for i, network in enumerate(request.bundle.networks):
        arrays |= {f"{i}.{name}": layer.dense() for name, layer in network.layers().items()}
        arrays |= {f"{i}.{name}": getattr(network, name) for name in ("fc1_bias", "gru_bias", "fc2_bias")}
    np.savez(request.path, **arrays)
    return [Exported(request.path, request.path.stat().st_size, report)]


FORMATS = {"npz": Format("numpy arrays", write, (".npz", ".npz"), ("f32",))}
'''


def test_an_export_format_is_one_file_and_one_line(copy):
    table = "mast_export/formats/__init__.py"
    add(copy, "mast_export/formats/npz.py", FORMAT, table, '    "c": "c",', '    "npz": "npz",')
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from networks import random_bundle\n"
        "from mast_export.formats import find_format\n"
        "from mast_export.formats.base import Request\n"
        "from mast_export.verify import Trace\n"
        "bundle, found = random_bundle(hidden=8), find_format('npz')\n"
        "obs = np.random.default_rng(0).standard_normal((20, 3, 20)).astype(np.float32)\n"
        "team, q, hidden = bundle.team(backend='reference'), [], []\n"
        "for row in obs:\n"
        "    team.act(row), q.append(team.q.copy()), hidden.append(team.hidden.copy())\n"
        "trace = Trace(obs, np.ones((20, 3, 7), bool), np.array(q), np.array(hidden))\n"
        "(file,) = found.write(Request(bundle, trace, Path(found.file_name(None, 'f32'))))\n"
        "print(np.load(file.path)['2.weight_hh'].shape, file.report.passed, file.path, sep='; ')\n"
    )
    assert python(copy, code) == "(24, 8); True; policy.npz\n"
    assert "npz" in python(copy, "import sys, cli; sys.argv[1:] = ['export', '--help']; cli.main()")


LEVEL = """
/* SSE4.2: plain C, which the compiler makes vectors of. */
#include "mast_network.h"

#if defined(__x86_64__) && defined(__GNUC__)
static int supported(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}

#pragma GCC target("sse4.2")
#define MAST_PLAIN
#include "mast_forward.h"

const mast_kernels mast_sse42 = {
    .name = "sse42",
    .supported = supported,
    .forward = forward,
    .choose = choose,
    .tile = tile,
    .dense_from = {[MAST_DENSE] = 1.0, [MAST_SLICES] = 0.5, [MAST_LANE_SLICES] = 0.5, [MAST_BLOCKS8] = 0.9},
};
#else
const mast_kernels mast_sse42 = {.name = "sse42"};
#endif
"""


@pytest.mark.skipif(not find_compiler(), reason="no C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction set of x86-64")
def test_an_instruction_set_is_one_file_and_one_line(copy):
    native = copy / "mast_runtime" / "native"
    add(native, "level_sse42.c", LEVEL, "levels.def", "LEVEL(neon)", "LEVEL(sse42)")
    flags = ["-shared", "-fPIC", "-std=c11", "-O0", "-DPy_LIMITED_API=0x030B0000"]
    include = f"-I{sysconfig.get_path('include')}"
    command = [*find_compiler(), *flags, include, *native.glob("*.c"), "-o", native / "_native.abi3.so"]
    subprocess.run([str(part) for part in command], check=True)
    code = (
        "import sys, numpy as np, mast_runtime, mast_runtime.native as native\n"
        "policy = mast_runtime.load(sys.argv[1])\n"
        "for n in (3, 24):\n"
        "    team, oracle = policy.team(n), policy.team(n, 'reference')\n"
        "    for obs in np.random.default_rng(0).standard_normal((30, n, policy.contract.obs_dim)):\n"
        "        assert list(team.act(obs)) == list(oracle.act(obs))\n"
        "        np.testing.assert_allclose(team.hidden, oracle.hidden, atol=1e-4)\n"
        "print(native.levels(), mast_runtime.native_status(), mast_runtime.__file__, sep='; ')\n"
    )
    levels, status, where = python(copy, code, GOLDEN, MAST_NATIVE_LEVEL="sse42").strip().split("; ")
    assert status == "native: sse42" and "'sse42', 'scalar'" in levels and Path(where).parent.parent == copy
