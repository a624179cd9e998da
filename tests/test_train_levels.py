"""A new instruction set of the training kernels is one C file and one line."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mast_train.engines import native

ROOT = Path(native.__file__).parents[3]
PROGRAM = """
import runpy, sys
calls = runpy.run_path(sys.argv[1])
train = calls["load"](sys.argv[2])
print(train.levels())
level, (most, other) = sys.argv[3], (train.levels()[0], train.levels()[-1])
for number, call in enumerate(calls["targets"](other, 1, 33, 7, 3, 5)):
    results = []
    for name in (other, level):
        calls["run"](train, (call[0], call[1] | {"level": name} if "level" in call[1] else call[1]))
        results.append(call[1]["target" if call[0] == "td_lambda" else "value"].copy())
    assert (results[0] == results[1]).all(), number
"""


@pytest.mark.skipif(not native.available(), reason=native.status())
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_one_file_and_one_line(tmp_path, monkeypatch):
    """Plain C under another name, best of all."""
    for folder in ("mast_train/engines/native", "mast_runtime/native"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    own = tmp_path / "mast_train" / "engines" / "native"
    plain = (own / "level_scalar.c").read_text().replace("#ifndef TRAIN_NEON", "#if 1")
    (own / "level_mine.c").write_text(plain.replace("scalar", "mine"))
    table = (own / "levels.def").read_text()
    (own / "levels.def").write_text(table.replace("LEVEL(avx512)", "LEVEL(mine)\nLEVEL(avx512)"))
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.chdir(tmp_path)
    setups = []
    monkeypatch.setattr(setuptools, "setup", lambda **settings: setups.append(settings))
    runpy.run_path(str(ROOT / "setup.py"))
    (sources,) = [
        module.sources for module in setups[0]["ext_modules"] if module.name == "mast_train.engines.native._train"
    ]
    assert "mast_train/engines/native/level_mine.c" in sources
    library, include = tmp_path / "_train.abi3.so", f"-I{sysconfig.get_path('include')}"
    build = ["gcc", "-shared", "-fPIC", "-std=c11", "-O0", "-DPy_LIMITED_API=0x030B0000", include, *sources]
    done = subprocess.run([*build, "-lm", "-lpthread", "-o", str(library)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    program = [sys.executable, "-c", PROGRAM, str(Path(__file__).with_name("native_calls.py")), str(library), "mine"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(("mine", *native.levels()))
