"""Builds the sdists and the wheels of both distributions, for every target, from one machine with zig.

    python .ci/wheels.py [--out dist] [--dist mast-runtime] [--target manylinux_2_17_aarch64]     # make wheels

A wheel's tag is given after its binaries were looked at: machine, word, float ABI, libraries, versions of symbols and
of macOS, and that they use the stable ABI only. A wheel without its kernels ends the program.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from binaries import parse_tag, problems
from distributions import DISTRIBUTIONS, Distribution, check_contents, run, source

CROSS = Path(__file__).resolve().parent / "cross"
TARGETS: dict[str, Sequence[str]] = {
    "manylinux_2_17_x86_64": ("x86_64-linux-gnu.2.17",),
    "manylinux_2_17_aarch64": ("aarch64-linux-gnu.2.17",),
    "manylinux_2_17_armv7l": ("arm-linux-gnueabihf.2.17", "-mcpu=generic+v7a-neon-d32"),
    "musllinux_1_2_x86_64": ("x86_64-linux-musl",),
    "musllinux_1_2_aarch64": ("aarch64-linux-musl",),
    "macosx_11_0_arm64": ("aarch64-macos.11.0",),
    "macosx_11_0_x86_64": ("x86_64-macos.11.0",),
}
"""Platform tag -> zig's target, and flags. armv7l is Debian's armhf: VFPv3 of 16 registers and no NEON, which some of
its processors lack and which, of 32 bits, is not IEEE 754."""
FLAGS = "-DNDEBUG -fwrapv -g0"


def build_environment(tag: str, headers: Path) -> dict[str, str]:
    """What setuptools reads: zig for the target, CPython's headers for any, and no wheel without kernels."""
    target, *flags = TARGETS[tag]
    compiler = " ".join([sys.executable, "-m", "ziglang", "cc", "-target", target, *flags])
    undefined = " -Wl,-undefined,dynamic_lookup" if parse_tag(tag).system == "macosx" else ""
    return os.environ | {
        "MAST_KERNELS": "required",
        "CC": compiler,
        "CFLAGS": f"{FLAGS} -I{headers}",
        "LDSHARED": f"{compiler} -shared -s{undefined}",
        "LDFLAGS": "",
    }


def copy_headers(folder: Path) -> Path:
    """CPython's headers, with a pyconfig.h that is right for every target."""
    headers = folder / "include"
    shutil.copytree(sysconfig.get_path("include"), headers)
    shutil.copy(CROSS / "pyconfig.h", headers / "pyconfig.h")
    return headers


def build_sdist(distribution: Distribution, out: Path) -> Path:
    """The sdist, from which its wheels are built: what is missing there is missing in all."""
    with tempfile.TemporaryDirectory() as scratch:
        build(source(distribution, Path(scratch)), "--sdist", out)
    (sdist,) = out.glob(f"{distribution.name.replace('-', '_')}-*.tar.gz")
    return sdist


def build(folder: Path, kind: str, out: Path, environment: dict[str, str] | None = None) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", out, folder, environment=environment)


def build_wheel(distribution: Distribution, sdist: Path, tag: str, headers: Path, out: Path) -> Path:
    """The wheel of one target, checked and under its tag. Objects of another target are never at hand."""
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        (folder,) = Path(scratch).iterdir()
        built = Path(scratch) / "built"
        build(folder, "--wheel", built, build_environment(tag, headers))
        (wheel,) = built.glob("*.whl")
        check(distribution, wheel, tag)
        name = run(sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag, wheel).split()[-1]
        wheel = built / name
        run(sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel)
        return Path(shutil.move(wheel, out / wheel.name))


def check(distribution: Distribution, wheel: Path, tag: str) -> None:
    """Ends the program where the wheel lacks a kernel, has what is not its own, or does not fit its tag."""
    check_contents(distribution, wheel)
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        modules = [Path(archive.extract(name, scratch)) for name in distribution.kernels]
        found = [problem for module in modules for problem in problems(module, tag)]
    if found:
        sys.exit(f"{distribution.name} for {tag}: {'; '.join(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="an empty or new folder (default: dist)")
    parser.add_argument("--dist", action="append", choices=[x.name for x in DISTRIBUTIONS], help="only this one")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    given = parser.parse_args()
    out = given.out.resolve()
    if out.is_dir() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: remove it, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        headers = copy_headers(Path(scratch))
        for distribution in DISTRIBUTIONS:
            if distribution.name not in (given.dist or [distribution.name]):
                continue
            files = [build_sdist(distribution, out)]
            for tag in (tag for tag in distribution.targets if tag in (given.target or TARGETS)):
                files.append(build_wheel(distribution, files[0], tag, headers, out))
            for path in files:
                print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
