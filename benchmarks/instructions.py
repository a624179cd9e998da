"""Instructions per decision of exported C, scalar: sparse beside dense networks of one shape.

    python benchmarks/instructions.py [--steps 50] [--json FILE]

in = 80 (66 observations and the last of 14 actions), hidden 64, 95 % sparsity, random networks, one recorded episode.
x86: counted by valgrind's callgrind inside policy_act, gcc -O2 without vectorisation. Cortex-M4F: counted by QEMU
(benchmarks/cortex_m), where gcc-arm-none-eabi and qemu-system-arm are installed. Bytes are code and constant tables.
Instructions are not cycles: a Cortex-M4 takes one for most of them, two for a load, fourteen for a division.
"dense" is one dot product per output; "dense, 8 outputs at a time" is the same matrix written as full 8x1 blocks, which
loads each input once for eight weights: the strongest dense code that the exporter can write.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cortex import on_chip
from networks import random_bundle

from mast_export.c.build import build
from mast_export.c.source import generate
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import Bundle, Layer
from mast_runtime.measure.machine import describe_machine
from mast_runtime.network import LAYERS, SEGMENTS

SCALAR = ("-std=c99", "-O2", "-fno-tree-vectorize")
BASE = "dense"


@dataclass(frozen=True)
class Row:
    """One network: instructions per step and bytes of code and tables; None where the tools are missing."""

    network: str
    x86_instructions: int | None
    x86_bytes: int | None
    cortex_m4_instructions: int | None
    cortex_m4_bytes: int | None


def bundles() -> dict[str, Bundle]:
    """The networks compared, by name."""

    def sparse(blocks: dict[str, int]) -> Bundle:
        return random_bundle(1, 1, 66, 14, hidden=64, sparsity=0.95, blocks=blocks)

    fine = sparse({})
    dense = replace(fine, networks=(fine.networks[0].densified(),))
    full = {
        name: Layer.from_dense(layer.dense(), np.ones((layer.outputs, layer.inputs), bool), 8, SEGMENTS[name])
        for name, layer in fine.networks[0].layers().items()
    }
    return {
        BASE: dense,
        "dense, 8 outputs at a time": replace(fine, networks=(replace(fine.networks[0], **full),)),
        "unstructured": fine,
        "unstructured f16": quantise(fine, "f16"),
        "unstructured i8": fine,
        "mixed: GRU 16x1": sparse({"weight_ih": 16, "weight_hh": 16}),
        "8x1": sparse(dict.fromkeys(LAYERS, 8)),
        "16x1": sparse(dict.fromkeys(LAYERS, 16)),
    }


def record(bundle: Bundle, steps: int) -> Trace:
    """An episode of random observations."""
    obs = np.random.default_rng(0).standard_normal((steps, 1, bundle.contract.obs_dim)).astype(np.float32)
    team, q, hidden = bundle.team(backend="reference"), [], []
    for row in obs:
        team.act(row)
        q.append(team.q.copy())
        hidden.append(team.hidden.copy())
    return Trace(obs, np.ones((steps, 1, bundle.contract.n_actions), bool), np.array(q), np.array(hidden))


def measure(name: str, bundle: Bundle, steps: int) -> Row:
    """Build, count and check one network."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = generate(bundle, 0, record(bundle, steps), fixed=name.endswith(" i8"))
        for file, text in source.files.items():
            (folder / file).write_text(text)
        x86 = _x86(folder, steps) if shutil.which("valgrind") and shutil.which("gcc") else (None, None)
        tools = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")
        return Row(name, *x86, *(_cortex_m4(folder) if tools else (None, None)))


def _x86(folder: Path, steps: int) -> tuple[int, int]:
    program, counts = folder / "policy_test", folder / "counts"
    build(["gcc"], folder, program, SCALAR)
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=policy_act", f"--callgrind-out-file={counts}"]
    said = _run([*command, str(program), "bits"])
    _run(["gcc", *SCALAR, "-c", "-o", str(folder / "policy.o"), str(folder / "policy.c")])
    return int(re.findall(r"Collected : (\d+)", said)[0]) // steps, _size("size", folder / "policy.o")


def _cortex_m4(folder: Path) -> tuple[int, int]:
    found = on_chip(folder, "m4f")
    return found["instructions"], found["flash_bytes"]


def _size(tool: str, path: Path) -> int:
    text, data = _run([tool, str(path)]).splitlines()[1].split()[:2]
    return int(text) + int(data)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{(done.stdout + done.stderr)[-500:]}")
    return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows = [measure(name, bundle, options.steps) for name, bundle in bundles().items()]
    base = next(row for row in rows if row.network == BASE)
    for title, key in (("x86-64, callgrind", "x86"), ("Cortex-M4F, QEMU", "cortex_m4")):
        one = getattr(base, f"{key}_instructions")
        if one is None:
            print(f"{title}: the tools are not installed")
            continue
        print(f"{title:30s}{'instructions':>14s}{'fewer':>8s}{'bytes':>9s}")
        for row in rows:
            count, size = getattr(row, f"{key}_instructions"), getattr(row, f"{key}_bytes")
            print(f"{row.network:30s}{count:14,}{one / count:7.1f}x{size:9,}")
    if options.json:
        result = {"machine": asdict(describe_machine()), "steps": options.steps, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
