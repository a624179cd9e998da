"""The Linux wheels on the systems that they are for, most of them emulated: installed, self-tested and measured.

    make wheels && sudo make arm
    python benchmarks/arm.py dist [--policy FILE] [--roots build/roots] [--json benchmarks/results/arm.json]

Makes Debian 12 roots of amd64, arm64 and armhf (Raspberry Pi OS of 32 bits) with debootstrap. In each, without a
network: the wheel of mast-runtime into an environment without numpy, `mast selftest`, its size, start-up and memory;
then the kernel beside the numpy reference and, where PyPI has wheels of it, ONNX Runtime. arm64 and armhf run under
qemu-user, where only ratios mean something. Needs root, debootstrap, qemu-user-static, and a package index to prepare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
POLICY = HERE.parent / "tests" / "data" / "3m.mast"
PACKAGES = "python3,python3-venv,python3-numpy"
RIVALS = ("numpy", "onnx", "onnxruntime")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
VARIABLES = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "OMP_NUM_THREADS=1"
BINARIES = "/opt/mast/robot/bin"
"""Of the robot's environment, in a root."""
GLIBC = "2_28", "2_27", "2_26", "2_17"
"""Debian 12 has 2.36: it takes wheels built for any of these."""


class System(NamedTuple):
    """A root.

    wheel: platform tag of the wheel for it. qemu: whose binfmt runs it, "" for none. machine: of the wheels that numpy
    and ONNX Runtime have on PyPI; "" where they have none, and Debian's numpy is taken.
    """

    name: str
    wheel: str
    qemu: str
    machine: str


SYSTEMS = {
    "amd64": System("x86-64, not emulated", "manylinux_2_17_x86_64", "", "x86_64"),
    "arm64": System("Debian arm64", "manylinux_2_17_aarch64", "aarch64", "aarch64"),
    "armhf": System("Debian armhf, Raspberry Pi OS 32-bit", "manylinux_2_17_armv7l", "arm", ""),
}


def run(*command: object) -> str:
    """Its output. Ends the program when it fails."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def register(qemu: str) -> None:
    """Let the kernel start this machine's programs: what systemd does at boot where it runs."""
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "none", BINFMT)
    if not (BINFMT / f"qemu-{qemu}").exists():
        rule = Path(f"/usr/lib/binfmt.d/qemu-{qemu}.conf")
        if not rule.is_file():
            sys.exit(f"{rule} is missing: apt install qemu-user-static")
        (BINFMT / "register").write_text(rule.read_text().splitlines()[0])


def make_root(architecture: str, folder: Path) -> Path:
    """A Debian 12 of this architecture with Python and numpy; kept for the next time."""
    root = folder / architecture
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        print(f"{architecture}: debootstrap", flush=True)
        run("debootstrap", f"--arch={architecture}", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
        (root / "complete").touch()
    return root


class Root:
    """A root's shell without a network, and the folder in it where all of this happens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "opt" / "mast"
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)

    def put(self, path: Path) -> str:
        shutil.copy(path, self.home)
        return f"/opt/mast/{path.name}"

    def __call__(self, *command: object) -> str:
        alone = ("unshare", "--net", "--pid", "--fork", f"--mount-proc={self.folder}/proc")
        return run(*alone, "chroot", self.folder, "env", "-i", *VARIABLES, *command)


def installed_bytes(environment: Path) -> int:
    """Of the distribution in this environment: what the wheel brought, its command, and no pip."""
    (site,) = environment.glob("lib/python3*/site-packages")
    paths = [path for part in site.glob("mast_runtime*") for path in part.rglob("*")]
    return sum(path.stat().st_size for path in paths if path.is_file() and "__pycache__" not in path.parts)


def expected_levels() -> list[str]:
    """Instruction sets that /proc/cpuinfo of this x86-64 machine has; a compiler may say otherwise."""
    flags = set(re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[0].split())
    needs = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c"}}
    return [level for level, needed in needs.items() if needed <= flags]


def try_wheel(root: Root, system: System, wheel: Path, policy: Path, rounds: int) -> dict[str, Any]:
    """Installed without numpy and without an index, self-tested, and its start-up."""
    inside, file, probe = root.put(wheel), root.put(policy), root.put(HERE / "arm_probe.py")
    root("python3", "-m", "venv", "/opt/mast/robot")
    started = _children_s()
    root(f"{BINARIES}/pip", "install", "--quiet", "--no-index", "--no-compile", inside)
    installed = _children_s()
    root(f"{BINARIES}/pip", "--version")
    ended = _children_s()
    test = json.loads(root(f"{BINARIES}/mast", "selftest", file, "--json"))
    if not test["passed"]:
        sys.exit(f"{wheel.name}: mast selftest: {test}")
    engines = [check["backend"] for check in test["checks"]]
    if absent := [level for level in expected_levels() if f"native {level}" not in engines and not system.qemu]:
        sys.exit(f"{wheel.name}: this machine has {', '.join(absent)}, and the wheel runs {', '.join(engines)}")
    root(f"{BINARIES}/mast", "inspect", file)
    found = json.loads(root(f"{BINARIES}/python", probe, "start", file, rounds))
    if found["numpy"]:
        sys.exit("the environment of the robot has numpy")
    return {
        "wheel": wheel.name,
        "wheel_bytes": wheel.stat().st_size,
        "installed_bytes": installed_bytes(root.home / "robot"),
        "install_cpu_s": round(installed - started, 2),
        "pip_version_cpu_s": round(ended - installed, 2),
        "selftest": [f"{check['backend']}: {check['equal']} of {check['steps']}" for check in test["checks"]],
        **found,
    }


def _children_s() -> float:
    """Processor seconds of all that was run so far, which a busy machine disturbs less than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(root: Root, system: System, policy: Path, rounds: int) -> dict[str, Any]:
    """The kernel's decisions beside those of the reference, and of ONNX Runtime where PyPI has it.

    The environment of the robot gets numpy for it, so this comes last; this machine's pip puts it there.
    """
    if system.machine:
        platforms = [f"--platform=manylinux_{version}_{system.machine}" for version in GLIBC]
        platforms.append(f"--platform=manylinux2014_{system.machine}")
        (site,) = root.home.glob("robot/lib/python3*/site-packages")
        which = ("--python-version=3.11", "--only-binary=:all:", f"--constraint={HERE.parent / 'constraints.txt'}")
        run(sys.executable, "-m", "pip", "install", "--quiet", *platforms, *which, f"--target={site}", *RIVALS)
    else:
        settings = root.home / "robot" / "pyvenv.cfg"
        closed = "include-system-site-packages = false"
        settings.write_text(settings.read_text().replace(closed, closed.replace("false", "true")))
    return json.loads(
        root(f"{BINARIES}/python", "/opt/mast/arm_probe.py", "decide", f"/opt/mast/{policy.name}", rounds)
    )


def keep(file: Path, architecture: str, row: dict[str, Any]) -> None:
    """The row in place of the one that the file has of this architecture."""
    rows = json.loads(file.read_text()) if file.is_file() else {}
    known = rows | {architecture: row}
    partial = file.with_name(f".{file.name}.tmp")
    partial.write_text(json.dumps({name: known[name] for name in SYSTEMS if name in known}, indent=1) + "\n")
    os.replace(partial, file)


def describe_host() -> dict[str, Any]:
    emulator = run("qemu-aarch64-static", "--version").splitlines()[0]
    return {"machine": platform.machine(), "load_average": round(os.getloadavg()[0], 1), "emulator": emulator}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dist", type=Path, help="folder with the wheels of mast-runtime")
    parser.add_argument("--policy", type=Path, default=POLICY, help="a .mast file with a recorded episode")
    parser.add_argument("--roots", type=Path, default=Path("build/roots"), help="where the roots are kept")
    parser.add_argument("--only", action="append", choices=list(SYSTEMS), help="may be repeated (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("roots are made and entered by root: sudo make arm")
    for architecture in given.only or SYSTEMS:
        system = SYSTEMS[architecture]
        wheels = list(given.dist.glob(f"mast_runtime-*-{system.wheel}.whl"))
        if len(wheels) != 1:
            sys.exit(f"{given.dist} has {len(wheels)} wheels of mast-runtime for {system.wheel}: make wheels")
        if system.qemu:
            register(system.qemu)
        root = Root(make_root(architecture, given.roots.resolve()))
        row = try_wheel(root, system, wheels[0], given.policy, given.rounds)
        row["decisions"] = compare(root, system, given.policy, given.rounds)
        row = {"system": system.name, "emulated": bool(system.qemu), "policy": given.policy.name, **row}
        print(json.dumps(row, indent=1), flush=True)
        if given.json:
            keep(given.json, architecture, row | {"rounds": given.rounds, "host": describe_host()})


if __name__ == "__main__":
    main()
