"""Requests that cannot be answered: a typed 4xx with one line, never a 5xx, and the server goes on."""

from __future__ import annotations

import gzip
import http.client
import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_bundle
from serving import N_ACTIONS, OBS_DIM, message, post, random_obs, running

from mast_runtime.serve.protocol import RequestError, parse_request


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with running(random_bundle(obs_dim=OBS_DIM, n_actions=N_ACTIONS), tmp_path_factory.mktemp("server")) as address:
        yield address


def changed_input(**changes) -> dict:
    return message(inputs=[message()["inputs"][0] | changes])


BAD_REQUESTS = {
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "not JSON"),
    "nested deep": (b"[" * 50_000, "not JSON"),
    "huge number": (b'{"id":' + b"9" * 5_000 + b"}", "not JSON"),
    "an array": (b"[1]", "the request must be an object"),
    "no inputs": (message(inputs=None), "inputs must be an array"),
    "empty inputs": (message(inputs=[]), "input obs is missing"),
    "input not an object": (message(inputs=[1]), "each input must be an object"),
    "unknown input": (changed_input(name="image"), "unknown input 'image'"),
    "input twice": (message(inputs=message()["inputs"] * 2), "given twice"),
    "datatype": (changed_input(datatype="FP64"), "datatype 'FP64', not FP32"),
    "shape": (changed_input(shape=[1, OBS_DIM]), "shape .*, not"),
    "values": (changed_input(data=[0.0] * (OBS_DIM + 1)), "21 values, not 20"),
    "strings": (changed_input(data=["0.5"] * OBS_DIM), "flat array of numbers"),
    "booleans": (changed_input(data=[True] * OBS_DIM), "flat array of numbers"),
    "nested data": (changed_input(data=[[0.5] * OBS_DIM]), "flat array of numbers"),
    "no data": (changed_input(data=None), "data of input obs must be an array"),
    "NaN": (changed_input(data=[float("nan")] * OBS_DIM), r"obs\[0\].* is nan"),
    "above float32": (changed_input(data=[1e300] * OBS_DIM), r"obs\[0\].* is inf"),
    "above float64": (changed_input(data=[10**400] * OBS_DIM), "too large"),
    "overflowing q": (changed_input(data=[3e38] * OBS_DIM), "scale the observations"),
    "shared memory": (changed_input(parameters={"shared_memory_region": "x"}), "shared_memory_region"),
    "unknown output": (message(outputs=[{"name": "value"}]), "unknown output 'value'; the model has action, q"),
    "outputs": (message(outputs={}), "outputs must be an array"),
    "classification": (message(outputs=[{"name": "q", "parameters": {"classification": 1}}]), "classification"),
    "id": (message(id=3), "id must be a string"),
    "long id": (message(id="x" * 200), "longer than 128"),
    "parameters": (message() | {"parameters": []}, "parameters must be an object"),
    "no sequence": (message({"sequence_id": 0}), "belongs to a sequence"),
    "empty sequence": (message({"sequence_id": ""}), "belongs to a sequence"),
    "negative sequence": (message({"sequence_id": -1}), "unsigned 64-bit"),
    "fractional sequence": (message({"sequence_id": 1.0}), "sequence_id must be a whole number"),
    "boolean sequence": (message({"sequence_id": True}), "sequence_id must be a whole number"),
    "long sequence": (message({"sequence_id": "x" * 200}), "longer than 128"),
    "sequence_start": (message({"sequence_start": 1}), "sequence_start must be true or false"),
    "binary size": (changed_input(parameters={"binary_data_size": 4}), "binary_data_size 4, not 80"),
    "binary size type": (changed_input(parameters={"binary_data_size": "80"}), "whole number"),
    "binary without bytes": (changed_input(parameters={"binary_data_size": 80}), "0 are there"),
}


OUTPUT = {"name": "q", "parameters": {"binary_data": None, "x": 1}}
TOLERATED = {
    "null id": message(id=None),
    "null outputs": message(outputs=None),
    "null parameter": message({"binary_data_output": None, "priority": None, "timeout": 5, "x": {"y": [None]}}),
    "unknown of an input": changed_input(parameters={"x": 1, "binary_data_size": None}, x=None),
    "null of an input": changed_input(parameters=None),
    "unknown of an output": message(outputs=[OUTPUT | {"datatype": "BYTES", "x": None}]),
    "null of an output": message(outputs=[{"name": "q", "parameters": None}]),
    "unknown": message(x=1, y=None),
}


@pytest.mark.parametrize("body", TOLERATED.values(), ids=TOLERATED)
def test_what_is_unknown_or_null_is_as_if_absent(server, body):
    status, answer, _ = post(server, body)
    assert (status, "id" in answer) == (200, False), answer
    plain = {output["name"]: output["data"] for output in post(server, message())[1]["outputs"]}
    assert all(output["data"] == plain[output["name"]] for output in answer["outputs"])


def test_null_where_a_sequence_is_needed_is_none(server):
    for name, words in (("sequence_id", "belongs to a sequence"), ("sequence_start", "sequence_start")):
        status, answer, _ = post(server, message({name: None}))
        assert status in (400, 409) and words in answer["error"]


@pytest.mark.parametrize(("body", "match"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests(server, body, match):
    status, answer, _ = post(server, body)
    assert status == 400 and list(answer) == ["error"]
    assert re.search(match, answer["error"]) and "\n" not in answer["error"]


def test_any_depth_of_nesting_is_refused():
    """Around the interpreter's recursion limit too, where a value can be read but not printed whole."""
    for depth in range(100, 1_100):
        with pytest.raises(RequestError, match=r"not JSON|id must be a string"):
            parse_request(b'{"id":' + b"[" * depth + b"]" * depth + b"}", None, (), ())


def binary_request() -> tuple[bytes, bytes]:
    """JSON part and raw part of a valid binary request."""
    inputs = [
        {"name": "obs", "shape": [OBS_DIM], "datatype": "FP32", "parameters": {"binary_data_size": 4 * OBS_DIM}},
        {
            "name": "avail_actions",
            "shape": [N_ACTIONS],
            "datatype": "BOOL",
            "parameters": {"binary_data_size": N_ACTIONS},
        },
    ]
    return json.dumps(message(inputs=inputs)).encode(), random_obs().tobytes() + b"\1" * N_ACTIONS


def test_bad_bytes(server):
    text, raw = binary_request()
    name, size = "Inference-Header-Content-Length", str(len(text))
    assert post(server, text + raw, {name: size})[0] == 200
    zipped = gzip.compress(text + raw)
    for body, headers, status, match in [
        (text + raw[:-1], {name: size}, 400, "79 are there"),
        (text + raw + b"\0", {name: size}, 400, "1 bytes follow"),
        (text + raw[:-1] + b"\2", {name: size}, 400, "0 or 1"),
        (text + raw, {name: str(len(text + raw) + 1)}, 400, "the body has"),
        (text + raw, {name: "9" * 30}, 400, "whole number"),
        (text + raw, {name: "-1"}, 400, "whole number"),
        (text + raw, {}, 400, "not JSON"),
        (b"", {}, 400, "not JSON"),
        (b" " * 80_000, {}, 413, "exceeds 68736 bytes"),
        (b"", {"Content-Length": str(1 << 40)}, 413, "exceeds"),
        (gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"}, 413, "exceeds"),
        (zipped[:-9], {name: size, "Content-Encoding": "gzip"}, 400, "cut short"),
        (zipped + b"\0", {name: size, "Content-Encoding": "gzip"}, 400, "tail"),
        (text, {"Content-Encoding": "deflate"}, 400, "not deflate"),
        (text, {"Content-Encoding": "br"}, 415, "gzip, deflate or identity"),
    ]:
        given_status, answer, _ = post(server, body, headers)
        assert (given_status, list(answer)) == (status, ["error"]), answer
        assert re.search(match, answer["error"]) and "\n" not in answer["error"]


def test_a_connection_survives_a_refused_body(server):
    connection = http.client.HTTPConnection(server, timeout=10)
    for body, status in [(iter([b" " * 60_000] * 2), 413), (b" " * 80_000, 413), (json.dumps(message()), 200)]:
        connection.request("POST", "/v2/models/agent_0/infer", body)
        response = connection.getresponse()
        assert response.status == status, response.read()
        response.read()
    connection.close()


def test_wrong_addresses(server):
    for path, method, status in [
        ("/v2/models/agent_9/infer", "POST", 404),
        ("/v2/models/agent_0/versions/2/infer", "POST", 404),
        ("/v2/models/%ed%a0%80%0a/infer", "POST", 404),
        ("/v2/models/agent_0/infer", "GET", 405),
        ("/elsewhere", "GET", 404),
    ]:
        given_status, answer, _ = post(server, message(), path=path, method=method)
        assert given_status == status and "\n" not in answer["error"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape"]), inner),
    max_leaves=5,
)


def edits_of(*keys: str):
    return st.dictionaries(st.sampled_from(keys), JSON_VALUES, max_size=1)


EDITS = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=4)), max_size=6)


@settings(max_examples=250, deadline=None)
@given(
    replaced=st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id", "x"]), JSON_VALUES, max_size=1),
    tensor=st.dictionaries(
        st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), JSON_VALUES, max_size=1
    ),
    edits=EDITS,
    header=st.none() | st.integers(-1, 700) | st.text("0123456789x-", max_size=4),
    encoding=st.sampled_from([None, "gzip", "deflate", "x"]),
)
def test_fuzzed_bodies_never_break_the_server(server, replaced, tensor, edits, header, encoding):
    text, raw = binary_request()
    valid = json.loads(text)
    valid["inputs"][0] |= tensor
    text = json.dumps(valid | replaced).encode()
    body = text + raw
    for at, cut, inserted in edits:
        body = body[:at] + inserted + body[at + cut :]
    size = len(text) if header is None else header
    headers = {"Inference-Header-Content-Length": str(size)} | ({"Content-Encoding": encoding} if encoding else {})
    status, answer, _ = post(server, body, headers)
    assert status == 200 or (400 <= status < 500 and "\n" not in answer["error"])
