"""The recipes of docs/architecture.md: what a stranger adds takes one file and one line, or one line.

Each example is read from that page and done in a copy of the packages.
"""

from __future__ import annotations

import json
import os
import platform
import re
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
PAGE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture
def copy(tmp_path) -> Path:
    """The packages and the command line."""
    for name in ("mast_runtime", "mast_export", "mast_train"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", tmp_path)
    return tmp_path


def shown(file: str) -> str:
    """The page's block of code that comes after the file's name."""
    after = PAGE.partition(f"`{file}`")[2]
    return re.search(r"```\w+\n(.*?)```", after, re.S)[1]


def add_line(folder: Path, table: str, before: str) -> None:
    """The line that the page has for a table, before a line that is there."""
    line, found = shown(table), (folder / table).read_text()
    assert found.count(before) == 1 and line.count("\n") == 1
    (folder / table).write_text(found.replace(before, line + before))


def add(folder: Path, file: str, table: str, before: str) -> None:
    """The page's file, and its line in the table."""
    assert not (folder / file).exists()
    (folder / file).write_text(shown(file))
    add_line(folder, table, before)


def python(folder: Path, code: str, *arguments: object, **environment: str) -> str:
    """What the code prints in a process that finds the copy first, and the helpers of these tests."""
    path = os.pathsep.join(map(str, (folder, TESTS)))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_backend_is_one_file_and_one_line(copy):
    table = "mast_runtime/backends/__init__.py"
    add(copy, "mast_runtime/backends/double.py", table, '    "onnx",\n')
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


def test_an_export_format_is_one_file_and_one_line(copy):
    table = "mast_export/formats/__init__.py"
    add(copy, "mast_export/formats/npz.py", table, '    "c": "c",\n')
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


@pytest.mark.skipif(not find_compiler(), reason="no C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction set of x86-64")
def test_an_instruction_set_is_one_file_and_one_line(copy):
    native = copy / "mast_runtime" / "native"
    add(copy, "mast_runtime/native/level_sse42.c", "mast_runtime/native/levels.def", "LEVEL(neon)\n")
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


TRAINED = """
import json, sys
from mast_train.commands import api
from mast_train.runs.events import Evaluation

settings = {"train.eval_interval": 10**6, "train.eval_episodes": 32, **json.loads(sys.argv[1])}
seen = []
run = api.train(settings, watch=lambda event: seen.append(event) or True)
last = [event for event in seen if isinstance(event, Evaluation)][-1]
print(json.dumps([run.name, last.return_mean, last.wins, api.__file__]))
"""


def trained(folder: Path, settings: dict[str, object]) -> tuple[str, float, int | None]:
    """A run of the copy: its name, and the mean return and wins of 32 greedy episodes at its end."""
    name, returns, wins, where = json.loads(python(folder, TRAINED, json.dumps(settings)).splitlines()[-1])
    assert Path(where).is_relative_to(folder)
    return name, returns, wins


RIGL_BESIDE = """
from mast_train.settings.config import flatten
from mast_train.settings.methods import preset

for recipe in ("modern", "paper"):
    rigl, active = (flatten(preset(name, recipe)) for name in ("rigl", "rigl-active"))
    print(*[f"{key}={active[key]}" for key in rigl if rigl[key] != active[key]], active["target.returns"])
"""


def test_a_method_row_is_one_line(copy):
    add_line(copy, "mast_train/settings/methods.py", '    "rlx2": Method(')
    modern, paper = python(copy, RIGL_BESIDE).splitlines()
    assert modern == "method=rigl-active sparse.drop=idle td_lambda"
    assert paper == "method=rigl-active sparse.drop=idle one_step"
    name, _, _ = trained(copy, {"env.name": "matrix", "method": "rigl-active", "train.total_steps": 300})
    assert name == "two_step-qmix-rigl-active-seed0"


def test_an_algorithm_is_one_file_and_one_line(copy):
    """IQL, which is taken out of the copy first."""
    file, table = "mast_train/algorithms/iql.py", "mast_train/algorithms/__init__.py"
    (copy / file).unlink()
    (copy / table).write_text((copy / table).read_text().replace(shown(table), ""))
    code = "import sys, cli; sys.argv[1:] = ['train', '--env', 'matrix', '--algorithm', 'iql']; cli.main()"
    with pytest.raises(AssertionError, match="'iql'"):
        python(copy, code)
    add(copy, file, table, '    "owqmix": ')
    game = {"env.name": "matrix", "env.map": "coordination", "method": "dense", "train.total_steps": 1500}
    learning = {"train.lr": 3e-3, "train.epsilon_end": 1.0, "train.target_interval": 20, "target.returns": "one_step"}
    name, returns, _ = trained(copy, {"algorithm": "iql", **game, **learning})
    assert name == "coordination-iql-dense-seed0" and returns == 9.0  # the optimum, which needs no mixing


ON_A_LINE = """
import torch
from mast_train.envs import available_maps, make_env

env = make_env("line", "5", 8, 0, torch.device("cpu"), {})
start = env.state_dict()
obs, earned = env.reset().obs, torch.zeros(8)
for _ in range(10):  # agent 0 walks to the other
    toward = (obs[:, 0, 5:].argmax(1) - obs[:, 0, :5].argmax(1)).sign()
    step = env.step(torch.stack([1 + toward, torch.ones_like(toward)], 1))
    obs, earned = step.next.obs, earned + step.reward
assert earned.tolist() == [1.0] * 8
assert bool(step.won.all() and step.terminated.all()) and not bool(step.truncated.any())
env.load_state_dict(start)
first = env.reset().obs
for _ in range(10):  # nobody moves
    step = env.step(torch.ones(8, 2, dtype=torch.int64))
assert torch.equal(step.next.obs, first)
assert bool(step.truncated.all()) and not bool((step.terminated | step.won).any())
env.load_state_dict(start)
assert torch.equal(env.reset().obs, first) and not torch.equal(env.reset().obs, first)
print(*available_maps("line"))
"""


def test_an_environment_is_one_file_and_one_line(copy):
    add(copy, "mast_train/envs/line.py", "mast_train/envs/__init__.py", '    "matrix": EnvRow(')
    assert python(copy, ON_A_LINE) == "5 9\n"
    settings = {"train.total_steps": 6000, "train.epsilon_steps": 2000, "train.lr": 2e-3, "net.hidden": 32}
    name, returns, wins = trained(copy, {"env.name": "line", "method": "dense", **settings})
    assert name == "5-qmix-dense-seed0" and wins is not None and wins >= 30 and returns == wins / 32
