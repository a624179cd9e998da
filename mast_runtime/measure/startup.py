"""Start-up time and memory of a process that loads a policy and decides once, measured in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from mast_runtime.bundle import Bundle
from mast_runtime.errors import RuntimeFault
from mast_runtime.imports import importable

BARE = "python, nothing imported"
MODEL_FILE = "onnxruntime, model file"
_POLICY = """
import sys
import array
import mast_runtime
agent = mast_runtime.load(sys.argv[1]).agent(int(sys.argv[2]), sys.argv[3])
agent.act(array.array("f", bytes(4 * agent.contract.obs_dim)))
"""
_NUMPY_POLICY = """
import sys
import numpy
import mast_runtime
agent = mast_runtime.load(sys.argv[1]).agent(int(sys.argv[2]), sys.argv[3])
agent.act(numpy.zeros(agent.contract.obs_dim, numpy.float32))
"""
_MODEL = """
import sys
import numpy
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
types = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64, "tensor(bool)": numpy.bool_}
shapes = {given.name: [size if isinstance(size, int) else 1 for size in given.shape] for given in session.get_inputs()}
session.run(None, {given.name: numpy.ones(shapes[given.name], types[given.type]) for given in session.get_inputs()})
"""
# On Linux ru_maxrss survives exec and so starts at the parent's peak; VmHWM belongs to the child alone.
_REPORT = """
import sys
import time
print("acted", time.process_time(), flush=True)
try:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(*(1024 * int(status[key].split()[0]) for key in ("VmHWM", "VmRSS")))
except OSError:
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    print(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0)
"""


@dataclass(frozen=True)
class StartupRow:
    """A process from its start to its first decision: medians over the rounds; resident memory 0 where unknown.

    startup_ms: wall time. cpu_ms: processor time, which a busy machine disturbs less.
    """

    name: str
    startup_ms: float
    cpu_ms: float
    peak_bytes: int
    resident_bytes: int
    rounds_ms: list[float]


Command = Sequence[str]
"""A Python program and its arguments."""


def policy_command(path: Path, index: int = 0, backend: str = "auto", numpy: bool = False) -> Command:
    """Load a .mast file and decide once, on a numpy observation or on one of the standard library's array."""
    return _NUMPY_POLICY if numpy else _POLICY, str(path), str(index), backend


def model_command(path: Path) -> Command:
    """Load an ONNX model with onnxruntime alone, on one thread, and run it once."""
    return _MODEL, str(path)


def bare_command() -> Command:
    """The floor: a Python that imports nothing."""
    return ("",)


def write_model(bundle: Bundle, index: int, path: Path) -> bool:
    """Write agent `index`'s dense ONNX model for MODEL_FILE; False where onnx or onnxruntime cannot be imported."""
    if not importable("onnx", "onnxruntime"):
        return False
    from mast_runtime.onnx_graph import build_model

    agent = bundle.agents[index]
    path.write_bytes(build_model(bundle.contract, bundle.networks[agent.network], agent).SerializeToString())
    return True


def measure_startup(commands: Mapping[str, Command], rounds: int) -> list[StartupRow]:
    """Run every command once per round, in turn, after one round that warms the file cache. Raises RuntimeFault."""
    found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in commands}
    for i in range(rounds + 1):
        for name, command in commands.items():
            sample = _run(name, command)
            if i:
                found[name].append(sample)
    rows = []
    for name, samples in found.items():
        wall, cpu, peaks, resident = zip(*samples, strict=True)
        rows.append(StartupRow(name, median(wall), median(cpu), int(median(peaks)), int(median(resident)), list(wall)))
    return rows


def _run(name: str, command: Command) -> tuple[float, float, int, int]:
    """Wall and processor milliseconds to the first decision, peak and resident bytes."""
    program, *arguments = command
    # as installed: what the first round compiled is there for the others
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-c", program + _REPORT, *arguments]
        start = perf_counter_ns()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
            assert process.stdout is not None
            acted = process.stdout.readline().split()
            elapsed_ms = (perf_counter_ns() - start) / 1e6
            memory = process.stdout.read()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if acted[:1] != ["acted"] or process.returncode:
        raise RuntimeFault(f"start-up of {name}: {lines[-1] if lines else f'exit code {process.returncode}'}")
    peak, resident = map(int, memory.split())
    return elapsed_ms, 1e3 * float(acted[1]), peak, resident
