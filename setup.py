"""The C extensions, and the name under which cli.py is installed; everything else is in pyproject.toml.

Without a C compiler the install still succeeds.
"""

from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

NATIVE = "mast_runtime/native/"
TRAIN = "mast_train/native/"
TRAIN_SOURCES = (
    *("_train.c", "_episodes.c", "_mixer.c", "_optimizer.c", "_targets.c"),
    *("threads.c", "topology.c", "mixer.c", "kernels.c", "kernels_v3.c", "kernels_v4.c"),
)
TRAIN_HEADERS = (
    *(
        "calls.h",
        "threads.h",
        "train.h",
        "mixer.h",
        "optimizer.h",
        "train_vector.h",
        "train_products.h",
        "train_tile.h",
    ),
    *("grid.h", "targets.h", "mixer_kernels.h", "optimizer_kernels.h", "targets_kernels.h", "kernels.c"),
)
LIMITED_API = "0x030B0000"
"""CPython 3.11: one binary serves every later version."""


class BuildPy(build_py):
    """Installs cli.py as `mast_cli`: a module `cli` is anybody's. An editable install finds it by package-dir."""

    def find_modules(self) -> list[tuple[str, str, str]]:
        return [("", "mast_cli", "cli.py")]


setup(
    cmdclass={"build_py": BuildPy},
    ext_modules=[
        Extension(
            "mast_runtime.native._native",
            sources=sorted(glob(NATIVE + "*.c")),
            depends=sorted([*glob(NATIVE + "*.h"), *glob(NATIVE + "*.def")]),
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "mast_train.native._train",
            sources=[TRAIN + name for name in TRAIN_SOURCES],
            depends=[TRAIN + name for name in TRAIN_HEADERS] + [NATIVE + "mast_vector.h"],
            define_macros=[("Py_LIMITED_API", LIMITED_API)],
            extra_compile_args=["-std=c11", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            py_limited_api=True,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
