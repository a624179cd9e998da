"""The runtime's kernels and hostile bundles on an extension built with ASan and UBSan, their runtime loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mast_runtime
from mast_runtime.native import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"native backend: needs {missing()}")

SANITIZED = """
import sys
import mast_runtime, pytest
assert mast_runtime.__file__.startswith(sys.argv[2]), mast_runtime.__file__
kept = (
    "(as_reference and (-9- or -65-)) or density or refusals or other_kinds or half or checks or hostile or squash or "
    "join or candidates or fit_is_refused or loops_find or bound_once or so_large"
)
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[3:], sys.argv[1], "-k", kept]))
"""


def test_address_and_undefined_sanitizers(tmp_path):
    root = Path(mast_runtime.__file__).parent
    copy = tmp_path / "mast_runtime"
    for package in (root, root.parent / "mast_export"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    sources = sorted(map(str, (copy / "native").glob("*.c")))
    flags = ["-shared", "-fPIC", "-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    include = ["-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_path('include')}"]
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_file():
        pytest.skip("gcc has no address sanitizer here")
    built = subprocess.run(
        ["gcc", *flags, *include, *sources, "-o", str(copy / "native" / "_native.abi3.so")],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    tests = Path(__file__).parent
    for name in ("networks.py", "handmade.py", "searched.py", "bounded.py"):
        shutil.copy(tests / name, tmp_path)
    test, *more = (
        shutil.copy(tests / f"test_{name}.py", tmp_path)
        for name in ("native", "native_checks", "hostile_bundle", "continuous_kernels", "search_kernels")
    )
    environment = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, test, str(tmp_path), *more],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
