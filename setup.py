"""The C extensions, and the name under which cli.py is installed; everything else is in pyproject.toml.

Without a C compiler the install still succeeds.
"""

import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

NATIVE = "mast_runtime/native/"
TRAIN = "mast_train/engines/native/"
LIMITED_API = "0x030B0000"
"""CPython 3.11: one binary serves every later version."""


def sources(folder: str) -> list[str]:
    """The C files of a folder: those of the instruction sets that its levels.def lists, and all that are of none."""
    levels = re.findall(r"^LEVEL\((\w+)\)", Path(folder, "levels.def").read_text(), re.MULTILINE)
    common = [path.name for path in Path(folder).glob("*.c") if not path.name.startswith("level_")]
    return [folder + name for name in sorted([*common, *(f"level_{level}.c" for level in levels)])]


def headers(folder: str) -> list[str]:
    return sorted(folder + path.name for path in Path(folder).iterdir() if path.suffix in (".h", ".def"))


class BuildPy(build_py):
    """Installs cli.py as `mast_cli`: a module `cli` is anybody's. An editable install finds it by package-dir."""

    def find_modules(self) -> list[tuple[str, str, str]]:
        return [("", "mast_cli", "cli.py")]


setup(
    cmdclass={"build_py": BuildPy},
    ext_modules=[
        Extension(
            "mast_runtime.native._native",
            sources=sources(NATIVE),
            depends=headers(NATIVE),
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "mast_train.engines.native._train",
            sources=sources(TRAIN),
            depends=[*headers(TRAIN), NATIVE + "mast_vector.h"],
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
