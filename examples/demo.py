"""The whole path on two cores in a few minutes: train, export, run without torch, measure, serve.

Every step is the command a user would type; this script only runs them and puts their numbers side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from rich.table import Table

from mast_runtime.console import new_console

HERE = Path(__file__).resolve().parent.parent
SPARSE = "mast-active"
EPISODES = 256
console = new_console(soft_wrap=False)


def mast(*arguments: str, quiet: bool = False) -> str:
    """Run `mast ARGUMENTS`, shown as typed; returns its standard output when quiet, else lets it through."""
    console.print(f"\n$ mast {' '.join(arguments)}", style="bold")
    command = [sys.executable, str(HERE / "cli.py"), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, text=True)
    if result.returncode:
        sys.exit(f"demo: this command failed with exit code {result.returncode}")
    return result.stdout or ""


def json_of(*arguments: str) -> Any:
    """The JSON a command prints."""
    return json.loads(mast(*arguments, "--json", quiet=True))


def through_the_server(policy: Path) -> str:
    """Start `mast serve`, ask one agent for three decisions of one episode, stop it."""
    console.print(f"\n$ mast serve {policy} --port 0", style="bold")
    server = subprocess.Popen(
        [sys.executable, str(HERE / "cli.py"), "serve", str(policy), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        banner = server.stdout.readline().strip()
        console.print(banner)
        url = next(word for word in banner.split() if word.startswith("http://")).rstrip(",;")
        metadata = json.load(urllib.request.urlopen(f"{url}/v2/models/agent_0", timeout=10))
        width = next(tensor["shape"][-1] for tensor in metadata["inputs"] if tensor["name"] == "obs")
        actions = [infer(url, width, step) for step in range(3)]
    finally:
        server.terminate()
        server.wait(timeout=10)
    return f"agent_0 answered {actions} over HTTP"


def infer(url: str, width: int, step: int) -> int:
    """One decision of sequence 1 on an all-zero observation."""
    body = {
        "parameters": {"sequence_id": 1, "sequence_start": step == 0, "sequence_end": step == 2},
        "inputs": [{"name": "obs", "datatype": "FP32", "shape": [width], "data": [0.0] * width}],
        "outputs": [{"name": "action"}],
    }
    request = urllib.request.Request(f"{url}/v2/models/agent_0/infer", json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request, timeout=10))["outputs"][0]["data"][0]


def picture(sparse: Path, dense: Path, path: Path) -> None:
    """Learning curves of the two runs."""
    from mast_train.report.curves import draw_curves
    from mast_train.runs.folders import read_metrics

    rows = {}
    for label, run in (("MAST, 95 % sparse", sparse), ("dense", dense)):
        curve = [(row["step"], row["win_rate"]) for row in read_metrics(run, "evaluation")]
        rows[label] = [curve]
    draw_curves(rows, path, "SMAX 3m: one seed each")


def won(result: dict[str, Any]) -> str:
    """A win rate with its 95 % interval."""
    return f"{result['win_rate']:.2f} [{result['win_rate_low']:.2f}, {result['win_rate_high']:.2f}]"


def latency(result: dict[str, Any], backend: str, weights: str, single: bool = True) -> str:
    """Median microseconds per agent and decision, or "-" where that was not measured."""
    for row in result["latency"]:
        if row["backend"] == backend and row["weights"] == weights and (row["agents"] == 1) == single:
            return f"{row['median_us']:.2f} us"
    return "-"


def size(result: dict[str, Any], name: str) -> str:
    """Kilobytes on disk of one row of the size table."""
    return next((f"{row['size_bytes'] / 1000:.1f} kB" for row in result["sizes"] if row["name"] == name), "-")


def table(of_sparse: dict[str, Any], of_dense: dict[str, Any], wins: dict[str, dict[str, Any]]) -> Table:
    """The sparse team beside the dense one, each as exported, in words a stranger knows."""
    sparse, dense = of_sparse["sparse"], of_dense["dense"]
    ratio = dense["paper_flops"] / sparse["paper_flops"]
    sparsity = 1 - sparse["paper_parameters"] / dense["paper_parameters"]
    out = Table(title=f"SMAX 3m, three marines: MAST, {sparsity:.0%} sparse, beside dense")
    for column in ("", "sparse", "dense"):
        out.add_column(column, justify="left" if not column else "right")
    out.add_row(f"win rate as shipped, {EPISODES} battles", won(wins["sparse"]), won(wins["dense"]))
    out.add_row("parameters, team", f"{sparse['paper_parameters']:,}", f"{dense['paper_parameters']:,}")
    out.add_row(
        f"FLOPs, joint decision ({ratio:.0f}x)", f"{sparse['paper_flops']:,.0f}", f"{dense['paper_flops']:,.0f}"
    )
    for label, kept, full in (
        (".mast file", ".mast, float32, as given", ".mast, float32, dense"),
        ("ONNX files", "ONNX, sparse constants", "ONNX, dense"),
    ):
        out.add_row(f"size, {label}", size(of_sparse, kept), size(of_dense, full))
    for backend in dict.fromkeys(row["backend"] for row in of_sparse["latency"]):
        cells = latency(of_sparse, backend, "sparse"), latency(of_dense, backend, "dense")
        out.add_row(f"one decision, {backend}", *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300_000, help="environment steps of each of the two runs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the two runs")
    options = parser.parse_args()
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    folders = {method: options.runs / f"demo-{stamp}-{method}" for method in ("dense", SPARSE)}
    for method, folder in folders.items():
        common = ("--map", "3m", "--steps", str(options.steps), "--runs", str(options.runs))
        mast("train", "--method", method, "--name", folder.name, *common)
        mast("export", str(folder))
    mast("export", str(folders[SPARSE]), "--format", "onnx")
    sparse, dense = (folders[method] / "policy.mast" for method in (SPARSE, "dense"))
    wins = {
        "sparse": json_of("eval", str(sparse), "--episodes", str(EPISODES)),
        "dense": json_of("eval", str(dense), "--episodes", str(EPISODES)),
        "random": json_of("eval", "--random", "--map", "3m", "--episodes", str(EPISODES)),
    }
    benches = [json_of("bench", str(policy), "--rounds", "5") for policy in (sparse, dense)]
    masks, curves = folders[SPARSE] / "masks.png", folders[SPARSE] / "learning.png"
    mast("inspect", str(sparse), "--png", str(masks), quiet=True)
    served = through_the_server(sparse)
    picture(folders[SPARSE], folders["dense"], curves)
    console.print()
    console.print(table(*benches, wins))
    console.print(
        f"A team that acts at random wins {won(wins['random'])}. Latency: median of agent.act on this machine."
    )
    console.print(f"Served: {served}.")
    console.print(f"pictures: {curves} (learning), {masks} (which connections each marine kept)")
    console.print(f"policy: {sparse}; all of it took {(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
