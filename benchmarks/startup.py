"""Start-up and memory of a process that loads a policy and decides once, beside the same with onnxruntime.

    python benchmarks/startup.py [POLICY.mast] [--rounds 9] [--json benchmarks/results/startup.json]

Every process runs once per round, in turn; figures are medians. `mast_runtime` imports the runtime, loads the .mast
file and decides with the native backend where it is built, on an observation of the standard library's array, which
needs no numpy, or on one of numpy; `onnxruntime` imports onnxruntime, loads the same agent's dense .onnx file and runs
it once, which needs numpy. Its import is a row of its own. Without POLICY: a random policy of 95 % sparsity with SMAX
3m's sizes and hidden 64. Needs mast-marl[export].
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from networks import random_bundle

from mast_runtime import load, save
from mast_runtime.measure.machine import describe_machine
from mast_runtime.measure.startup import BARE, bare_command, measure_startup, model_command, policy_command, write_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        path, model = options.policy or Path(folder) / "random.mast", Path(folder) / "agent.onnx"
        if options.policy is None:
            save(replace(random_bundle(0, 3, 75, 8, hidden=64, sparsity=0.95), info={"map": "random 3m"}), path)
        if not write_model(load(path), 0, model):
            sys.exit('this comparison needs onnx and onnxruntime; pip install "mast-marl[export]"')
        commands = {
            BARE: bare_command(),
            "import numpy": ("import numpy",),
            "mast_runtime": policy_command(path),
            "mast_runtime, numpy inputs": policy_command(path, numpy=True),
            "onnxruntime": model_command(model),
        }
        rows = measure_startup(commands, options.rounds)
    print(f"{machine.cpu}, {machine.cores} cores, {machine.native}, {options.rounds} rounds")
    print(f"{'process':28s}{'ms':>8s}{'cpu ms':>8s}{'peak MB':>9s}{'resident MB':>13s}")
    for row in rows:
        peak, resident = row.peak_bytes / 1e6, row.resident_bytes / 1e6
        print(f"{row.name:28s}{row.startup_ms:8.0f}{row.cpu_ms:8.0f}{peak:9.1f}{resident:13.1f}")
    if machine.warning:
        print(f"note: {machine.warning}")
    if options.json:
        result = {"machine": asdict(machine), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
