"""Decisions served over the loopback interface: latency and rate of one robot that waits for each answer.

    python benchmarks/serve.py [POLICY.mast] [--steps 3000] [--json benchmarks/results/serve.json]

The clients (tritonclient and the standard library's http.client, binary and JSON tensors, and the same policy called in
process) take turns of 100 steps, so that a change of the machine's load reaches all of them. Without POLICY: a random
policy of 95 % sparsity with SMAX 8m's sizes. Times are wall time as the client sees it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from mast_runtime import AgentInfo, Bundle, Contract, Layer, Network, load, save
from mast_runtime.network import SEGMENTS

TURN = 100
SERVER = "import sys, mast_runtime.serve as s, mast_runtime as m; s.serve(m.load(sys.argv[1]), port=0)"
Act = Callable[[np.ndarray, bool], int]


def random_policy(obs_dim: int = 120, n_actions: int = 13, hidden: int = 64, sparsity: float = 0.95) -> Bundle:
    """One agent with random weights."""
    rng, contract = np.random.default_rng(0), Contract(obs_dim, n_actions, n_agents=8)

    def layer(name: str, outputs: int, inputs: int) -> Layer:
        mask = rng.random((outputs, inputs)) >= sparsity
        weight = np.where(mask, rng.standard_normal((outputs, inputs)), 0.0)
        return Layer.from_dense(weight, mask, 1, SEGMENTS[name])

    network = Network(
        fc1=layer("fc1", hidden, contract.input_dim),
        weight_ih=layer("weight_ih", 3 * hidden, hidden),
        weight_hh=layer("weight_hh", 3 * hidden, hidden),
        fc2=layer("fc2", n_actions, hidden),
        fc1_bias=np.zeros(hidden, np.float32),
        gru_bias=np.zeros((4, hidden), np.float32),
        fc2_bias=np.zeros(n_actions, np.float32),
    )
    return Bundle(contract, (AgentInfo("ally_0", "marine", 0, 0),), (network,), {"map": "random"})


def triton_client(address: str, binary: bool) -> Act:
    """Decisions through tritonclient; only the action is asked for."""
    client = triton.InferenceServerClient(address)
    outputs = [triton.InferRequestedOutput("action", binary_data=binary)]

    def act(obs: np.ndarray, first: bool) -> int:
        inputs = [triton.InferInput("obs", list(obs.shape), "FP32").set_data_from_numpy(obs, binary)]
        result = client.infer("agent_0", inputs, outputs=outputs, sequence_id=1 + binary, sequence_start=first)
        return int(result.as_numpy("action")[0])

    return act


def plain_client(address: str, binary: bool) -> Act:
    """Decisions through http.client on one kept connection; only the action is asked for."""
    connection = http.client.HTTPConnection(address)
    outputs = [{"name": "action", "parameters": {"binary_data": binary}}]

    def act(obs: np.ndarray, first: bool) -> int:
        tensor = {"name": "obs", "shape": list(obs.shape), "datatype": "FP32"}
        tensor |= {"parameters": {"binary_data_size": obs.nbytes}} if binary else {"data": obs.tolist()}
        parameters = {"sequence_id": f"plain-{binary}", "sequence_start": first}
        body = json.dumps({"inputs": [tensor], "outputs": outputs, "parameters": parameters}).encode()
        headers = {"Inference-Header-Content-Length": str(len(body))} if binary else {}
        connection.request("POST", "/v2/models/agent_0/infer", body + obs.tobytes() if binary else body, headers)
        response = connection.getresponse()
        answer = response.read()
        if binary:
            return int.from_bytes(answer[int(response.headers["Inference-Header-Content-Length"]) :], "little")
        return json.loads(answer)["outputs"][0]["data"][0]

    return act


def in_process(bundle: Bundle) -> Act:
    agent = bundle.agent(0)
    return lambda obs, first: agent.act(obs)


def measure(clients: dict[str, Act], obs: np.ndarray) -> dict[str, dict[str, float]]:
    """Latency by client over observations [steps, O]; all clients must choose the same actions."""
    latency_s = {name: np.empty(len(obs)) for name in clients}
    actions = {name: np.empty(len(obs), np.int64) for name in clients}
    for start in range(0, len(obs), TURN):
        for name, act in clients.items():
            for step in range(start, min(start + TURN, len(obs))):
                before_s = time.perf_counter()
                actions[name][step] = act(obs[step], step == 0)
                latency_s[name][step] = time.perf_counter() - before_s
    first = next(iter(actions.values()))
    assert all((chosen == first).all() for chosen in actions.values()), "the clients disagree"
    return {
        name: {
            "median_us": round(float(np.median(times)) * 1e6, 1),
            "p99_us": round(float(np.percentile(times, 99)) * 1e6, 1),
            "decisions_per_s": round(len(times) / float(times.sum()), 1),
        }
        for name, times in latency_s.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        policy = options.policy or Path(folder) / "random.mast"
        if options.policy is None:
            save(random_policy(), policy)
        bundle = load(policy)
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(policy)], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.match(r"http://(\S+) ", server.stdout.readline())
        assert found, "the server did not start"
        clients = {"in process": in_process(bundle)}
        for form, binary in (("binary", True), ("JSON", False)):
            clients[f"tritonclient, {form}"] = triton_client(found[1], binary)
            clients[f"http.client, {form}"] = plain_client(found[1], binary)
        obs = np.random.default_rng(1).standard_normal((options.steps, bundle.contract.obs_dim)).astype(np.float32)
        results = measure(clients, obs)
        server.send_signal(signal.SIGINT)
        server.wait(10)
    for name, row in results.items():
        print(f"{name:22} {row['median_us']:8.1f} us  p99 {row['p99_us']:8.1f} us  {row['decisions_per_s']:8.1f} /s")
    if options.json:
        contract = bundle.contract
        setting = {
            "obs_dim": contract.obs_dim,
            "n_actions": contract.n_actions,
            "hidden": bundle.networks[0].hidden,
            "sparsity": round(bundle.sparsity, 4),
            "backend": bundle.agent(0).backend,
            "steps": options.steps,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version(name) for name in ("numpy", "uvicorn", "tritonclient")},
            "httptools": find_spec("httptools") is not None,
            "uvloop": find_spec("uvloop") is not None,
        }
        options.json.write_text(json.dumps({"setting": setting, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
