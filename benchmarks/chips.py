"""Policies on emulated microcontrollers: instructions, flash, RAM and stack of a decision, by chip and kind of numbers.

    python benchmarks/chips.py RUN [RUN ...] [--agent 0] [--steps 20] [--json FILE]

RUN: a run's folder; its last snapshot's policy of one agent is written as C in each kind, dense (as trained, every
weight stored) and sparse (compacted, as exported), and plays the first steps of the recorded episode under QEMU
(benchmarks/cortex_m). Every row takes the runtime's actions. "dense, 16-bit integers" is what a plain GRU in C does on
such chips: the fixed-point policy's own numbers, every weight in 16 bits and multiplied, zeros too. "integers in" gets
its observation by policy_act_i16, without the conversion of floats. gcc -O2; flash is code, tables and the compiler's
own arithmetic that is called; RAM is the state and the deepest stack.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from cortex import on_chip

from mast_export.c import fixed_text
from mast_export.c.matrices import Table
from mast_export.c.source import Source, generate
from mast_export.compact import compact_bundle
from mast_export.extract import extract, record_trace
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import Bundle
from mast_train.runs.folders import find_snapshot

CHIPS = {"m0": "Cortex-M0", "m4f": "Cortex-M4F"}
DENSE_LOOP = """\
    for (unsigned n = row >> 2; n > 0u; n--)
        sum += *connection++ * *x++;
"""


@dataclass(frozen=True)
class Row:
    """One kind of one policy on one chip. ram_bytes: state_bytes and stack_bytes."""

    map: str
    network: str
    connections: int
    chip: str
    instructions: int
    flash_bytes: int
    state_bytes: int
    stack_bytes: int

    @property
    def ram_bytes(self) -> int:
        return self.state_bytes + self.stack_bytes


def dense_integers(source: Source) -> dict[str, str]:
    """The files of a fixed-point policy with every weight stored and multiplied."""
    fixed, files = source.fixed, dict(source.files)
    assert fixed is not None
    inputs = len(fixed.fc1.weights)
    rows = [*fixed.fc1.weights]
    for i, row in enumerate(fixed.middle.weights):
        rows.append((row, row, row[:inputs], row[inputs:])[i % 4])
    rows += [*fixed.fc2.weights]
    shifts = np.concatenate([part.shifts - part.shifts.min() for part in (fixed.fc1, fixed.middle, fixed.fc2)])
    heads = np.array([len(row) << 2 for row in rows]) + shifts.astype(int)
    tables = [Table("int16_t", "connections", np.concatenate(rows).astype(int)), Table("uint16_t", "rows", heads)]
    text = files["policy.c"]
    for table in tables:
        text = re.sub(rf"static const \w+ {table.name}\[\] = \{{.*?\}};\n", table.text(), text, flags=re.DOTALL)
    sparse = re.findall(r"    for \(unsigned n = row >> 2.*?\n    }\n", fixed_text.CODE, re.DOTALL)[0]
    text = text.replace(sparse, DENSE_LOOP)
    files["policy.c"] = re.sub(r"const uint\d+_t \*row;", "const uint16_t *row;", text)
    return files


def kinds(bundle: Bundle, trace: Trace, agent: int) -> dict[str, dict[str, str]]:
    """The policy's files by kind."""
    network = bundle.agents[agent].network
    full = replace(bundle, networks=tuple(one.densified() for one in bundle.networks))
    small, kept, _ = compact_bundle(bundle, trace)
    own, kept = trace.agent(agent, bundle.networks[network].hidden), kept.agent(agent, small.networks[network].hidden)
    fixed = generate(small, agent, kept, fixed=True).files
    return {
        "dense, float": generate(full, agent, own).files,
        "dense, 16-bit integers": dense_integers(generate(bundle, agent, own, fixed=True)),
        "sparse, f32": generate(small, agent, kept).files,
        "sparse, f16": generate(quantise(small, "f16"), agent, kept).files,
        "sparse, i8": fixed,
        "sparse, i8, integers in": fixed,
    }


def shortened(files: dict[str, str], steps: int) -> dict[str, str]:
    """The recorded episode's first steps: a small chip has no room for more."""
    name = "POLICY_TRACE_STEPS"
    header = re.sub(rf"#define {name} \d+", f"#define {name} {steps}", files["policy_trace.h"])
    return files | {"policy_trace.h": header}


def measure(folder: Path, agent: int, steps: int) -> list[Row]:
    """Every kind of a run's policy on every chip."""
    snapshot, found = find_snapshot(folder, "last"), []
    bundle, trace = extract(snapshot), record_trace(snapshot, folder / "trace.safetensors")
    connections = bundle.networks[bundle.agents[agent].network].nnz
    for kind, files in kinds(bundle, trace, agent).items():
        with tempfile.TemporaryDirectory() as scratch:
            for name, text in shortened(files, steps).items():
                Path(scratch, name).write_text(text)
            for chip, title in CHIPS.items():
                figures = on_chip(Path(scratch), chip, kind.endswith("integers in"))
                found.append(Row(bundle.info["map"], kind, connections, title, **figures))
                print(f"{found[-1].map:6s}{kind:26s}{title:12s}{found[-1].instructions:12,} instructions"
                      f"{found[-1].flash_bytes:9,} flash{found[-1].ram_bytes:7,} RAM", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--agent", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="decisions")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows = [row for run in options.runs for row in measure(run, options.agent, options.steps)]
    if options.json:
        compiler = subprocess.run(["arm-none-eabi-gcc", "-dumpversion"], capture_output=True, text=True).stdout.strip()
        listed = [asdict(row) | {"ram_bytes": row.ram_bytes} for row in rows]
        result = {"gcc": compiler, "agent": options.agent, "steps": options.steps, "rows": listed}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
