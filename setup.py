"""The C extensions, the version, and the name under which cli.py is installed; everything else is in pyproject.toml.

The robot's distribution (.ci/mast-runtime) is built by this file too: what its source lacks is left out.

Without a C compiler the install succeeds and its version says so: 1.2.3+no.kernels, which no index accepts. The
variable MAST_KERNELS decides otherwise: `required`, as every release is built, or `none`.
"""

import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# After setuptools, which brings it where Python has none of its own.
from distutils.ccompiler import new_compiler  # isort: skip
from distutils.errors import CCompilerError, CompileError  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip

NATIVE = "mast_runtime/native/"
TRAIN = "mast_train/engines/native/"
LIMITED_API = "0x030B0000"
"""CPython 3.11: one binary serves every later version."""
CHOICES = {"", "required", "none"}
WITHOUT = """
**************************************************************************************************************
There is no C compiler here, or Python's headers are missing: this install has NO KERNELS, and a decision takes
tens of times as long. A wheel brings them: pip install --only-binary :all: mast-runtime (or mast-marl).
To build them here: apt install gcc python3-dev (or the like), and install again.
**************************************************************************************************************
"""


def sources(folder: str) -> list[str]:
    """The C files of a folder: those of the instruction sets that its levels.def lists, and all that are of none."""
    levels = re.findall(r"^LEVEL\((\w+)\)", Path(folder, "levels.def").read_text(), re.MULTILINE)
    common = [path.name for path in Path(folder).glob("*.c") if not path.name.startswith("level_")]
    return [folder + name for name in sorted([*common, *(f"level_{level}.c" for level in levels)])]


def headers(folder: str) -> list[str]:
    return sorted(folder + path.name for path in Path(folder).iterdir() if path.suffix in (".h", ".def"))


def extension(name: str, folder: str, *more_headers: str) -> Extension:
    return Extension(
        name,
        sources=sources(folder),
        depends=[*headers(folder), *more_headers],
        define_macros=[("Py_LIMITED_API", LIMITED_API)],
        extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
        py_limited_api=True,
    )


def extensions() -> list[Extension]:
    found = [extension("mast_runtime.native._native", NATIVE)]
    if Path(TRAIN).is_dir():
        found.append(
            extension("mast_train.engines.native._train", TRAIN, NATIVE + "mast_vector.h", NATIVE + "mast_cpu.h")
        )
    return found


def with_kernels() -> bool:
    """As MAST_KERNELS says; unsaid, whether a file that includes Python.h compiles here."""
    choice = os.environ.get("MAST_KERNELS", "")
    if choice not in CHOICES:
        sys.exit(f"error: MAST_KERNELS={choice}: expected required, none or nothing")
    if choice:
        return choice == "required"
    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "probe.c").write_text("#include <Python.h>\n")
        paths = [sysconfig.get_path(name) for name in ("include", "platinclude")]
        try:
            compiler.compile([str(Path(folder, "probe.c"))], folder, include_dirs=paths)
        except (CompileError, OSError):
            print(WITHOUT, file=sys.stderr)
            return False
    return True


class BuildExt(build_ext):
    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except CCompilerError as error:
            sys.exit(f"error: {ext.name}: {error}; MAST_KERNELS=none installs without kernels")


class BuildPy(build_py):
    """Installs cli.py as `mast_cli`: a module `cli` is anybody's. An editable install finds it by package-dir."""

    def find_modules(self) -> list[tuple[str, str, str]]:
        return [("", "mast_cli", "cli.py")]


compiled = with_kernels()
said = Path(__file__).with_name("mast_runtime").joinpath("version.py").read_text()
(version,) = re.findall(r'^__version__ = "(.+)"$', said, re.MULTILINE)
setup(
    version=version if compiled else f"{version}+no.kernels",
    cmdclass={"build_ext": BuildExt} | ({"build_py": BuildPy} if Path("cli.py").is_file() else {}),
    ext_modules=extensions() if compiled else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if compiled else {},
)
