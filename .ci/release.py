"""Builds the sdists and this machine's wheels and tries them in empty environments; ends at what is wrong.

    python .ci/release.py --out build/release      # needs mast-marl[dev]; .ci/wheels.py builds for other machines

A wheel is built from its sdist, so that what is missing there is missing in both, and never without its kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from distributions import DISTRIBUTIONS, ROOT, Distribution, check_contents, run, source

POLICY = ROOT / "tests" / "data" / "3m.mast"
ACTS = """
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
import mast_runtime, mast_runtime.native
assert find_spec("cli") is None, "the name cli is taken"
policy = mast_runtime.load(sys.argv[1])
agent = policy.agent(0)
observations = [[0.25 * ((i * 7 + t) % 9) - 1 for i in range(policy.contract.obs_dim)] for t in range(50)]
actions = [agent.act(obs) for obs in observations]
assert agent.backend == "native", mast_runtime.native_status()
print(agent.backend, *mast_runtime.native.levels())
"""
WITH_EVERYTHING = """
# By its file: its package would need torch.
file = Path(find_spec("mast_train").origin).parent / "engines" / "native" / "_train.abi3.so"
training = module_from_spec(spec_from_file_location("_train", file))
oracle = policy.agent(0, "reference")
assert actions == [oracle.act(obs) for obs in observations]
print("and", training.__name__)
"""
WITH_NOTHING = """
assert find_spec("numpy") is None and find_spec("mast_train") is None
"""


def build(distribution: Distribution, out: Path) -> tuple[Path, Path]:
    """The sdist and the wheel."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, built = source(distribution, Path(scratch)), Path(scratch) / "built"
        environment = os.environ | {"MAST_KERNELS": "required"}
        run(sys.executable, "-m", "build", "--outdir", built, folder, environment=environment)
        out.mkdir(parents=True, exist_ok=True)
        sdist, wheel = ((out / path.name) for kind in ("*.tar.gz", "*.whl") for path in built.glob(kind))
        for path in (sdist, wheel):
            path.write_bytes((built / path.name).read_bytes())
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_contents(distribution, wheel)
    return sdist, wheel


def try_out(distribution: Distribution, wheel: Path) -> None:
    """In an empty environment: the version, the kernels, a policy inspected, measured or replayed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "venv", folder / "env")
        binary = folder / "env" / "bin"
        robot = distribution.name == "mast-runtime"
        where = ("--no-index",) if robot else ("--constraint", ROOT / "constraints.txt")
        run(binary / "pip", "install", "--quiet", *where, wheel)
        print(run(binary / "mast", "--version", cwd=folder).strip())
        code = ACTS + (WITH_NOTHING if robot else WITH_EVERYTHING)
        print(run(binary / "python", "-c", code, POLICY, cwd=folder).strip())
        json.loads(run(binary / "mast", "inspect", POLICY, "--json", cwd=folder))
        json.loads(run(binary / "mast", "selftest", POLICY, "--json", cwd=folder))
        if not robot:
            result = json.loads(run(binary / "mast", "bench", POLICY, "--rounds", "1", "--json", cwd=folder))
            measured = {row["backend"] for row in result["latency"]}
            if not {"native", "reference"} <= measured:
                sys.exit(f"mast bench measured {sorted(measured)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    out = parser.parse_args().out.resolve()
    if out.is_dir() and any(out.iterdir()):
        sys.exit(f"{out} is not empty: remove it, or name another folder with --out")
    for distribution in DISTRIBUTIONS:
        sdist, wheel = build(distribution, out)
        try_out(distribution, wheel)
        for path in (sdist, wheel):
            print(f"{path}: {path.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
