"""The size of an episode's page and the time of a decision in Chromium, beside ONNX Runtime Web.

    npm install onnxruntime-web
    python benchmarks/browser.py [POLICY.mast] [--ort node_modules/onnxruntime-web] [--rounds 201] [--json FILE]

The page is that of `mast play --html` on SMAX 3m. One agent's decision, one thread, every cell once per round in turn;
figures are lower quartiles, since other work of the machine only ever adds to some rounds. `in WebAssembly`: decisions
one after another within the module, what the page shows. `called from JavaScript`: the observation is copied in and the
action comes out. ONNX Runtime Web runs the dense model of `mast export --format onnx` by its wasm backend with SIMD,
its call awaited as its API asks. Without --ort its rows are left out. Needs Chromium, a compiler for WebAssembly, and
mast-marl[train,export].
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import re
import sys
import tempfile
import threading
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from chromium import PROGRAM, Browser

from mast_export.web import page
from mast_runtime import Bundle, load
from mast_runtime.measure.machine import describe_machine
from mast_runtime.onnx_graph import build_model

POLICY = Path(__file__).parent.parent / "tests" / "data" / "3m.mast"
BUDGET_MS = 1
"""Of a cell in a round: less than a busy machine lets a process run before another's turn."""
ENGINE = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page of ONNX Runtime Web loads for its wasm backend."""
MEASURE = """
async function cells(modules, obs, actions, hidden, ortFiles) {
  const policies = {};
  for (const [kind, text] of Object.entries(modules)) policies[kind] = await Policy.load(text);
  const avail = new Uint8Array(actions).fill(1), found = {};
  for (const [kind, policy] of Object.entries(policies)) {
    policy.act(obs, avail);
    found[`${kind}, in WebAssembly`] = (n) => policy.c.repeat(n);
    found[`${kind}, called from JavaScript`] = (n) => { for (let i = 0; i < n; i++) policy.act(obs, avail); };
  }
  if (ortFiles) {
    ort.env.wasm.numThreads = 1;
    const model = await (await fetch("agent.onnx")).arrayBuffer();
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const feeds = {
      obs: new ort.Tensor("float32", obs, [1, obs.length]),
      last_action: new ort.Tensor("int64", BigInt64Array.of(-1n), [1]),
      avail_actions: new ort.Tensor("bool", avail, [1, actions]),
      hidden: new ort.Tensor("float32", new Float32Array(hidden), [1, hidden]),
    };
    found["ONNX Runtime Web, dense"] = async (n) => { for (let i = 0; i < n; i++) await session.run(feeds); };
  }
  return found;
}
async function measureAll(modules, obs, actions, hidden, ortFiles, rounds, budgetMs) {
  const found = await cells(modules, Float32Array.from(obs), actions, hidden, ortFiles), counts = {}, times = {};
  for (const [name, run] of Object.entries(found)) {
    let n = 4, taken = 0;
    const warm = performance.now() + 500;
    while (performance.now() < warm) await run(64);
    for (;;) {
      const start = performance.now();
      await run(n);
      taken = performance.now() - start;
      if (taken >= budgetMs) break;
      n = taken > 0.1 ? Math.ceil((n * 1.3 * budgetMs) / taken) : n * 8;
    }
    counts[name] = n;
    times[name] = [];
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, run] of Object.entries(found)) {
      const start = performance.now();
      await run(counts[name]);
      times[name].push((1000 * (performance.now() - start)) / counts[name]);
    }
  }
  return times;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", nargs="?", type=Path, default=POLICY)
    parser.add_argument("--ort", type=Path, help="folder of the npm package onnxruntime-web")
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if PROGRAM is None:
        sys.exit("this comparison needs Chromium")
    machine, bundle = describe_machine(), load(options.policy)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        data, sizes = _page(bundle, folder)
        sizes |= _model(bundle, folder, options.ort)
        times = _times(bundle, data, folder, options.ort is not None, options.rounds)
    version = json.loads((options.ort / "package.json").read_text())["version"] if options.ort else None
    result = {"machine": asdict(machine), "policy": bundle.info, "onnxruntime_web": version, "rounds": options.rounds}
    result |= {"sizes": sizes, "times_us": {name: sorted(rows)[len(rows) // 4] for name, rows in times.items()}}
    result["rounds_us"] = {name: [round(value, 4) for value in rows] for name, rows in times.items()}
    for name, (raw, zipped) in sizes.items():
        print(f"{name:44s}{raw / 1e3:12,.1f} kB{zipped / 1e3:12,.1f} kB gzipped")
    for name, us in result["times_us"].items():
        print(f"{name:44s}{us:12.2f} us")
    if machine.warning:
        print(f"note: {machine.warning}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _page(bundle: Bundle, folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The data of a page of SMAX 3m, and sizes: of the page, and of one agent's modules; raw and gzipped."""
    from mast_train.commands.explore import watch
    from mast_train.settings.config import EnvConfig

    watch(bundle, EnvConfig("smax", "3m"), 0, "auto", None, folder / "battle.html", 8.0)
    text = (folder / "battle.html").read_bytes()
    found = re.search(rb'id="data">([^<]+)<', text)
    assert found is not None
    data = json.loads(gzip.decompress(base64.b64decode(found[1])))
    sizes = {"the page, with 3 agents, sparse and dense": _sizes(text)}
    for kind in ("sparse", "dense"):
        sizes[f"one agent's {kind} module"] = _sizes(base64.b64decode(data["agents"][0][kind]))
    return data, sizes


def _sizes(data: bytes) -> tuple[int, int]:
    return len(data), len(gzip.compress(data, 6, mtime=0))


def _model(bundle: Bundle, folder: Path, ort: Path | None) -> dict[str, tuple[int, int]]:
    """Agent 0's dense ONNX model and the engine's files, in the folder; their sizes."""
    if ort is None:
        return {}
    model = build_model(bundle.contract, bundle.networks[bundle.agents[0].network], bundle.agents[0])
    (folder / "agent.onnx").write_bytes(model.SerializeToString())
    engine = [(ort / "dist" / name).read_bytes() for name in ENGINE]
    for name, content in zip(ENGINE, engine, strict=True):
        (folder / name).write_bytes(content)
    return {
        "ONNX Runtime Web": _sizes(b"".join(engine)),
        "one agent's ONNX model": _sizes((folder / "agent.onnx").read_bytes()),
    }


def _times(bundle: Bundle, data: dict[str, Any], folder: Path, ort: bool, rounds: int) -> dict[str, list[float]]:
    """Microseconds of each cell in each round."""
    script = f'<script src="{ENGINE[0]}"></script>' if ort else ""
    code = (page.HERE / "policy.js").read_text() + MEASURE
    (folder / "bench.html").write_text(f"<!doctype html><body>{script}<script>{code}</script>")
    hidden = bundle.networks[bundle.agents[0].network].hidden
    obs = [0.1 * (i % 7) for i in range(bundle.contract.obs_dim)]
    modules = {kind: data["agents"][0][kind] for kind in ("sparse", "dense")}
    arguments = json.dumps([modules, obs, bundle.contract.n_actions, hidden, ort, rounds, BUDGET_MS])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Browser(folder / "profile") as browser:
            browser.open(f"http://127.0.0.1:{server.server_port}/bench.html")
            browser.wait("typeof measureAll === 'function'")
            return browser.value(f"measureAll(...{arguments})")
    finally:
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        """Isolated from other origins a page's clock counts by 5 microseconds, else by 100."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
