"""How soon `mast serve` answers and what it takes: this checkout beside an earlier one, started in turn.

    git worktree add /tmp/earlier 'ec46456^' && (cd /tmp/earlier && python setup.py build_ext --inplace)
    python benchmarks/serve_start.py /tmp/earlier [--rounds 9] [--json benchmarks/results/serve_start.json]

Each checkout serves its own tests/data/3m.mast, this one as a robot's install does: without typer and rich, which the
earlier one could not do without. Wall and processor time are from the start of the command to the answer
to the first request; memory is what is resident after twenty decisions and a scrape of the metrics; the processor time
of a request is the server's, over 500 of each form. Medians over the rounds; ratios are medians of the rounds' ratios.
Linux.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from native import cpu_name

HERE = Path(__file__).resolve().parent.parent
OBS_DIM, DECISIONS, REQUESTS = 75, 20, 500
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
ROWS = {
    "wall": "from the command to the first answer, wall time, ms",
    "cpu": "the same, processor time, ms",
    "memory": "memory after twenty decisions and a scrape of the metrics, MB",
    "json": "processor time of a request, JSON, us",
    "binary": "processor time of a request, binary, us",
}
"""Quantity -> what it is."""


ROBOTS = """
import sys
sys.modules["typer"] = sys.modules["rich"] = None
from mast_runtime.commands import main
main()
"""
"""The command as `pip install "mast-runtime[serve]"` has it, from a checkout where typer is there too."""


def started(checkout: Path) -> subprocess.Popen[str]:
    mast = ["-c", ROBOTS] if checkout == HERE else [checkout / "cli.py"]
    command = [sys.executable, *mast, "serve", checkout / "tests" / "data" / "3m.mast", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout)


def address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://(\S+)", line):
            return found[1]
    sys.exit("the server did not start")


def cpu_s(server: subprocess.Popen[str]) -> float:
    """Processor time of the process so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def resident_mb(server: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3  # type: ignore[index]


def decide(connection: http.client.HTTPConnection, first: bool, binary: bool) -> None:
    obs = np.zeros(OBS_DIM, np.float32)
    tensor = {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32"}
    tensor |= {"parameters": {"binary_data_size": obs.nbytes}} if binary else {"data": obs.tolist()}
    given = {"inputs": [tensor], "parameters": {"sequence_id": "robot", "sequence_start": first}}
    if binary:
        given["outputs"] = [{"name": "action", "parameters": {"binary_data": True}}]
    body = json.dumps(given).encode()
    headers = {"Inference-Header-Content-Length": str(len(body))} if binary else {}
    connection.request("POST", "/v2/models/agent_0/infer", body + obs.tobytes() * binary, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()


def measure(checkout: Path) -> dict[str, float]:
    """One start: a value of each of ROWS."""
    start_s = time.perf_counter()
    server = started(checkout)
    try:
        connection = http.client.HTTPConnection(address(server), timeout=30)
        decide(connection, True, False)
        found = {"wall": 1e3 * (time.perf_counter() - start_s), "cpu": 1e3 * cpu_s(server)}
        for _ in range(DECISIONS):
            decide(connection, False, False)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        found["memory"] = resident_mb(server)
        for form, binary in (("json", False), ("binary", True)):
            before = cpu_s(server)
            for _ in range(REQUESTS):
                decide(connection, False, binary)
            found[form] = 1e6 * (cpu_s(server) - before) / REQUESTS
        return found
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="a checkout with its kernels built")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    sides = {"before": options.earlier.resolve(), "now": HERE}
    for checkout in sides.values():
        measure(checkout)  # its files are compiled and read once
    rounds = [{side: measure(checkout) for side, checkout in sides.items()} for _ in range(options.rounds)]
    load = round(os.getloadavg()[0], 1)
    result: dict = {"cpu": cpu_name(), "load": load, "rounds": options.rounds, "rows": {}}
    for name, what in ROWS.items():
        row = {side: round(float(np.median([r[side][name] for r in rounds])), 1) for side in sides}
        row["ratio"] = round(float(np.median([r["now"][name] / r["before"][name] for r in rounds])), 3)
        result["rows"][what] = row
        print(f"{what}: before {row['before']:.1f}, now {row['now']:.1f}, ratio {row['ratio']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
