"""Policies on emulated microcontrollers: instructions, flash, RAM and stack of a decision, by chip and kind of numbers.

    python benchmarks/chips.py RUN [RUN ...] [--agent 0] [--steps 20] [--json FILE]
    python benchmarks/chips.py --actors [--json FILE]
    python benchmarks/chips.py --critics [--json FILE]

--actors: in place of runs, the continuous actors of continuous.py, unstructured, whose weights are random. --critics:
COMIX's agents of the same size, which search for their actions and do not compute in integers.
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
from continuous import HIDDEN, bundle_of, searching
from cortex import on_chip

from mast_export.c import fixed_text
from mast_export.c.matrices import Table
from mast_export.c.source import Source, generate
from mast_export.compact import compact_bundle
from mast_export.extract import extract, record_trace
from mast_export.quantise import quantise
from mast_export.verify import Trace
from mast_runtime import Bundle
from mast_runtime.search import Values
from mast_train.runs.folders import find_snapshot

CHIPS = {"m0": "Cortex-M0", "m4f": "Cortex-M4F"}
FLASH_BYTES = {"m0": 256_000, "m4f": 4_000_000}
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
        rows.append((row, row, row[:inputs], row[inputs:])[i % 4] if fixed.recurrent else row)
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
    network, head = bundle.agents[agent].network, bundle.contract.head
    full = replace(bundle, networks=tuple(one.densified() for one in bundle.networks))
    small, kept, _ = compact_bundle(bundle, trace)
    own, kept = trace.agent(agent, bundle.networks[network].hidden), kept.agent(agent, small.networks[network].hidden)
    in_float = {
        "dense, float": generate(full, agent, own).files,
        "sparse, f32": generate(small, agent, kept).files,
        "sparse, f16": generate(quantise(small, "f16"), agent, kept).files,
    }
    if head is not None and head.search is not None:
        return in_float
    fixed = generate(small, agent, kept, fixed=True).files
    return {
        "dense, float": in_float["dense, float"],
        "dense, 16-bit integers": dense_integers(generate(bundle, agent, own, fixed=True)),
        "sparse, f32": in_float["sparse, f32"],
        "sparse, f16": in_float["sparse, f16"],
        "sparse, i8": fixed,
        "sparse, i8, integers in": fixed,
    }


def shortened(files: dict[str, str], steps: int) -> dict[str, str]:
    """The recorded episode's first steps: a small chip has no room for more."""
    name = "POLICY_TRACE_STEPS"
    header = re.sub(rf"#define {name} \d+", f"#define {name} {steps}", files["policy_trace.h"])
    return files | {"policy_trace.h": header}


def recorded(bundle: Bundle, steps: int = 200) -> Trace:
    """Random observations, and what the reference makes of them."""
    team, head = bundle.team(backend="reference"), bundle.contract.head
    shape = steps, team.n, bundle.contract.obs_dim
    obs, q, hidden = np.random.default_rng(0).standard_normal(shape).astype(np.float32), [], []
    for row in obs:
        team.act(row)
        q.append(team.q.copy())
        hidden.append(team.hidden.copy())
    every, values = np.ones((*shape[:2], bundle.contract.n_actions), bool), None
    if head is not None and head.search is not None:
        values = Values.of(bundle.team_networks)
    return Trace(obs, every, np.array(q), np.array(hidden), head=head, indices=tuple(range(team.n)), values=values)


def of_run(folder: Path) -> tuple[str, Bundle, Trace]:
    """Its map, its last policy, its recorded episode."""
    snapshot = find_snapshot(folder, "last")
    bundle = extract(snapshot)
    return bundle.info["map"], bundle, record_trace(snapshot, folder / "trace.safetensors")


def of_actors() -> list[tuple[str, Bundle, Trace]]:
    """Continuous actors with and without a memory."""
    found = []
    for architecture in ("mlp", "gru"):
        for hidden in HIDDEN:
            bundle = bundle_of(architecture, hidden, "unstructured")
            found.append((f"{architecture.upper()} {hidden}", bundle, recorded(bundle)))
    return found


def of_critics() -> list[tuple[str, Bundle, Trace]]:
    """The same with COMIX's search at its defaults."""
    found = []
    for architecture in ("mlp", "gru"):
        bundle = searching(bundle_of(architecture, 64, "unstructured"))
        found.append((f"{architecture.upper()} 64", bundle, recorded(bundle)))
    return found


def fits(files: dict[str, str], chip: str) -> bool:
    """Has the chip room for the tables?"""
    sizes = {"float": 4, "int32_t": 4, "int16_t": 2, "uint16_t": 2, "uint8_t": 1, "int8_t": 1}
    tables = re.findall(r"const (\w+) \w+\[\] = \{\n(.*?)\n\};", files["policy.c"], re.DOTALL)
    return sum(sizes[kind] * (1 + values.count(",")) for kind, values in tables) < FLASH_BYTES[chip]


def measure(name: str, bundle: Bundle, trace: Trace, agent: int, steps: int) -> list[Row]:
    """Every kind of a policy on every chip that has room for it."""
    found = []
    connections = bundle.networks[bundle.agents[agent].network].nnz
    for kind, files in kinds(bundle, trace, agent).items():
        with tempfile.TemporaryDirectory() as scratch:
            for file, text in shortened(files, steps).items():
                Path(scratch, file).write_text(text)
            for chip, title in CHIPS.items():
                if not fits(files, chip):
                    continue
                figures = on_chip(Path(scratch), chip, kind.endswith("integers in"))
                found.append(Row(name, kind, connections, title, **figures))
                print(f"{found[-1].map:6s}{kind:26s}{title:12s}{found[-1].instructions:12,} instructions"
                      f"{found[-1].flash_bytes:9,} flash{found[-1].ram_bytes:7,} RAM", flush=True)  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN")
    parser.add_argument("--actors", action="store_true", help="continuous actors in place of runs")
    parser.add_argument("--critics", action="store_true", help="agents that search for their actions in their place")
    parser.add_argument("--agent", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="decisions")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if bool(options.runs) + options.actors + options.critics != 1:
        parser.error("name RUNs, or say --actors or --critics")
    made = of_actors() if options.actors else of_critics() if options.critics else None
    policies = made or [of_run(run) for run in options.runs]
    rows = [row for one in policies for row in measure(*one, options.agent, options.steps)]
    if options.json:
        compiler = subprocess.run(["arm-none-eabi-gcc", "-dumpversion"], capture_output=True, text=True).stdout.strip()
        listed = [asdict(row) | {"ram_bytes": row.ram_bytes} for row in rows]
        result = {"gcc": compiler, "agent": options.agent, "steps": options.steps, "rows": listed}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
