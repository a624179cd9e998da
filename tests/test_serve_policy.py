"""A served policy says which it is, takes what was executed in place of its decisions, and counts strange inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from networks import observed, random_bundle
from serving import N_ACTIONS, OBS_DIM, message, post, random_obs, running, scrape

from mast_runtime import Bundle, Identity
from mast_runtime.bundle import identity_of


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = observed(random_bundle(obs_dim=OBS_DIM, n_actions=N_ACTIONS))
    return replace(made, identity=Identity(version="β 1.4"))


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory) -> Iterator[str]:
    with running(bundle, tmp_path_factory.mktemp("server")) as address:
        yield address


def step(server: str, name: str, obs: np.ndarray, **parameters) -> tuple[int, dict, dict]:
    data = [{"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": obs.tolist()}]
    return post(server, message(inputs=data) | {"parameters": {"sequence_id": name, **parameters}})


def values(answer: dict) -> tuple[int, list[float]]:
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    return found["action"][0], found["q"]


def test_metadata_answers_and_metrics_say_which_policy_it_is(server, bundle):
    identity = identity_of(bundle)
    expected = {
        "policy_digest": identity.digest,
        "policy_version": "β 1.4",
        "policy_producer": identity.producer,
    }
    assert post(server, None, path="/v2", method="GET")[1]["parameters"] == expected
    model = post(server, None, path="/v2/models/agent_1", method="GET")[1]
    assert model["parameters"].items() >= expected.items()
    status, _, headers = post(server, message())
    assert status == 200 and headers["mast-policy-digest"] == identity.digest
    assert headers["mast-policy-version"] == "%CE%B2%201.4"
    assert scrape(server)[("mast_policy_info", *sorted(expected.items()))] == 1.0


def test_the_executed_action_is_the_next_last_action(server, bundle):
    agent = bundle.agent(0)
    for t in range(8):
        obs = random_obs(t)
        told = {} if t in (0, 3) else {"executed_action": (7 * t) % N_ACTIONS}
        status, answer, _ = step(server, "told", obs, sequence_start=t == 0, **told)
        if told:
            agent.executed(told["executed_action"])
        action, q = values(answer)
        assert status == 200 and action == agent.act(obs)
        np.testing.assert_allclose(q, agent.q, atol=1e-6)


def test_an_executed_action_that_cannot_be_is_refused_and_changes_nothing(server, bundle):
    agent, obs = bundle.agent(0), random_obs(0)
    assert values(step(server, "wrong", obs, sequence_start=True)[1])[0] == agent.act(obs)
    whole = "executed_action must be a whole number, not "
    for wrong, text in (
        (-1, f"executed action -1: expected a whole number from 0 to {N_ACTIONS - 1}"),
        (N_ACTIONS, "executed action 80: expected"),
        (1 << 70, "executed action 1180591620717411303424: expected"),
        ("2", f"{whole}'2'"),
        (True, f"{whole}True"),
        (2.0, f"{whole}2.0"),
    ):
        status, answer, _ = step(server, "wrong", obs, executed_action=wrong)
        assert status == 400 and answer["error"].startswith(text)
    status, answer, _ = step(server, "wrong", obs, executed_action=3, sequence_start=True)
    assert status == 400 and "sequence_start begins: there was none" in answer["error"]
    nan = message()["inputs"][0] | {"data": [1e39] * OBS_DIM}
    refused = {"inputs": [nan], "parameters": {"sequence_id": "wrong", "executed_action": 3}}
    assert post(server, refused)[0] == 400, "told, and then a bad observation: the decision before stands"
    action, q = values(step(server, "wrong", obs)[1])
    assert action == agent.act(obs)
    np.testing.assert_allclose(q, agent.q, atol=1e-6)


def test_inputs_out_of_range_are_counted_by_name(server, bundle):
    inputs = bundle.networks[2].inputs
    assert inputs is not None
    strange = inputs.mean.copy()
    strange[[3, 9]] += 100.0
    for t in range(3):
        data = [
            {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "data": (strange if t else inputs.mean).tolist()}
        ]
        parameters = {"sequence_id": "strange", "sequence_start": t == 0}
        status, _, _ = post(server, {"inputs": data, "parameters": parameters}, path="/v2/models/agent_2/infer")
        assert status == 200
    found = {key[1:]: value for key, value in scrape(server).items() if key[0] == "mast_inputs_out_of_range_total"}
    mine = {dict(labels)["input"]: n for labels, n in found.items() if dict(labels)["model"] == "agent_2"}
    assert mine == {"input 3": 2.0, "input 9": 2.0}
