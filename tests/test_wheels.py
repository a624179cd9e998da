"""What may come out of a build: no wheel without its kernels, no tag that its binaries do not keep."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / ".ci"), str(ROOT / "benchmarks")]
import distributions  # noqa: E402
from distributions import DISTRIBUTIONS, contents_problems  # noqa: E402

from mast_runtime import __version__, native  # noqa: E402

ROBOT, EVERYTHING = DISTRIBUTIONS
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def setup(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name != "MAST_KERNELS"} | environment
    return subprocess.run(
        [sys.executable, "setup.py", *command], cwd=folder, env=given, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return distributions.source(ROBOT, tmp_path_factory.mktemp("source"))


def test_without_a_compiler_the_version_says_so_and_an_index_would_refuse_it(source):
    done = setup(source, "--version", **NO_COMPILER)
    assert done.returncode == 0 and done.stdout.strip() == f"{__version__}+no.kernels"
    assert "NO KERNELS" in done.stderr
    chosen = setup(source, "--version", MAST_KERNELS="none")
    assert chosen.stdout.strip() == f"{__version__}+no.kernels" and not chosen.stderr


def test_a_wheel_without_kernels_claims_no_machine_and_a_release_is_not_built(source, tmp_path):
    done = setup(source, "-q", "bdist_wheel", "--dist-dir", str(tmp_path / "free"), **NO_COMPILER)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "free").iterdir()
    assert wheel.name == f"mast_runtime-{__version__}+no.kernels-py3-none-any.whl"
    with pytest.raises(SystemExit, match=r"_native.abi3.so is missing"):
        distributions.check_contents(ROBOT, wheel)
    done = setup(
        source, "-q", "bdist_wheel", "--dist-dir", str(tmp_path / "release"), MAST_KERNELS="required", **NO_COMPILER
    )
    assert done.returncode != 0 and not (tmp_path / "release").exists()
    assert re.search(r"^error: mast_runtime.native._native: .*MAST_KERNELS=none installs without", done.stderr, re.M)


def test_a_kernel_that_does_not_compile_is_an_error_where_there_is_a_compiler(source, tmp_path):
    broken = Path(shutil.copytree(source, tmp_path / "broken"))
    (broken / "mast_runtime" / "native" / "_native.c").write_text("#error broken\n")
    done = setup(broken, "-q", "bdist_wheel", "--dist-dir", "dist")
    assert done.returncode != 0 and "MAST_KERNELS=none" in done.stderr and not (broken / "dist").exists()


def test_a_word_that_means_nothing_is_refused(source):
    done = setup(source, "--version", MAST_KERNELS="yes")
    assert done.returncode == 1 and done.stderr.strip().endswith("expected required, none or nothing")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"mast_runtime/__init__.py"}, "_native.abi3.so is missing"),
        ({distributions.KERNEL, "cli.py"}, "at the top cli.py, mast_runtime, expected mast_runtime"),
        ({distributions.KERNEL, "mast_train/__init__.py"}, "at the top mast_runtime, mast_train"),
        ({distributions.KERNEL, "mast_runtime/native/_native.c"}, "1 C files, expected none"),
    ],
)
def test_the_contents_of_a_robots_wheel(names, problem):
    (found,) = contents_problems(ROBOT, sorted(names))
    assert problem in found
    assert contents_problems(ROBOT, [distributions.KERNEL, "mast_runtime-1.dist-info/RECORD"]) == []


def test_both_kernels_belong_to_everything():
    names = ["mast_cli.py", "mast_export/web/host.c", "mast_train/__init__.py", distributions.KERNEL]
    assert contents_problems(EVERYTHING, names) == [f"{distributions.TRAINING} is missing"]


def test_the_two_have_one_license_python_and_command_name():
    import tomllib

    both = [
        tomllib.loads(path.read_text())["project"]
        for path in (ROOT / "pyproject.toml", distributions.RUNTIME / "pyproject.toml")
    ]
    for key in ("license", "requires-python", "dynamic"):
        assert both[0][key] == both[1][key]
    assert [list(project["scripts"]) for project in both] == [["mast"], ["mast"]]
    assert both[1]["dependencies"] == []
    for extra in ("serve", "export"):
        assert both[0]["optional-dependencies"][extra] == both[1]["optional-dependencies"][extra]


TAGS = {
    "manylinux_2_17_aarch64": "for EM_X86_64 of 64 bits, expected EM_AARCH64 of 64",
    "manylinux_2_17_armv7l": "floats are not passed in registers",
    "musllinux_1_2_x86_64": "needs libc.so.6",
    "manylinux_2_2_x86_64": "newer than 2.2",
    "macosx_11_0_arm64": "not a Mach-O file",
}


@pytest.mark.skipif(native._native is None or sys.platform != "linux", reason="needs a kernel of Linux")
@pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="what is wrong is known for x86-64")
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_for_what_was_built(tag):
    pytest.importorskip("elftools", reason="pip install pyelftools")
    pytest.importorskip("macholib", reason="pip install macholib")
    from binaries import problems

    module = Path(native._native.__file__)
    assert any(TAGS[tag] in problem for problem in problems(module, tag))
    assert problems(module, "manylinux_2_99_x86_64") == []


@pytest.mark.skipif(not native.levels() or sysconfig.get_platform() != "linux-x86_64", reason="kernels of x86-64")
def test_the_instruction_sets_are_those_that_the_system_lists():
    """A compiler's run-time library is not asked: zig's has none."""
    import arm

    assert set(native.levels()) - {"scalar"} == set(arm.expected_levels())
    folders = ("mast_runtime/native", "mast_train/engines/native")
    for path in (path for folder in folders for path in (ROOT / folder).glob("*.[ch]")):
        assert "__builtin_cpu_supports(" not in path.read_text(), path


def test_every_target_is_a_tag_and_is_built_by_someone():
    pytest.importorskip("elftools", reason="pip install pyelftools")
    pytest.importorskip("macholib", reason="pip install macholib")
    from binaries import parse_tag
    from wheels import TARGETS

    assert {parse_tag(tag).system for tag in TARGETS} == {"manylinux", "musllinux", "macosx"}
    assert set(ROBOT.targets) == set(TARGETS) >= set(EVERYTHING.targets)
    with pytest.raises(ValueError, match=r"linux_aarch64.*expected, for example"):
        parse_tag("linux_aarch64")


SIZES = """
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
_Static_assert(SIZEOF_VOID_P == 4 && SIZEOF_LONG == 4 && sizeof(Py_ssize_t) == 4 && sizeof(Py_hash_t) == 4, "");
"""


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="arm-none-eabi-gcc is not installed")
def test_the_headers_of_a_32_bit_target_have_its_sizes(tmp_path):
    """And with the pyconfig.h of this machine, of 64 bits, they would not."""
    headers = Path(shutil.copytree(sysconfig.get_path("include"), tmp_path / "include"))
    source = tmp_path / "sizes.c"
    source.write_text(SIZES)
    command = ["arm-none-eabi-gcc", "-std=c11", "-fsyntax-only", f"-I{headers}", str(source)]
    if sys.maxsize > 2**32:
        assert subprocess.run(command, capture_output=True).returncode != 0
    shutil.copy(ROOT / ".ci" / "cross" / "pyconfig.h", headers / "pyconfig.h")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
