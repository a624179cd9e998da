"""A served policy with continuous actions: its bounds, its decisions, what was executed in place of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bounded import bounded_bundle
from serving import OBS_DIM, post, random_obs, running

from mast_runtime import Bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bounded_bundle(8, 0.2, hidden=16, obs_dim=OBS_DIM)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("log") / "requests.jsonl"


@pytest.fixture(scope="module")
def server(bundle, log, tmp_path_factory) -> Iterator[str]:
    with running(bundle, tmp_path_factory.mktemp("server"), request_log=str(log)) as address:
        yield address


def step(server: str, obs: np.ndarray, executed=None, agent: int = 0, **parameters) -> tuple[int, Any]:
    inputs = [{"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": obs.tolist()}]
    if executed is not None:
        shape = [len(executed)]
        inputs.append({"name": "executed_action", "shape": shape, "datatype": "FP32", "data": executed})
    body = {"inputs": inputs, "parameters": {"sequence_id": f"robot-{agent}", **parameters}}
    status, answer, _ = post(server, body, path=f"/v2/models/agent_{agent}/infer")
    return status, answer


def values(answer: dict, name: str) -> list[float]:
    return next(output["data"] for output in answer["outputs"] if output["name"] == name)


def test_the_metadata_give_each_agents_bounds(server):
    found = post(server, None, path="/v2/models/agent_2", method="GET")[1]
    assert found["inputs"] == [
        {"name": "obs", "datatype": "FP32", "shape": [OBS_DIM]},
        {"name": "executed_action", "datatype": "FP32", "shape": [2]},
    ]
    assert found["outputs"] == [
        {"name": "action", "datatype": "FP32", "shape": [2]},
        {"name": "q", "datatype": "FP32", "shape": [2]},
    ]
    expected = {"action_low": "[3.0, -1.0]", "action_high": "[4.0, 1.0]", "action_rate_limit": 0.2}
    assert found["parameters"].items() >= expected.items()


def test_the_request_log_has_the_actions(server, log):
    status, answer = step(server, random_obs(), sequence_start=True, sequence_end=True)
    assert status == 200
    assert json.loads(log.read_text().splitlines()[-1])["action"] == values(answer, "action")


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_decisions_are_the_agents_own(server, bundle, agent):
    own: Any = bundle.agent(agent)
    for t in range(6):
        done = None if t in (0, 3) else np.linspace(0.0, 0.3 * t, len(own.last_action)).round(3).tolist()
        status, answer = step(server, random_obs(t), done, agent, sequence_start=t == 0)
        assert status == 200, answer
        if done is not None:
            own.executed(done)
        action = own.act(random_obs(t))
        np.testing.assert_allclose(values(answer, "action"), action, rtol=1e-6)
        np.testing.assert_allclose(values(answer, "q"), own.q, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused_and_changes_nothing(server, bundle):
    own: Any = bundle.agent(1)
    refused = [
        (random_obs(1), [0.1, 0.2], {}, "input executed_action has shape [2], not [1]"),
        (
            random_obs(1),
            None,
            {"executed_action": 1},
            "of continuous actions is an input, not a parameter",
        ),
        (random_obs(1), [1e300], {}, "every component must be finite"),
        (np.full(OBS_DIM, 3e38), [0.25], {}, "action values overflow"),
        (random_obs(1), [0.25], {"sequence_start": True}, "sequence_start begins: there was none"),
    ]
    assert step(server, random_obs(0), None, 1, sequence_start=True)[0] == 200
    own.act(random_obs(0))
    for obs, done, parameters, words in refused:
        status, answer = step(server, obs, done, 1, **parameters)
        assert status == 400 and words in answer["error"]
    answer = step(server, random_obs(1), None, 1)[1]
    assert values(answer, "action") == own.act(random_obs(1)).tolist()
