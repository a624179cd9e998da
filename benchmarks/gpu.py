"""What MAST does on an NVIDIA GPU, in four minutes: the card, its tests, updates, the recurrence, SMAX, training.

    python benchmarks/gpu.py [--seconds 240] [--json FILE] [--stages card tests packed train update smax kernels]
                             [--again] [--jaxmarl CHECKOUT] [--device cpu --tiny]

Every stage is a process of its own with a time limit, and survives the failure of another. FILE is written after each;
with a FILE that is there, stages that were finished are not repeated, others go on at the row they were at. `--again`
begins anew. A table comes last; how to read it, and what to carry to a machine without network, is in
benchmarks/README.md. `--device cpu --tiny` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gpu_rows import BROKEN, Broken, Options, Row, Rows, ended_at, one_line
from gpu_table import table

ROOT = Path(__file__).resolve().parent.parent
PLAN = {"card": 15, "tests": 50, "packed": 35, "train": 80, "update": 40, "smax": 25, "kernels": 15, "jaxmarl": 60}
"""Stage -> its part of the time, what is asked first first. What a stage leaves over is the later ones'."""
CUT_SHORT, NO_GPU = 3, 4
"""Exit status of a stage that had no time for some rows, and of one that finds no GPU."""
AGAIN_S = 10.0
"""A stage whose process broke down at a row goes on behind that row, if so much of its time is left."""
MARGIN_S = 4.0
"""Between the time that a stage is told and the time that it is given: what starting takes."""


def work_of(stage: str) -> Callable[[Rows, Options], None]:
    if stage == "update":
        from gpu_update import stage_update

        return stage_update
    if stage == "packed":
        from gpu_packed import stage_packed

        return stage_packed
    if stage == "train":
        from gpu_train import stage_train

        return stage_train
    import gpu_stages

    return getattr(gpu_stages, f"stage_{stage}")


def run_here(stage: str, rows: Path, options: Options) -> int:
    """A stage in this process; its exit status."""
    found = Rows(rows, options.seconds)
    import torch

    torch.set_num_threads(1)  # of a CPU: more would wait for each other on a busy one
    if options.device == "cuda" and not torch.cuda.is_available():
        return NO_GPU
    try:
        work_of(stage)(found, options)
    except Broken:
        return BROKEN
    except Exception as error:
        found.put("stage", {"error": one_line(error)})
        raise
    return CUT_SHORT if found.skipped else 0


def run_apart(stage: str, rows: Path, options: argparse.Namespace, limit_s: float) -> str:
    """A stage in a process of its own, ended with all that it started at its limit; what became of it."""
    told = max(1.0, limit_s - MARGIN_S)
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", stage, "--rows", str(rows)]
    command += ["--device", options.device, "--seconds", f"{told:.1f}", *(["--tiny"] if options.tiny else [])]
    command += ["--jaxmarl", str(options.jaxmarl)] if options.jaxmarl else []
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == NO_GPU:
        print("error: this torch sees no CUDA GPU; --device cpu --tiny shows that everything runs", file=sys.stderr)
        raise SystemExit(2)
    return {0: "done", CUT_SHORT: "cut short"}.get(status, f"exit {status}")


def run_stage(stage: str, before: Row, options: argparse.Namespace, limit_s: float, folder: Path) -> Row:
    rows = folder / f"{stage}.json"
    rows.write_text(json.dumps(before.get("rows", {})))
    started, whole = time.monotonic(), True
    while True:
        status = run_apart(stage, rows, options, limit_s - (time.monotonic() - started))
        died_at, whole = ended_at(rows, status, whole), False
        if not died_at or limit_s - (time.monotonic() - started) < AGAIN_S:
            break
    found = json.loads(rows.read_text())
    failed = [name for name, row in found.items() if "error" in row]
    status = "failed" if failed and status == "done" else status
    return {"status": status, "seconds": round(time.monotonic() - started, 1), "rows": found}


def run_all(options: argparse.Namespace, found: dict[str, Row]) -> None:
    """The stages that are not done, in the time that there is; found is kept in the file after each."""
    stages = [stage for stage in options.stages if options.again or found.get(stage, {}).get("status") != "done"]
    ends = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        for number, stage in enumerate(stages):
            left = ends - time.monotonic()
            limit = left * PLAN[stage] / sum(PLAN[other] for other in stages[number:])
            before = {} if options.again else found.get(stage, {})
            print(f"{stage}: at most {limit:.0f} s", flush=True)
            found[stage] = run_stage(stage, before, options, limit, Path(folder))
            print(f"{stage}: {found[stage]['status']} after {found[stage]['seconds']:.0f} s", flush=True)
            if options.json:
                keep(options.json, found)


def keep(path: Path, found: dict[str, Row]) -> None:
    written = path.with_name(f"{path.name}.new")
    written.write_text(json.dumps({"stages": found}, indent=1) + "\n")
    written.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stages", nargs="+", choices=list(PLAN))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jaxmarl", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--stage", choices=list(PLAN), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.jaxmarl and "jaxmarl" in (options.stages or ()):
        parser.error("--stages jaxmarl: which JaxMARL? give --jaxmarl CHECKOUT, a clone of it")
    if options.stage:
        given = Options(options.device, options.tiny, options.seconds, options.jaxmarl)
        raise SystemExit(run_here(options.stage, options.rows, given))
    options.stages = options.stages or [stage for stage in PLAN if stage != "jaxmarl" or options.jaxmarl]
    found: dict[str, Row] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())["stages"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a stage is ended too
    run_all(options, found)
    print("\n".join(table({stage: found[stage] for stage in PLAN if stage in found})), flush=True)
    if any(stage["status"] != "done" for stage in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
