"""The training extension under the address and undefined behaviour sanitizers, on odd sizes and on what is wrong."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mast_train.engines import native
from mast_train.engines.native.extension import extension

ROOT = Path(native.__file__).parents[3]
FLAGS = ["-c", "-fPIC", "-std=c11", "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.skipif(not native.available(), reason=native.status())
def test_the_calls_run_without_sanitizers():
    """So that a failure below is the sanitizers' finding."""
    runpy.run_path(str(Path(__file__).with_name("native_calls.py")))["main"](extension().__file__)


def test_address_and_undefined_sanitizers(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_file():
        pytest.skip("gcc has no address sanitizer here")
    include = ["-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}"]
    sources = sorted((ROOT / "mast_train" / "engines" / "native").glob("*.c"))

    def run(command):
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        objects = [tmp_path / f"{source.stem}.o" for source in sources]
        pairs = zip(sources, objects, strict=True)
        built = list(pool.map(lambda pair: run(["gcc", *FLAGS, *include, pair[0], "-o", pair[1]]), pairs))
    library = tmp_path / "_train.abi3.so"
    built.append(run(["gcc", "-shared", "-fsanitize=address,undefined", *objects, "-lm", "-lpthread", "-o", library]))
    assert not any(done.returncode for done in built), "".join(done.stderr for done in built)
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PATH": "/usr/bin:/bin",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("native_calls.py")), str(library)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
