"""Loading and acting without numpy: what is imported, that inputs agree, and the reader of files against its model."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from networks import random_bundle
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import save as safetensors_save

import mast_runtime
from mast_runtime.native import missing
from mast_runtime.network import LAYERS
from mast_runtime.tensors import read_tensors

TEAM = Path(__file__).parent / "data" / "3m.mast"
needs_native = pytest.mark.skipif(bool(missing()), reason=f"native backend: needs {missing()}")
PROGRAM = """
import sys
from array import array
import mast_runtime
bundle = mast_runtime.load(sys.argv[1])
agent, team = bundle.agent(1), bundle.team()
c = bundle.contract
obs = array("f", [0.25 * (i % 9) - 1 for i in range(c.obs_dim)])
avail = bytes([i % 2 for i in range(c.n_actions)])
for _ in range(20):
    print(agent.act(obs), agent.act(obs, avail))
agent.reset()
for wrong in (dict(obs=[float("nan")] * c.obs_dim), dict(obs=obs[1:]), dict(obs=obs, avail_actions=bytes(c.n_actions))):
    try:
        agent.act(**wrong)
    except mast_runtime.ObservationError:
        agent.act(list(obs), list(avail))
agent.reset()
print(sorted({"numpy", "safetensors", "tempfile", "importlib.metadata"} & set(sys.modules)))
print(agent.q.shape)
"""


@needs_native
def test_a_process_that_loads_and_acts_imports_no_numpy():
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(TEAM)], capture_output=True, text=True, check=True)
    *actions, imported, shape = done.stdout.splitlines()
    agent = mast_runtime.load(TEAM).agent(1)
    obs = np.array([0.25 * (i % 9) - 1 for i in range(agent.contract.obs_dim)], np.float32)
    avail = np.arange(agent.contract.n_actions) % 2 == 1
    assert actions == [f"{agent.act(obs)} {agent.act(obs, avail)}" for _ in range(20)]
    assert imported == "[]" and shape == f"({agent.contract.n_actions},)"


@needs_native
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
@pytest.mark.parametrize("block", [None, 1, 8, 5])
def test_a_loaded_network_steps_as_the_saved_one(block, dtype, tmp_path):
    """To the bit, whatever its arrays are held in."""
    from mast_export.quantise import quantise

    kinds = {"sparsity": None} if block is None else {"blocks": dict.fromkeys(LAYERS, block)}
    bundle = quantise(random_bundle(2, hidden=19, **kinds), dtype)
    mast_runtime.save(bundle, tmp_path / "p.mast")
    rng = np.random.default_rng(0)
    mine, other = mast_runtime.load(tmp_path / "p.mast").team(18), bundle.team(18)
    for _ in range(5):
        obs = rng.standard_normal((18, bundle.contract.obs_dim)).astype(np.float32)
        np.testing.assert_array_equal(mine.act(obs), other.act(obs))
        np.testing.assert_array_equal(mine.q, other.q)


@needs_native
def test_inputs_without_numpy_are_the_same_inputs():
    bundle = random_bundle(hidden=12)
    c, answers = bundle.contract, set()
    obs, avail = np.linspace(-1, 1, c.obs_dim, dtype=np.float32), np.arange(c.n_actions) % 3 > 0
    for observation in (obs, array("f", obs.tolist()), memoryview(obs), obs.tolist()):
        for flags in (avail, bytes(avail), bytearray(avail), array("B", bytes(avail)), avail.tolist(), 7 * avail):
            agent = bundle.agent(0)
            answers.add((agent.act(observation, flags), agent.q.tobytes()))
    assert len(answers) == 1
    with pytest.raises(mast_runtime.ObservationError, match="no available action"):
        bundle.agent(0).act(array("f", obs.tolist()), bytes(c.n_actions))
    with pytest.raises(mast_runtime.ObservationError, match="obs has shape"):
        bundle.agent(0).act(array("f", obs.tolist()[1:]))


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, dtype: str = "U8", shape: object = None) -> dict:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "no header": bytes(7),
    "header cut off": file_of({})[:-1],
    "header too long": (1 << 63).to_bytes(8, "little") + b"{}",
    "a list": file_of([]),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "half a character": file_of({"\ud800": tensor(0, 1)}, b"x"),
    "a bomb": file_of(b'{"a":' * 100_000),
    "a number that is none": file_of(b'{"a": NaN}'),
    "metadata a list": file_of({"__metadata__": []}),
    "metadata a number": file_of({"__metadata__": {"a": 1}}),
    "a gap": file_of({"a": tensor(0, 1), "b": tensor(2, 3)}, b"xyz"),
    "a gap at the start": file_of({"a": tensor(1, 2)}, b"xy"),
    "an overlap": file_of({"a": tensor(0, 2), "b": tensor(1, 3)}, b"xyz"),
    "bytes left over": file_of({"a": tensor(0, 1)}, b"xy"),
    "bytes missing": file_of({"a": tensor(0, 2)}, b"x"),
    "nothing but bytes": file_of({}, b"x"),
    "backwards": file_of({"a": tensor(1, 0, shape=[])}, b"x"),
    "negative": file_of({"a": tensor(0, 1, shape=[-1])}, b"x"),
    "shape and length differ": file_of({"a": tensor(0, 2, "F32", [1])}, b"xy"),
    "shape a number": file_of({"a": tensor(0, 1, shape=1)}, b"x"),
    "shape of floats": file_of({"a": tensor(0, 1, shape=[1.0])}, b"x"),
    "shape too large": file_of({"a": tensor(0, 0, shape=[1 << 63, 1 << 63])}),
    "no type": file_of({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "an unknown type": file_of({"a": tensor(0, 1, "X8")}, b"x"),
    "a type of lists": file_of({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "three places": file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_the_safetensors_library_refuses_is_refused(content):
    with pytest.raises(SafetensorError):
        deserialize(content)
    with pytest.raises(ValueError, match=r"."):
        read_tensors(BytesIO(content), len(content))


def test_tensors_are_read_as_the_safetensors_library_reads_them():
    rng = np.random.default_rng(0)
    types = (np.float32, np.float16, np.int8, np.uint8, np.float64, np.int64, np.uint16, np.bool_)
    given = {f"é {np.dtype(kind).name}": rng.random((i, 3)).astype(kind) for i, kind in enumerate(types)}
    content = safetensors_save(given, {"text": 'a "quoted" é', "empty": ""})
    metadata, tensors = read_tensors(BytesIO(content), len(content))
    assert metadata == {"text": 'a "quoted" é', "empty": ""}
    for name, expected in safetensors_load(content).items():
        found = tensors[name].numpy()
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
