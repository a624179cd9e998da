"""The server on a robot: a policy replaced under load, its log, its deadlines, its service manager, its clock."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from networks import random_bundle
from serving import message, post, random_obs, scrape
from test_control import FAKETIME, set_clock

from mast_runtime import Bundle, save

ROOT = Path(__file__).resolve().parent.parent
OBS_DIM, N_ACTIONS = 20, 8
STORM = tuple(map(int, os.environ.get("MAST_STORM", "120,1000").split(",")))
"""Sequences and malformed requests at once; MAST_STORM=1000,10000 takes a minute."""


def policy(seed: int, **changes) -> Bundle:
    return random_bundle(seed, **{"obs_dim": OBS_DIM, "n_actions": N_ACTIONS} | changes)


class Served:
    """`mast serve` in a process of its own, as a service manager starts it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.policy = folder / "policy.mast"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(20.0)
        given = {"PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(folder / "notify"), "MAST_SERVE_PORT": "0"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "serve", str(self.policy), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **given, **environment},
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.match(r"http://(\S+) serves agent_", self.process.stdout.readline())
        assert found, self.process.communicate()
        self.address = found[1]

    def hang_up(self) -> str:
        """SIGHUP, and the line that says what came of it."""
        assert self.process.stderr is not None
        self.process.send_signal(signal.SIGHUP)
        return self.process.stderr.readline()

    def step(self, sequence, model="agent_0", **flags) -> bytes:
        """A step on random_obs: the bits of q."""
        obs = {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": random_obs().tolist()}
        body = message({"sequence_id": sequence, "sequence_start": False, "sequence_end": False} | flags, inputs=[obs])
        status, answer, _ = post(self.address, body, path=f"/v2/models/{model}/infer")
        assert status == 200, answer
        return np.array(answer["outputs"][1]["data"], np.float32).tobytes()


@contextmanager
def serving(bundle: Bundle, folder: Path, *arguments: str, **environment: str):
    save(bundle, folder / "policy.mast")
    served = Served(folder, *arguments, **environment)
    try:
        yield served
        served.process.terminate()
        assert served.process.communicate(timeout=20)[1] == "" and served.process.returncode == -signal.SIGTERM
    finally:
        served.process.kill()
        served.process.communicate()
        served.notify.close()


def expected(bundle: Bundle, steps: int, model: int = 0) -> list[bytes]:
    agent = bundle.agent(model)
    return [(agent.act(random_obs()), agent.q.tobytes())[1] for _ in range(steps)]


def test_a_reload_takes_effect_at_each_sequences_start_and_refuses_what_is_not_the_same(tmp_path):
    old, new = policy(0), policy(1)
    before, after = expected(old, 9), expected(new, 2)
    with serving(old, tmp_path) as served:
        assert served.step(1, sequence_start=True) == before[0]
        save(new, served.policy)
        assert served.step(1) == before[1], "a file replaced is no reload"
        assert "reloaded" in served.hang_up()
        assert served.step(1) == before[2], "the sequence goes on with the policy that it began with"
        assert served.step(2, sequence_start=True) == after[0] and served.step(2) == after[1]
        refusals = {
            "is not a readable .mast file": b"broken",
            "has another contract: obs_dim 7, served is 20": policy(0, obs_dim=7),
            "another contract: n_agents 2, served is 3": policy(0, n_agents=2),
            "no such policy file": None,
        }
        for said, replacement in refusals.items():
            served.policy.unlink(missing_ok=True)
            if isinstance(replacement, bytes):
                served.policy.write_bytes(replacement)
            elif replacement is not None:
                save(replacement, served.policy)
            line = served.hang_up()
            assert line.startswith("mast serve: not reloaded, the old policy goes on: ") and said in line
            assert served.step(3, sequence_start=True) == after[0]
        assert served.step(1) == before[3]
        counts = scrape(served.address)
        assert counts["mast_reloads_total", ("outcome", "ok")] == 1
        assert counts["mast_reloads_total", ("outcome", "refused")] == len(refusals)


async def asked(reader, writer, body: bytes, model: str = "agent_0", binary: int | None = None) -> tuple[int, bytes]:
    """One request on a kept connection: status and body."""
    length = "" if binary is None else f"Inference-Header-Content-Length: {binary}\r\n"
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n{length}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    found = re.search(r"content-length: (\d+)", head, re.I)
    assert found, head
    return int(head.split()[1]), await reader.readexactly(int(found[1]))


UNREADABLE = {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": ["x"] * OBS_DIM}
MALFORMED = (
    b"{", b"[1]", b"{}", b'{"inputs": []}', b"\xff" * 30, b'{"inputs": [{"name": "obs"}]}',
    json.dumps(message(inputs=[UNREADABLE])).encode(),
    json.dumps(message()).encode().replace(b"0.5", b"NaN"),
)  # fmt: skip


async def storm(served: Served, old: Bundle, new: Bundle) -> dict[str, int]:
    """Sequences that begin before, during and after a reload, beside malformed requests. Every answer is checked."""
    sequences, malformed = STORM
    host, port = served.address.rsplit(":", 1)
    steps, reloaded, seen = 5, asyncio.Event(), {"old": 0, "new": 0, "refused": 0}
    connections = asyncio.Semaphore(100)

    async def episode(k: int) -> None:
        if k >= sequences * 2 // 3:
            await reloaded.wait()
        agents = {name: bundle.agent(k % 3) for name, bundle in (("old", old), ("new", new))}
        rng = np.random.default_rng(k)
        async with connections:
            reader, writer = await asyncio.open_connection(host, int(port))
            for step in range(steps):
                obs = rng.standard_normal(OBS_DIM).astype(np.float32)
                tensor = {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32"}
                parameters = {"sequence_id": f"robot {k // 3}", "sequence_start": step == 0}
                parameters |= {"sequence_end": step == steps - 1, "binary_data_output": True}
                text = json.dumps({
                    "inputs": [tensor | {"parameters": {"binary_data_size": obs.nbytes}}], "parameters": parameters,
                }).encode()  # fmt: skip
                status, answer = await asked(reader, writer, text + obs.tobytes(), f"agent_{k % 3}", len(text))
                assert status == 200, answer
                for name, agent in list(agents.items()):
                    agent.act(obs)
                    if answer[-4 * N_ACTIONS :] != agent.q.tobytes():
                        del agents[name]
                assert len(agents) == 1, f"step {step} of sequence {k} is neither policy's"
            writer.close()
        (name,) = agents
        assert k < sequences * 2 // 3 or name == "new"
        seen[name] += 1

    async def nonsense(k: int) -> None:
        async with connections:
            reader, writer = await asyncio.open_connection(host, int(port))
            for i in range(50):
                status, answer = await asked(reader, writer, MALFORMED[(k + i) % len(MALFORMED)])
                assert status == 400 and b"error" in answer
                seen["refused"] += 1
            writer.close()

    async def replace() -> None:
        while seen["old"] < 5:
            await asyncio.sleep(0.01)
        save(new, served.policy)
        assert "reloaded" in await asyncio.to_thread(served.hang_up)
        reloaded.set()

    jobs = [*map(episode, range(sequences)), *map(nonsense, range(malformed // 50))]
    await asyncio.gather(replace(), *(jobs[i] for i in np.random.default_rng(0).permutation(len(jobs))))
    return seen


def test_many_sequences_beside_malformed_requests_and_a_reload_are_never_mixed_up(tmp_path):
    old, new = policy(0), policy(1)
    with serving(old, tmp_path, "--max-sequences", "2000") as served:
        seen = asyncio.run(storm(served, old, new))
        assert seen["old"] >= 5 and seen["new"] >= STORM[0] // 3 and seen["old"] + seen["new"] == STORM[0]
        assert seen["refused"] == STORM[1]
        counts = scrape(served.address)
        decided = sum(n for key, n in counts.items() if key[0] == "mast_decision_seconds_count")
        assert decided == 5 * STORM[0] and counts["mast_live_sequences",] == 0
        assert not any("internal_error" in str(key) for key in counts)


def test_the_request_log_and_the_deadline(tmp_path):
    log = tmp_path / "requests.jsonl"
    with serving(policy(0), tmp_path, "--request-log", str(log), "--deadline", "1e-9") as served:
        served.step("robot", sequence_start=True)
        assert post(served.address, b"{")[0] == 400
        assert (
            post(served.address, message({"sequence_id": 9, "sequence_start": False}), path="/v2/models/x/infer")[0]
            == 404
        )
        log.rename(tmp_path / "rotated")
        served.hang_up()
        served.step("robot")
        counts = scrape(served.address)
        assert counts["mast_deadline_missed_total", ("model", "agent_0")] == 3
        assert counts["mast_request_seconds_count", ("model", "agent_0")] == 3
        assert counts["mast_request_log_lost_total",] == 0
    first, second, third = map(json.loads, (tmp_path / "rotated").read_text().splitlines())
    (last,) = map(json.loads, log.read_text().splitlines())
    assert first["model"] == last["model"] == "agent_0" and first["sequence"] == last["sequence"] == "robot"
    assert first["outcome"] == "ok" and first["late"] and 0 <= first["action"] < N_ACTIONS
    assert 0.0 < first["decision_us"] < first["request_us"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["outcome"], second["action"]) == ("bad_request", None) and "not JSON" in second["error"]
    assert (third["model"], third["outcome"]) == ("unknown", "unknown_model")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_lines_of_the_log_and_no_decision(tmp_path):
    with serving(policy(0), tmp_path, "--request-log", "/dev/full") as served:
        served.step(1, sequence_start=True)
        served.step(1)
        assert scrape(served.address)["mast_request_log_lost_total",] == 2


def test_a_file_the_environment_and_the_command_line_in_that_order(tmp_path):
    (tmp_path / "serve.toml").write_text('agent = 1\nidle-limit = 9\nmax_sequences = 5\nbackend = "reference"\n')
    given = {"MAST_SERVE_CONFIG": str(tmp_path / "serve.toml"), "MAST_SERVE_BACKEND": "auto"}
    with serving(policy(0), tmp_path, "--max-sequences", "1", **given) as served:
        assert served.step(1, "agent_1", sequence_start=True)
        status, answer, _ = post(served.address, message({"sequence_end": False}), path="/v2/models/agent_1/infer")
        assert status == 429 and "idle for 9 s" in answer["error"]
        labels = next(key for key in scrape(served.address) if key[0] == "mast_build_info")
        assert ("backend", policy(0).agent(0).backend) in labels


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prot = 1", "unknown key prot; did you mean port?"),
        ("port = 'x'", "--port"),
        ("port = ", "is not TOML"),
        ("port = true", "port is True, expected a number or text"),
        (None, "No such file"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_exit_code_2(content, said, tmp_path):
    if content is not None:
        (tmp_path / "serve.toml").write_text(content)
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "serve", "--config", str(tmp_path / "serve.toml")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_service_manager_hears_of_readiness_life_reload_and_the_end(tmp_path):
    with serving(policy(0), tmp_path, WATCHDOG_USEC="400000") as served:
        assert served.notify.recv(1000) == b"READY=1"
        assert [served.notify.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        served.process.send_signal(signal.SIGSTOP)
        os.kill(served.process.pid, 0)
        served.notify.settimeout(0.6)
        with pytest.raises(TimeoutError):  # what came before the stop, and then nothing
            while True:
                served.notify.recv(1000)
        served.process.send_signal(signal.SIGCONT)
        served.notify.settimeout(20.0)
        served.hang_up()
        heard = [served.notify.recv(1000).decode() for _ in range(8)]
        told = [line for line in heard if line != "WATCHDOG=1"]
        assert told[0].startswith("RELOADING=1\nMONOTONIC_USEC=") and told[1].startswith("READY=1\nSTATUS=reloaded")
        served.process.terminate()
        while served.notify.recv(1000) != b"STOPPING=1":
            pass


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime (Debian: faketime)")
def test_setting_the_clock_expires_no_sequence_and_keeps_none(tmp_path):
    file = tmp_path / "clock"
    set_clock(file, "+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    faked |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with serving(policy(0), tmp_path, "--idle-limit", "1.5", **faked) as served:
        served.step(1, sequence_start=True)
        for offset in ("-3600", "+3600"):
            set_clock(file, offset)
            served.step(1)
        time.sleep(1.7)
        assert scrape(served.address)["mast_live_sequences",] == 0
