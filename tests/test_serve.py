"""The server as its users meet it: a process of its own and the public tritonclient."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from networks import random_bundle
from serving import N_ACTIONS, OBS_DIM, message, post, random_obs, refused, running, scrape, tensors

from mast_runtime import BackendError, Bundle, __version__
from mast_runtime.errors import ServeError
from mast_runtime.serve import open_port, serve


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return random_bundle(obs_dim=OBS_DIM, n_actions=N_ACTIONS)


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory) -> Iterator[str]:
    with running(bundle, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def limited(bundle, tmp_path_factory) -> Iterator[str]:
    """Only agent 1 on the numpy reference, two sequences, an idle limit of a second."""
    options = {"agent": 1, "backend": "reference", "idle_limit_s": 1.0, "max_sequences": 2}
    with running(bundle, tmp_path_factory.mktemp("limited"), **options) as address:
        yield address


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server) as client:
        yield client


def test_health_and_metadata(client, bundle):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("agent_2") and client.is_model_ready("agent_2", "1")
    assert not client.is_model_ready("agent_3") and not client.is_model_ready("agent_2", "2")
    assert client.get_server_metadata()["name"] == "mast"
    assert [model["name"] for model in client.get_model_repository_index()] == ["agent_0", "agent_1", "agent_2"]
    metadata = client.get_model_metadata("agent_2", "1")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [
        {"name": "obs", "datatype": "FP32", "shape": [OBS_DIM]},
        {"name": "avail_actions", "datatype": "BOOL", "shape": [N_ACTIONS]},
    ]
    assert metadata["outputs"] == [
        {"name": "action", "datatype": "INT64", "shape": [1]},
        {"name": "q", "datatype": "FP32", "shape": [N_ACTIONS]},
    ]
    named = {key: value for key, value in metadata["parameters"].items() if not key.startswith("policy_")}
    assert named == {"agent_name": bundle.agents[2].name, "agent_type": "marine"}
    with refused("404", "agent_9"):
        client.get_model_metadata("agent_9")


@pytest.mark.parametrize(("binary", "sequence_id"), [(True, 7), (False, "robot 7"), (True, (1 << 64) - 1)])
def test_episodes_equal_the_agents(client, bundle, binary, sequence_id):
    """Three agents in lock step under one sequence id (a sequence belongs to its model): the bits of bundle.agent."""
    rng, steps = np.random.default_rng(1), 200
    agents = [bundle.agent(i) for i in range(3)]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("action", "q")]
    for step in range(steps):
        for i, agent in enumerate(agents):
            obs = rng.standard_normal(OBS_DIM).astype(np.float32)
            avail = rng.random(N_ACTIONS) < 0.3
            avail[rng.integers(N_ACTIONS)] = True
            result = client.infer(
                f"agent_{i}",
                tensors(obs, avail, binary),
                outputs=outputs,
                sequence_id=sequence_id,
                sequence_start=step == 0,
                sequence_end=step == steps - 1,
            )
            assert result.as_numpy("action").tolist() == [agent.act(obs, avail)]
            np.testing.assert_array_equal(result.as_numpy("q"), agent.q)
    with refused("409", "no live sequence"):
        client.infer("agent_0", tensors(obs), sequence_id=sequence_id)


def test_outputs_and_forms_mix(client, bundle):
    agent, obs = bundle.agent(0), random_obs()
    action = agent.act(obs)
    single = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
    wanted = [triton.InferRequestedOutput("q", binary_data=False), triton.InferRequestedOutput("action")]
    result = client.infer("agent_0", tensors(obs), outputs=wanted, request_id="tick 1", **single)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["q", "action"]
    assert result.get_response()["id"] == "tick 1" and result.get_response()["model_name"] == "agent_0"
    assert "data" in result.get_output("q") and "data" not in result.get_output("action")
    np.testing.assert_array_equal(result.as_numpy("q"), agent.q)
    assert result.as_numpy("action").tolist() == [action]
    result = client.infer("agent_0", tensors(obs), outputs=[wanted[1]], model_version="1", **single)
    assert result.as_numpy("q") is None and result.as_numpy("action").tolist() == [action]
    mixed = [tensors(obs, binary=False)[0], tensors(obs, np.ones(N_ACTIONS, np.bool_))[1]]
    result = client.infer("agent_0", mixed, **single)
    np.testing.assert_array_equal(result.as_numpy("q"), agent.q)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(client, bundle, algorithm, binary):
    agent, obs = bundle.agent(0), random_obs()
    agent.act(obs)
    result = client.infer(
        "agent_0",
        tensors(obs, binary=binary),
        outputs=[triton.InferRequestedOutput("q", binary_data=binary)],
        sequence_id=1,
        sequence_start=True,
        sequence_end=True,
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("q"), agent.q)


def test_headers_of_the_answers(server):
    _, _, headers = post(server, message(), {"Accept-Encoding": "br, gzip;q=0, *"})
    assert headers["content-type"] == "application/json" and "content-encoding" not in headers
    connection = http.client.HTTPConnection(server)
    body = json.dumps(message({"binary_data_output": True}))
    connection.request("POST", "/v2/models/agent_0/infer", body, {"Accept-Encoding": "br;q=1.0, gzip;q=0.5"})
    response = connection.getresponse()
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-encoding"] == "gzip"
    plain, size = gzip.decompress(response.read()), int(response.headers["inference-header-content-length"])
    assert len(plain) == size + 8 + 4 * N_ACTIONS
    assert [output["parameters"] for output in json.loads(plain[:size])["outputs"]] == [
        {"binary_data_size": 8},
        {"binary_data_size": 4 * N_ACTIONS},
    ]
    connection.close()


def test_sequences_start_restart_and_end(client, bundle):
    obs, agent = random_obs(), bundle.agent(0)

    def step(**parameters):
        return client.infer("agent_0", tensors(obs), **parameters).as_numpy("q")

    def expected():
        agent.act(obs)
        return agent.q

    with refused("400", "sequence_id"):
        step()
    with refused("409", "sequence_start"):
        step(sequence_id=5)
    first = expected()
    np.testing.assert_array_equal(step(sequence_id=5, sequence_start=True), first)
    np.testing.assert_array_equal(step(sequence_id=5), expected())
    with refused("400", r"obs\[3\].* is nan"):
        client.infer(
            "agent_0", tensors(np.where(np.arange(OBS_DIM) == 3, np.nan, obs).astype(np.float32)), sequence_id=5
        )
    with refused("400", "no available action"):
        client.infer("agent_0", tensors(obs, np.zeros(N_ACTIONS, np.bool_)), sequence_id=5, sequence_end=True)
    with refused("400", "obs"):  # a start that fails leaves the live sequence as it was
        client.infer("agent_0", tensors(obs * np.float32(np.inf)), sequence_id=5, sequence_start=True)
    np.testing.assert_array_equal(step(sequence_id=5), expected())
    with refused("409", "'5'"):
        step(sequence_id="5")
    np.testing.assert_array_equal(step(sequence_id=5, sequence_start=True), first)
    step(sequence_id=5, sequence_end=True)
    with refused("409", "no live sequence 5"):
        step(sequence_id=5)


def test_sequences_of_one_model_are_apart(client, bundle):
    rng, robots = np.random.default_rng(2), {1: bundle.agent(0), "1": bundle.agent(0), 2: bundle.agent(0)}
    for step in range(20):
        for sequence_id, agent in robots.items():
            obs = rng.standard_normal(OBS_DIM).astype(np.float32)
            agent.act(obs)
            flags = {"sequence_start": step == 0, "sequence_end": step == 19}
            result = client.infer("agent_0", tensors(obs), sequence_id=sequence_id, **flags)
            np.testing.assert_array_equal(result.as_numpy("q"), agent.q)


def test_cap_and_idle_limit(limited):
    with triton.InferenceServerClient(limited) as client:
        assert [model["name"] for model in client.get_model_repository_index()] == ["agent_1"]
        for sequence_id in (1, 2):
            client.infer("agent_1", tensors(random_obs()), sequence_id=sequence_id, sequence_start=True)
        with refused("429", "2 sequences are live"):
            client.infer("agent_1", tensors(random_obs()), sequence_id=3, sequence_start=True)
        client.infer("agent_1", tensors(random_obs()), sequence_id=3, sequence_start=True, sequence_end=True)
        client.infer("agent_1", tensors(random_obs()), sequence_id=2, sequence_start=True)
        time.sleep(0.6)
        client.infer("agent_1", tensors(random_obs()), sequence_id=2)
        time.sleep(0.6)
        with refused("409", "idle for more than 1 s"):
            client.infer("agent_1", tensors(random_obs()), sequence_id=1)
        client.infer("agent_1", tensors(random_obs()), sequence_id=2)
        client.infer("agent_1", tensors(random_obs()), sequence_id=3, sequence_start=True)
    time.sleep(1.1)
    counts = scrape(limited)
    assert counts["mast_live_sequences",] == 0 and counts["mast_expired_sequences_total",] == 3


def test_concurrent_steps_do_not_interleave(server, client, bundle):
    """Four clients step one sequence with one observation: together they see each step of a sequential run once."""
    obs, agent = random_obs(), bundle.agent(0)
    expected = [(agent.act(obs), agent.q.tobytes())[1] for _ in range(101)]
    seen = [client.infer("agent_0", tensors(obs), sequence_id=11, sequence_start=True).as_numpy("q").tobytes()]

    def work():
        with triton.InferenceServerClient(server) as own:
            for _ in range(25):
                seen.append(own.infer("agent_0", tensors(obs), sequence_id=11).as_numpy("q").tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(expected)


def test_metrics(server, client, bundle):
    before = scrape(server)
    client.infer("agent_1", tensors(random_obs()), sequence_id=1, sequence_start=True)
    with refused("409", "no live sequence"):
        client.infer("agent_1", tensors(random_obs()), sequence_id=99)
    post(server, b"{", path="/v2/models/agent_1/infer")
    after = scrape(server)
    key = ("mast_requests_total", ("model", "agent_1"))
    for outcome in ("ok", "unknown_sequence", "bad_request"):
        label = (*key, ("outcome", outcome))
        assert after[label] - before.get(label, 0) == 1
    decisions = ("mast_decision_seconds_count", ("model", "agent_1"))
    assert after[decisions] - before.get(decisions, 0) == 1
    assert after["mast_live_sequences",] - before["mast_live_sequences",] == 1
    assert after["mast_build_info", ("backend", bundle.agent(0).backend), ("version", __version__)] == 1
    assert not any("internal_error" in str(label) for label in after)
    client.infer("agent_1", tensors(random_obs()), sequence_id=1, sequence_end=True)


def test_a_server_that_cannot_start(bundle, monkeypatch):
    with open_port("127.0.0.1", 0) as taken:
        assert taken.proto == socket.IPPROTO_TCP
        with pytest.raises(ServeError, match=r"^cannot listen on 127\.0\.0\.1 port \d+: Address already in use"):
            serve(bundle, port=taken.getsockname()[1])
    for wrong, error, match in [
        ({"port": 70_000}, ServeError, "port 70000"),
        ({"host": "203.0.113.1"}, ServeError, "203.0.113.1"),
        ({"agent": 3}, ServeError, "agents 0 to 2"),
        ({"idle_limit_s": 0}, ServeError, "positive"),
        ({"max_sequences": 0}, ServeError, "positive"),
        ({"backend": "magic"}, BackendError, "magic"),
    ]:
        with pytest.raises(error, match=match):
            serve(bundle, **wrong)
    monkeypatch.setattr("mast_runtime.serve.find_spec", lambda name: None)
    with pytest.raises(ServeError, match=r'needs uvicorn, prometheus_client; pip install "mast-marl\[serve\]"'):
        serve(bundle)


def test_the_documented_examples(tmp_path):
    document = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    shell = re.findall(r"```bash\n(curl .*?)```", document, re.S)
    code = re.findall(r"```python\n(.*?)```", document, re.S)
    assert shell and code
    with running(random_bundle(obs_dim=4, n_actions=3), tmp_path) as address:
        for block in code:
            command = [sys.executable, "-c", block.replace("127.0.0.1:8000", address)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 and "action" in done.stdout, done
        for block in shell if shutil.which("curl") else []:
            script = block.replace("127.0.0.1:8000", address)
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ)
            assert done.returncode == 0 and '"action"' in done.stdout, done
