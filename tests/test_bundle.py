"""The .mast format: what is saved is loaded, what the document says holds, and a failed save loses nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bounded import bounded_bundle, recorded
from handmade import file_of, handmade
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import observed, random_bundle
from safetensors import safe_open

from mast_export.quantise import quantise
from mast_runtime import Bundle, BundleError, Layer, load, save
from mast_runtime import bundle as bundle_module
from mast_runtime.bundle import find_policy, identity_of
from mast_runtime.format import Identity
from mast_runtime.inputs import STATISTICS

DOCUMENT = Path(__file__).parent.parent / "docs" / "format.md"


def assert_same(one: Bundle, other: Bundle) -> None:
    assert (one.contract, one.agents, one.info) == (other.contract, other.agents, other.info)
    assert one.identity.version == other.identity.version
    for a, b in zip(one.networks, other.networks, strict=True):
        for name in ("fc1_bias", "gru_bias", "fc2_bias"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name, layer in a.layers().items():
            assert_same_layer(layer, b.layers()[name])
        assert a.recording == b.recording and (a.inputs is None) == (b.inputs is None)
        if a.inputs is not None and b.inputs is not None:
            assert (a.inputs.names, a.inputs.units) == (b.inputs.names, b.inputs.units)
            for name in STATISTICS:
                np.testing.assert_array_equal(getattr(a.inputs, name), getattr(b.inputs, name))


def assert_same_layer(a: Layer, b: Layer) -> None:
    assert (a.outputs, a.inputs, a.segments, a.nnz) == (b.outputs, b.inputs, b.segments, b.nnz)
    assert a.is_dense == b.is_dense and a.block == b.block and a.values.dtype == b.values.dtype
    for name in ("values", "counts", "columns", "scale"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_the_handmade_file_means_what_it_says(tmp_path):
    (tmp_path / "hand.mast").write_bytes(file_of(*handmade()))
    bundle = load(tmp_path / "hand.mast")
    (network,) = bundle.networks
    np.testing.assert_array_equal(network.fc1.dense(), [[0.0, 1.5, 0.0, -2.0], [0.0, 0.0, 0.5, 0.0]])
    np.testing.assert_array_equal(network.weight_ih.dense(), np.arange(-9, 9).reshape(9, 2) / 2)
    expected = np.zeros((9, 3))
    expected[0, 2], expected[1, 2], expected[5, 0] = 1.0, 2.0, 3.0
    np.testing.assert_array_equal(network.weight_hh.dense(), expected)
    np.testing.assert_array_equal(network.fc2.dense(), [[1, 2, 3], [8, 10, 12]])
    np.testing.assert_array_equal(network.gru_bias, np.arange(12).reshape(4, 3))
    assert (network.nnz, network.n_weights) == (3 + 18 + 3 + 6, 8 + 18 + 27 + 6)
    assert bundle.agents[0].index == 1 and bundle.info == {"map": "3m"}
    assert bundle.agent(0).act([0.0, 0.0]) in (0, 1)
    assert (bundle.identity.version, bundle.identity.producer) == ("1.4", "a hand")
    content = (tmp_path / "hand.mast").read_bytes()
    blanked = content.replace(bundle.identity.digest.encode(), b"0" * 64)
    assert blanked != content and hashlib.sha256(blanked).hexdigest() == bundle.identity.digest
    inputs, recording = network.inputs, network.recording
    assert inputs and recording and (inputs.names, inputs.units) == (("position", "ready"), ("m", ""))
    assert (inputs.low.tolist(), inputs.high[0], inputs.mean.tolist()) == ([-1.0, 0.0], 1.0, [0.25, 2.0])
    steps = list(recording.steps(inputs))
    high = float(np.float16(5.1))
    expected = [[-1.0, high * 10 / 255], [1.0, 0.0], [-1.0, high * 51 / 255]]
    np.testing.assert_array_equal([step.obs for step in steps], np.array(expected, np.float32))
    assert [step.start for step in steps] == [True, False, True]
    assert [(step.avail, step.action) for step in steps] == [(b"\1\0", 0), (b"\1\0", 0), (b"\1\1", 1)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    n_agents=st.integers(1, 4),
    shared=st.booleans(),
    sparsity=st.sampled_from([None, 0.0, 0.5, 0.95, 1.0]),
    hidden=st.integers(1, 20),
    fc1=st.integers(1, 300),
    blocks=st.fixed_dictionaries({"fc1": st.integers(1, 9), "weight_ih": st.integers(1, 17)}),
    dtype=st.sampled_from(["f32", "f16", "i8"]),
)
def test_round_trip(tmp_path_factory, seed, n_agents, shared, sparsity, hidden, fc1, blocks, dtype):
    path = tmp_path_factory.getbasetemp() / "round.mast"
    options = {"shared": shared, "sparsity": sparsity, "hidden": hidden, "fc1": fc1, "blocks": blocks}
    bundle = quantise(random_bundle(seed, n_agents, **options), dtype)
    bundle = replace(bundle, identity=Identity(version="β 2"))
    bundle = observed(bundle, seed, names=seed % 2 == 0) if seed % 3 else bundle
    assert save(bundle, path) == path.stat().st_size
    loaded = load(path)
    assert_same(loaded, bundle)
    obs = np.random.default_rng(seed).standard_normal((n_agents, 20))
    assert loaded.team(backend="reference").act(obs).tolist() == bundle.team(backend="reference").act(obs).tolist()
    again = path.with_name("again.mast")
    save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


def test_the_index_of_a_nearly_empty_layer(tmp_path):
    """One connection in 64 x 257: 300 is behind one skip of 255, and a last column takes the widest type."""
    bundle = random_bundle(0, 1, obs_dim=250, sparsity=None)
    mask = np.zeros((64, 257), bool)
    mask[1, [43, 256]] = True
    layer = Layer.from_dense(mask.astype(np.float32), mask)
    save(replace(bundle, networks=(replace(bundle.networks[0], fc1=layer),)), tmp_path / "p.mast")
    with safe_open(tmp_path / "p.mast", framework="numpy") as file:
        assert file.get_tensor("index").tolist() == [255, 300 - 255, 256 - 43 - 1]
    np.testing.assert_array_equal(load(tmp_path / "p.mast").networks[0].fc1.mask(), mask)


def test_biases_and_scales_take_two_bytes_where_that_is_exact(tmp_path):
    bundle = random_bundle(0, 1)

    def types(dtype: str, bias: float = 0.0) -> dict[str, str]:
        (network,) = quantise(bundle, dtype).networks
        network = replace(network, fc2_bias=network.fc2_bias + np.float32(bias))
        save(replace(bundle, networks=(network,)), tmp_path / "p.mast")
        with safe_open(tmp_path / "p.mast", framework="numpy") as file:
            return {name: file.get_tensor(name).dtype.name for name in file.keys()}  # noqa: SIM118 - not a mapping

    assert types("f32") == {"values": "float32", "index": "uint8", "bias": "float32"}
    assert types("i8") == {"values": "int8", "index": "uint8", "bias": "float16", "scale": "float16"}
    assert types("f16", 1e-7)["bias"] == "float32"
    assert types("f16", 1e6)["bias"] == "float32"


def test_a_small_policy_is_small(tmp_path):
    """in = 80, hidden 64, 14 actions, 95 % sparsity: what the dense ONNX model takes 125 kB for."""
    bundle = random_bundle(0, 1, obs_dim=66, n_actions=14, sparsity=0.95)
    sizes = [save(quantise(bundle, dtype), tmp_path / "p.mast") for dtype in ("f32", "f16", "i8")]
    assert all(size <= limit for size, limit in zip(sizes, (11_000, 7_000, 6_000), strict=True)), sizes


DENSE = random_bundle(1, sparsity=None)


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (replace(random_bundle(1), info={"win_rate": float("nan")}), "not JSON compliant"),
        (replace(random_bundle(1), agents=random_bundle(1).agents * 2), "same index"),
        (replace(random_bundle(1), networks=(*random_bundle(1).networks[:2], *DENSE.networks[:1])), "the same blocks"),
        (replace(random_bundle(1), identity=Identity(version="a\nb")), "is not a printable string"),
        (
            replace(
                random_bundle(1), networks=(*observed(random_bundle(1)).networks[:2], *random_bundle(1).networks[2:])
            ),
            "has a recording, or none has",
        ),
    ],
)
def test_save_refuses_what_load_would_refuse(bundle, message, tmp_path):
    with pytest.raises((BundleError, ValueError), match=message):
        save(bundle, tmp_path / "p.mast")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    bundle = random_bundle(1)
    broken = replace(bundle.networks[0], fc2_bias=np.full(7, np.nan, np.float32))
    with pytest.raises(BundleError, match="bias: holds a value that is not finite"):
        save(replace(bundle, networks=(broken, *bundle.networks[1:])), tmp_path / "p.mast")


# A disk that fills: the old file stays, nothing else does.


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "policy.mast"
    save(random_bundle(1), path)
    return path


def assert_only(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_while_saving(saved, call, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_module.os, call, full)
    with pytest.raises(OSError, match="No space left") as error:
        save(random_bundle(2), saved)
    assert error.value.filename == str(saved)
    monkeypatch.undo()
    assert_only(saved, before)


def test_a_write_that_stops_halfway(saved):
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save(random_bundle(2), saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_only(saved, before)


def test_a_file_system_without_room(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=64k tmpfs "{tmp_path}" && exec "$@"', "-"]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    script = (
        "import os, sys\n"
        "from networks import random_bundle\n"
        "from mast_runtime import save\n"
        "folder = sys.argv[1]\n"
        "save(random_bundle(1, hidden=8), folder + '/p.mast')\n"
        "before = open(folder + '/p.mast', 'rb').read()\n"
        "try:\n"
        "    save(random_bundle(1, hidden=256, sparsity=None), folder + '/p.mast')\n"
        "except OSError as error:\n"
        "    assert os.listdir(folder) == ['p.mast'] and open(folder + '/p.mast', 'rb').read() == before\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [*mount, sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parent, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "No space left on device", done.stderr


# The document.


def test_the_documented_reader_reads_what_the_runtime_reads(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)
    hand = tmp_path / "hand.mast"
    hand.write_bytes(file_of(*handmade()))
    files = [hand]
    for i, dtype in enumerate(("f32", "f16", "i8")):
        files.append(tmp_path / f"{dtype}.mast")
        bundle = random_bundle(i, shared=i == 1, hidden=20, fc1=30, blocks={"weight_ih": 8}, n_actions=(7, 300)[i == 2])
        save(observed(quantise(bundle, dtype), i, names=i == 0) if i < 2 else quantise(bundle, dtype), files[-1])
    files.append(tmp_path / "continuous.mast")
    save(recorded(bounded_bundle(5, 0.5, hidden=12)), files[-1])
    files.append(tmp_path / "mlp.mast")
    save(recorded(bounded_bundle(6, hidden=20, memory=False, blocks={"mid": 8})), files[-1])
    namespace: dict = {}
    exec(compile(example, "docs/format.md", "exec"), namespace)
    for path in files:
        for network, arrays in zip(load(path).networks, namespace["read"](path), strict=True):
            for name, layer in network.layers().items():
                np.testing.assert_array_equal(arrays[name], layer.dense())
            for name in network.parts.biases:
                np.testing.assert_array_equal(arrays[name], getattr(network, name))
            for name in STATISTICS if network.inputs else ():
                np.testing.assert_array_equal(arrays[name], getattr(network.inputs, name))
            if network.inputs and network.inputs.names:
                words = zip(network.inputs.names, network.inputs.units, strict=True)
                assert arrays["names"] == [[name, unit] if unit else [name] for name, unit in words]
            for t, step in enumerate(
                network.recording.steps(network.inputs) if network.inputs and network.recording else ()
            ):
                action = list(step.action) if isinstance(step.action, tuple) else step.action
                assert (arrays["starts"][t], arrays["actions"][t].tolist()) == (step.start, action)
                assert ("avail" not in arrays) == isinstance(action, list)
                if "avail" in arrays:
                    assert arrays["avail"][t].tobytes() == step.avail
                np.testing.assert_array_equal(arrays["obs"][t], np.array(step.obs))
    changed = bytearray(hand.read_bytes())
    changed[-1] ^= 1
    hand.write_bytes(changed)
    with pytest.raises(ValueError, match=r"hand.mast is damaged"):
        namespace["read"](hand)


def test_what_a_bundle_would_be_as_a_file(tmp_path):
    bundle = random_bundle(1)
    assert bundle.identity == Identity()
    save(bundle, tmp_path / "p.mast")
    assert identity_of(bundle) == load(tmp_path / "p.mast").identity
    named = identity_of(replace(bundle, identity=Identity(version="2")))
    assert named.version == "2" and named.digest != identity_of(bundle).digest


def test_the_policy_meant_by_a_file_a_run_or_nothing(tmp_path):
    runs = tmp_path / "runs"
    for age, name in enumerate(("a/policy-i8.mast", "a/policy.mast", "b/policy-agent0.mast", "b/policy.mast")):
        path = runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find_policy(None, runs) == find_policy("a", runs) == find_policy(str(runs / "a"), runs)
    assert find_policy("a", runs) == runs / "a" / "policy-i8.mast", "the newest of the whole team"
    assert find_policy("b", runs) == runs / "b" / "policy.mast", "not one agent's"
    assert find_policy("mine.mast", runs) == Path("mine.mast"), "which load refuses where it does not exist"
    (runs / "c").mkdir()
    with pytest.raises(FileNotFoundError, match=r"runs/c: no policy in this folder; .*mast export c"):
        find_policy("c", runs)
    with pytest.raises(FileNotFoundError, match=r"no policy given"):
        find_policy(None, tmp_path / "none")
