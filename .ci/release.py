"""Builds the sdist and the wheel into dist/ and tries them in an empty environment; stops at the first thing wrong.

    python .ci/release.py [--out dist]      # needs mast-marl[dev]

The wheel is built from the sdist, so that what is missing there is missing in both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / "tests" / "data" / "3m.mast"
KERNELS = ("mast_runtime/native/_native.abi3.so", "mast_train/engines/native/_train.abi3.so")
LOADED = """
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
import mast_runtime, mast_runtime.native
assert find_spec("cli") is None, "the name cli is taken"
# By its file: its package would need torch.
file = Path(find_spec("mast_train").origin).parent / "engines" / "native" / "_train.abi3.so"
training = module_from_spec(spec_from_file_location("_train", file))
policy = mast_runtime.load(sys.argv[1])
agent, oracle = policy.agent(0), policy.agent(0, "reference")
observations = [[0.25 * ((i * 7 + t) % 9) - 1 for i in range(policy.contract.obs_dim)] for t in range(50)]
assert [agent.act(obs) for obs in observations] == [oracle.act(obs) for obs in observations]
print(agent.backend, *mast_runtime.native.levels(), f"and {training.__name__}")
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    """Its output; what it says on standard error is shown. Ends the program when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path]:
    """The sdist and the wheel."""
    if out.is_dir() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: remove it, or name another folder with --out")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def check_contents(wheel: Path) -> None:
    """The kernels are inside, and nothing lies at the top that is not ours."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in KERNELS if name not in names]
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    expected = {"mast_cli.py", "mast_export", "mast_runtime", "mast_train"}
    if missing or tops != expected:
        sys.exit(f"{wheel.name}: missing {missing}, at the top {sorted(tops)}, expected {sorted(expected)}")


def try_out(wheel: Path) -> None:
    """In an empty environment: the version, both kernels, a policy inspected and measured."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "venv", folder / "env")
        binary = folder / "env" / "bin"
        run(binary / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        print(run(binary / "mast", "--version", cwd=folder).strip())
        print(run(binary / "python", "-c", LOADED, POLICY, cwd=folder).strip())
        json.loads(run(binary / "mast", "inspect", POLICY, "--json", cwd=folder))
        result = json.loads(run(binary / "mast", "bench", POLICY, "--rounds", "1", "--json", cwd=folder))
        measured = {row["backend"] for row in result["latency"]}
        if not {"native", "reference"} <= measured:
            sys.exit(f"mast bench measured {sorted(measured)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="an empty or new folder (default: dist)")
    out = parser.parse_args().out
    sdist, wheel = build(out)
    check_contents(wheel)
    try_out(wheel)
    for path in (sdist, wheel):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
