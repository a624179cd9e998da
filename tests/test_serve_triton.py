"""What clients of Triton ask beside the protocol: tritonclient against a server of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import tritonclient.http as triton
from networks import random_bundle
from serving import N_ACTIONS, OBS_DIM, random_obs, refused, running, tensors


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    with running(random_bundle(obs_dim=OBS_DIM, n_actions=N_ACTIONS), tmp_path) as address:
        yield address


def test_configuration_as_clients_of_triton_read_it(address):
    """The names of Triton's model_config.proto."""
    with triton.InferenceServerClient(address) as client:
        config = client.get_model_config("agent_2")
        assert config == client.get_model_config("agent_2", "1") and config["name"] == "agent_2"
        assert config["max_batch_size"] == 0 and config["model_transaction_policy"] == {"decoupled": False}
        obs, avail = config["input"]
        assert obs == {"name": "obs", "data_type": "TYPE_FP32", "dims": [OBS_DIM], "format": "FORMAT_NONE",
                       "optional": False}  # fmt: skip
        assert (avail["data_type"], avail["dims"], avail["optional"]) == ("TYPE_BOOL", [N_ACTIONS], True)
        assert [(output["name"], output["data_type"], output["dims"]) for output in config["output"]] == [
            ("action", "TYPE_INT64", [1]), ("q", "TYPE_FP32", [N_ACTIONS])
        ]  # fmt: skip
        assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 60_000_000
        with refused("404", "agent_9"):
            client.get_model_config("agent_9")


def test_statistics_as_clients_of_triton_read_them(address):
    with triton.InferenceServerClient(address) as client:
        (fresh,) = client.get_inference_statistics("agent_1", "1")["model_stats"]
        assert (fresh["name"], fresh["version"], fresh["inference_count"], fresh["batch_stats"]) == (
            "agent_1",
            "1",
            0,
            [],
        )
        before_ms = time.time_ns() // 1_000_000
        for k in range(3):
            client.infer("agent_1", tensors(random_obs()), sequence_id=7, sequence_start=k == 0)
        with refused("409", "sequence_start"):
            client.infer("agent_1", tensors(random_obs()), sequence_id=8)
        stats = {entry["name"]: entry for entry in client.get_inference_statistics()["model_stats"]}
        assert list(stats) == ["agent_0", "agent_1", "agent_2"] and stats["agent_0"] == {**fresh, "name": "agent_0"}
        own = stats["agent_1"]
        assert own["inference_count"] == own["execution_count"] == 3 and own["last_inference"] >= before_ms
        parts = own["inference_stats"]
        assert (parts["success"]["count"], parts["fail"]["count"], parts["compute_infer"]["count"]) == (3, 1, 3)
        assert 0 < parts["compute_infer"]["ns"] < parts["success"]["ns"] < 10**10 and parts["queue"]["ns"] == 0
        assert parts["compute_infer"]["ns"] + parts["compute_input"]["ns"] == parts["success"]["ns"]
        assert own["batch_stats"][0]["compute_infer"] == parts["compute_infer"]
