"""The optional C extension; everything else is in pyproject.toml. Without a C compiler the install still succeeds."""

from setuptools import Extension, setup

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
