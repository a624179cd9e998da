"""A served policy for tests: the process, requests through tritonclient's types and as raw bytes."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from mast_runtime import Bundle, save

OBS_DIM, N_ACTIONS = 20, 80
SCRIPT = """
import json, sys
import mast_runtime
from mast_runtime.serve import serve
serve(mast_runtime.load(sys.argv[1]), port=0, **json.loads(sys.argv[2]))
heavy = {"torch", "jax", "onnx", "onnxruntime", "mast_train", "mast_export"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


@contextmanager
def running(bundle: Bundle, folder: Path, **options) -> Iterator[str]:
    """A server process; yields its host:port. On SIGINT it stops, has no heavy module loaded, nothing on stderr."""
    path = folder / "policy.mast"
    save(bundle, path)
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(path), json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.match(r"http://(\S+) serves agent_", line)
        assert found, line or process.communicate()
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("[]\n", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def tensors(obs, avail=None, binary=True) -> list[triton.InferInput]:
    inputs = [triton.InferInput("obs", list(obs.shape), "FP32").set_data_from_numpy(obs, binary)]
    if avail is not None:
        inputs.append(triton.InferInput("avail_actions", list(avail.shape), "BOOL").set_data_from_numpy(avail, binary))
    return inputs


def random_obs(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(OBS_DIM).astype(np.float32)


def message(parameters=None, **changes) -> dict:
    """A valid request in JSON for a one-step sequence, with top-level keys replaced."""
    obs = {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": [0.5] * OBS_DIM}
    single = {"sequence_id": "single", "sequence_start": True, "sequence_end": True}
    return {"inputs": [obs], "parameters": single | (parameters or {})} | changes


def post(address: str, body, headers=None, path="/v2/models/agent_0/infer", method="POST") -> tuple[int, dict, dict]:
    """One raw request: status, JSON answer, headers."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}"), dict(response.headers)
    finally:
        connection.close()


def scrape(address: str) -> dict[tuple, float]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    families = text_string_to_metric_families(connection.getresponse().read().decode())
    connection.close()
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def refused(status: str, match: str):
    """The client sees this status and a one-line message."""
    return pytest.raises(InferenceServerException, match=rf"^\[{status}\] [^\n]*{match}[^\n]*$")
