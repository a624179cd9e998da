"""The optional C extension; everything else is in pyproject.toml. Without a C compiler the install still succeeds."""

import re
from pathlib import Path

from setuptools import Extension, setup

NATIVE = "mast_runtime/native/"
TRAIN = "mast_train/native/"
LIMITED_API = "0x030B0000"
"""CPython 3.11: one binary serves every later version."""


def sources(folder: str) -> list[str]:
    """The C files of a folder: those of the instruction sets that its levels.def lists, and all that are of none."""
    levels = re.findall(r"^LEVEL\((\w+)\)", Path(folder, "levels.def").read_text(), re.MULTILINE)
    common = [path.name for path in Path(folder).glob("*.c") if not path.name.startswith("level_")]
    return [folder + name for name in sorted([*common, *(f"level_{level}.c" for level in levels)])]


def headers(folder: str) -> list[str]:
    return sorted(folder + path.name for path in Path(folder).iterdir() if path.suffix in (".h", ".def"))


setup(
    ext_modules=[
        Extension(
            "mast_runtime.native._native",
            sources=[NATIVE + name for name in ("_native.c", "mast.c", "mast_v3.c", "mast_v4.c")],
            depends=[NATIVE + name for name in ("mast.h", "mast.c", "mast_vector.h", "mast_products.h", "mast_lanes.h")]
            + [f"{NATIVE}_{name}.h" for name in ("buffers", "packed", "windows", "network", "agent", "group", "team")],
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "mast_train.native._train",
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
