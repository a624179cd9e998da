"""Hostile .mast files: one typed error that names the part at fault, or a valid policy; never anything else."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from handmade import deflated, file_of, handmade
from networks import random_bundle
from safetensors.numpy import save as safetensors_save

from mast_runtime import BundleError, RuntimeFault, load, save
from mast_runtime.bundle import _decoded as decode_file


def load_and_act(path: Path) -> str:
    """The name of the typed error, or "" for a file that loads; anything else is the test's failure."""
    try:
        bundle = load(path)
    except BundleError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 1000
        return message
    obs = np.ones((len(bundle.agents), bundle.contract.obs_dim))
    for backend in ("reference", "auto"):
        with suppress(RuntimeFault):
            team = bundle.team(backend=backend)
            team.act(obs)
            team.act(obs)
    return ""


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def flipped(content: bytes, byte: int, pattern: int) -> bytes:
    return content[:byte] + bytes([content[byte] ^ pattern]) + content[byte + 1 :]


def test_every_changed_byte_is_an_error(tmp_path):
    """Every byte of a small file, 10,000 bits of a large one."""
    small = file_of(*handmade())
    every = [(small, i, pattern) for i in range(len(small)) for pattern in (0x01, 0x20, 0xFF)]
    save(random_bundle(0, hidden=64), tmp_path / "large.mast")
    large, rng = (tmp_path / "large.mast").read_bytes(), np.random.default_rng(0)
    every += [(large, int(bit) // 8, 1 << int(bit) % 8) for bit in rng.integers(0, 8 * len(large), 10_000)]
    for content, i, pattern in every:
        changed = flipped(content, i, pattern)
        with pytest.raises((BundleError, ValueError), match=r"."):
            decode_file(BytesIO(changed), len(changed))


def test_zeroed_and_exchanged_parts_are_errors(tmp_path):
    path = tmp_path / "p.mast"
    save(random_bundle(0, hidden=64), path)
    content = path.read_bytes()
    for start in range(0, len(content) - 1024, 1024):
        first, second = content[start : start + 512], content[start + 512 : start + 1024]
        for part in (bytes(512) + second, second + first):
            assert load_and_act(written(path, content[:start] + part + content[start + 1024 :]))


def test_a_flipped_byte_under_a_right_digest_is_an_error_or_a_valid_policy(tmp_path):
    content, path = file_of(*handmade()), tmp_path / "flipped.mast"
    digits = content.index(load(written(path, content)).identity.digest.encode())
    tracemalloc.start()
    loaded = 0
    for i in {*range(len(content))} - {*range(digits, digits + 64)}:
        changed = flipped(content[:digits] + b"0" * 64 + content[digits + 64 :], i, 0x02 if i % 3 else 0x80)
        sealed = changed[:digits] + sha256(changed).hexdigest().encode() + changed[digits + 64 :]
        loaded += not load_and_act(written(path, sealed))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < loaded < len(content)
    assert peak < 16 << 20


def test_every_truncation_is_an_error(tmp_path):
    content, path = file_of(*handmade()), tmp_path / "cut.mast"
    for size in range(0, len(content), 3):
        assert "not a readable .mast file" in load_and_act(written(path, content[:size]))
    assert load_and_act(written(path, content + b"\0"))


Change = Callable[[dict, dict], object]


def manifest(**values) -> Change:
    return lambda m, t: m.update(values)


def contract(**values) -> Change:
    return lambda m, t: m["contract"].update(values)


def agent(**values) -> Change:
    return lambda m, t: m["agents"][0].update(values)


def tensor(name: str, values, dtype=None) -> Change:
    return lambda m, t: t.update({name: np.array(values, dtype or t[name].dtype)})


def names(content: bytes) -> Change:
    return lambda m, t: t.update(names=deflated(content))


def recording(content: bytes) -> Change:
    return lambda m, t: t.update(recording=deflated(content))


NAN, INF = float("nan"), float("inf")
HOSTILE: dict[str, tuple[Change, str]] = {
    "version 1": (manifest(version=1), "manifest: format version 1, this runtime reads 3; export the policy again"),
    "version 2": (
        manifest(version=2),
        "format version 2, this runtime reads 3; export the policy again: mast export RUN",
    ),
    "version 4": (manifest(version=4), "manifest: format version 4, this runtime reads 3; update MAST"),
    "digest of another file": (manifest(digest="a" * 64), "its bytes do not fit its digest"),
    "digest in capitals": (manifest(digest="A" * 64), "its bytes do not fit its digest"),
    "digest too short": (manifest(digest="a" * 63), "manifest: digest 'a+', expected 64 hexadecimal digits"),
    "digest a number": (manifest(digest=7), "manifest: digest 7, expected 64"),
    "digest with half a character": (manifest(digest="\ud800" * 64), "its bytes do not fit its digest"),
    "no digest": (lambda m, t: m.pop("digest"), "manifest: digest None"),
    "policy version a number": (manifest(policy_version=1.4), "1.4 is not a printable string"),
    "no producer": (lambda m, t: m.pop("producer"), "manifest: malformed .'producer'"),
    "another architecture": (
        manifest(architecture="lstm"),
        "manifest: architecture 'lstm', this runtime runs 'gru', 'mlp', 'gru-critic', 'mlp-critic'; update",
    ),
    "architecture a list": (manifest(architecture=["gru"]), r"manifest: architecture \['gru'\]"),
    "said to have no memory": (manifest(architecture="mlp"), "manifest: malformed .'mid'"),
    "without a memory, of the values of a GRU": (
        manifest(architecture="mlp", blocks={"fc1": 1, "mid": 0, "fc2": 0}),
        "scale: shape .22., expected .7.",
    ),
    "no architecture": (lambda m, t: m.pop("architecture"), "manifest: architecture None"),
    "another head": (manifest(head={"kind": "tanh", "low": [-1.0]}), "manifest: head {'kind': 'tanh'"),
    "version true": (manifest(version=True), "format version True"),
    "version 1.0": (manifest(version=1.0), "format version 1.0"),
    "no contract": (lambda m, t: m.pop("contract"), "manifest: it describes no policy; mast export"),
    "contract a list": (manifest(contract=[2, 2]), "manifest: malformed"),
    "obs huge": (contract(obs_dim=10**30), "not a whole number"),
    "obs negative": (contract(obs_dim=-2), "-2 is not a whole number from 1 to 65535"),
    "obs bool": (contract(obs_dim=True), "True is not a whole number"),
    "obs float": (contract(obs_dim=2.0), "2.0 is not a whole number"),
    "obs NaN": (contract(obs_dim=NAN), "NaN is not JSON"),
    "obs a long text": (contract(obs_dim="x" * 10**6), "is not a whole number"),
    "last_action 1": (contract(last_action=1), "1 is not true or false"),
    "input too wide": (contract(obs_dim=65535), "input of 65537 values"),
    "no agents": (manifest(agents=[]), "0 agents and 1 networks"),
    "agents a number": (manifest(agents=3), "manifest: malformed"),
    "agent a list": (manifest(agents=[[1]]), "manifest: malformed"),
    "agent out of the team": (agent(index=2), "2 is not a whole number from 0 to 1"),
    "agent negative": (agent(index=-1), "-1 is not a whole number"),
    "agent of no network": (agent(network=1), "1 is not a whole number from 0 to 0"),
    "name a number": (agent(name=3), "3 is not a printable string"),
    "name with escapes": (agent(name="\x1b[2J"), "is not a printable string"),
    "two agents in one place": (lambda m, t: m["agents"].append(m["agents"][0]), "same index"),
    "no networks": (manifest(networks=[]), "manifest: malformed"),
    "networks a text": (manifest(networks="ab"), "manifest: malformed"),
    "more networks than agents": (manifest(networks=[[2, 3]] * 2), "1 agents and 2 networks"),
    "hidden zero": (manifest(networks=[[2, 0]]), "0 is not a whole number"),
    "hidden huge": (manifest(networks=[[2, 21845]]), "describes 1431.* weights, at most 134217728"),
    "many huge networks": (
        lambda m, t: m.update(
            contract={**m["contract"], "n_agents": 4096},
            agents=[{**m["agents"][0], "index": i} for i in range(4096)],
            networks=[[65535, 1]] * 4096,
        ),
        "weights, at most",
    ),
    "block negative": (manifest(blocks={"fc1": -1, "weight_ih": 0, "weight_hh": 2, "fc2": 0}), "-1 is not a whole"),
    "block missing": (manifest(blocks={}), "manifest: malformed"),
    "block of another size": (
        manifest(blocks={"fc1": 1, "weight_ih": 0, "weight_hh": 1, "fc2": 0}),
        "values: 31 values, expected 29",
    ),
    "sparse said to be dense": (
        manifest(blocks={"fc1": 0, "weight_ih": 0, "weight_hh": 2, "fc2": 0}),
        "values: 31 values, expected 42",
    ),
    "info a list": (manifest(info=[]), "info is not an object"),
    "info infinite": (lambda m, t: m["info"].update(x=INF), "Infinity is not JSON"),
    "info with half a character": (lambda m, t: m["info"].update(x="\ud800"), "manifest: malformed"),
    "manifest too long": (lambda m, t: m["info"].update(x="y" * (1 << 22)), "characters, at most 4194304"),
    "tensor missing": (lambda m, t: t.pop("values"), "values: missing"),
    "index missing": (lambda m, t: t.pop("index"), "index: missing"),
    "bias missing": (lambda m, t: t.pop("bias"), "bias: missing"),
    "scale missing": (lambda m, t: t.pop("scale"), "scale: missing"),
    "tensor too many": (tensor("evil\nname", [1.0], np.float32), r"tensor 'evil\\nname' does not belong"),
    "scale of float weights": (tensor("values", np.zeros(31), np.float32), "'scale' does not belong"),
    "a block out of the grid": (tensor("index", [1, 1, 2, 3, 15]), "index: place 26, the sparse layers have 26"),
    "a skip out of the grid": (tensor("index", [1, 1, 2, 3, 255]), "index: place 265, the sparse layers have 26"),
    "a longer index than places": (tensor("index", [0] * 27), "index: 27 steps, the sparse layers have 26 places"),
    "an index of skips": (tensor("index", [255] * 26), "index: place 6629"),
    "an index of wide steps": (tensor("index", [1, 1, 2, 3, 6], np.uint16), "index: dtype uint16"),
    "an index of signed steps": (tensor("index", [1, 1, 2, -3, 6], np.int8), "index: dtype int8"),
    "an index in two dimensions": (tensor("index", [[1, 1, 2, 3, 6]]), r"index: shape \[1, 5\], expected \[n\]"),
    "a block too many": (tensor("index", [1, 1, 2, 3, 0, 6]), "values: 31 values, expected 33"),
    "a block too few": (tensor("index", [1, 1, 2, 3]), "values: 31 values, expected 29"),
    "a block in another layer": (tensor("index", [1, 1, 4, 1, 6]), "values: 31 values, expected 32"),
    "values too few": (tensor("values", [1]), "values: 1 values, expected 31"),
    "values in two dimensions": (tensor("values", [[1] * 31]), r"values: shape \[1, 31\]"),
    "values of 64 bits": (tensor("values", [1.0] * 31, np.float64), "values: dtype float64"),
    "values NaN": (tensor("values", [NAN] * 31, np.float32), "values: holds a value that is not finite"),
    "values infinite": (tensor("values", [-INF] * 31, np.float16), "values: holds a value that is not finite"),
    "bias NaN": (tensor("bias", [NAN] * 16), "bias: holds a value that is not finite"),
    "bias infinite": (tensor("bias", [INF] * 16, np.float16), "bias: holds a value that is not finite"),
    "bias too short": (tensor("bias", [0.0] * 15), r"bias: shape \[15\], expected \[16\]"),
    "bias of whole numbers": (tensor("bias", [0] * 16, np.int8), "bias: dtype int8, expected one of float32, float16"),
    "scale too long": (tensor("scale", [0.5] * 23), r"scale: shape \[23\], expected \[22\]"),
    "scale negative": (tensor("scale", [-0.5] * 22), r"scale: holds a value outside \[0, "),
    "scale overflows": (tensor("scale", [3e38] * 22), r"scale: holds a value outside \[0, "),
    "inputs too few": (tensor("inputs", [0.0] * 7), r"inputs: shape \[7\], expected \[8\]"),
    "inputs upside down": (tensor("inputs", [1.0, 0, -1, 0, 0, 0, 0, 0]), "inputs: a range upside down"),
    "inputs that deviate below zero": (tensor("inputs", [0.0] * 7 + [-1.0]), "inputs: .* a negative deviation"),
    "inputs NaN": (tensor("inputs", [NAN] * 8), "inputs: holds a value that is not finite"),
    "inputs missing": (lambda m, t: t.pop("inputs"), "inputs: missing"),
    "inputs of whole numbers": (tensor("inputs", [0] * 8, np.int8), "inputs: dtype int8"),
    "names too few": (names(b"one"), "names: 1 lines, expected 2"),
    "names with escapes": (names(b"one\n\x1b[2J"), "is not a printable name"),
    "a name of nothing": (names(b"one\n"), "is not a printable name"),
    "names that are not text": (names(b"\xff\n"), "names: not UTF-8"),
    "names that are not deflated": (tensor("names", [1, 2, 3]), "names: not a zlib stream"),
    "names that explode": (names(bytes(1 << 25)), "names: a zlib stream that .* expands beyond 4194304"),
    "names without inputs": (
        lambda m, t: (t.pop("inputs"), t.pop("recording"), m.update(recorded_steps=0)),
        "inputs: missing, though",
    ),
    "steps negative": (manifest(recorded_steps=-1), "recorded_steps -1, expected 0 to 1024"),
    "steps too many": (manifest(recorded_steps=1025), "recorded_steps 1025"),
    "steps true": (manifest(recorded_steps=True), "recorded_steps True"),
    "steps of another recording": (manifest(recorded_steps=4), "recording: 18 bytes expanded, expected 24"),
    "a recording that is not said": (manifest(recorded_steps=0), "tensor 'recording' does not belong"),
    "no recording": (lambda m, t: t.pop("recording"), "recording: missing"),
    "a recording cut off": (
        lambda m, t: t.update(recording=t["recording"][:-3]),
        "recording: a zlib stream that is cut",
    ),
    "a recording with a tail": (
        lambda m, t: t.update(recording=np.append(t["recording"], np.uint8(0))),
        "recording: a zlib stream that .* has a tail",
    ),
    "a recording that explodes": (recording(bytes(1 << 25)), "recording: a zlib stream that .* expands beyond 18"),
    "a recorded flag of 2": (recording(bytes(6) + b"\2" * 6 + b"\1\0\1" + bytes(3)), "recording: a flag that is not"),
    "a recording that does not start": (recording(bytes(6) + b"\1" * 6 + bytes(6)), "a first step that starts no"),
    "a recorded action that was not available": (
        recording(bytes(12) + b"\1\0\1" + bytes(3)),
        "recording: takes an action that is not available",
    ),
    "a recorded action out of range": (
        recording(bytes(6) + b"\1" * 6 + b"\1\0\1" + b"\0\0\2"),
        "recording: takes an action that is not available",
    ),
    "padding not zero": (lambda m, t: t["values"].put(24, 1), "values: the padding of a short block"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_contents_name_the_part_at_fault(change, message, tmp_path):
    header, tensors = copy.deepcopy(handmade())
    change(header, tensors)
    path = tmp_path / "hostile.mast"
    path.write_bytes(file_of(header, tensors))
    tracemalloc.start()
    with pytest.raises(BundleError, match=message) as caught:
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    text = str(caught.value)
    assert text.isprintable() and len(text) < 500
    assert text.startswith(f"{path}: {caught.value.tensor}")


HOSTILE_TEXT = {
    "not JSON": ("{", "manifest: not JSON"),
    "a list": ("[]", "manifest: not a JSON object"),
    "null": ("null", "manifest: not a JSON object"),
    "empty": ("", "manifest: not JSON"),
    "a bomb": ("[" * 1_000_000, "manifest: not JSON"),
    "a bomb inside": ('{"version":3,"info":' + '{"a":' * 100_000 + "1" + "}" * 100_001, "manifest: not JSON"),
    "a number of a million digits": ('{"version":' + "1" * 1_000_000 + "}", "manifest: not JSON"),
    "an infinite number": (json.dumps({**handmade()[0], "info": {"x": 0.5}}).replace("0.5", "1e999"), "malformed"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE_TEXT.values(), ids=HOSTILE_TEXT)
def test_hostile_manifests(text, message, tmp_path):
    (tmp_path / "hostile.mast").write_bytes(file_of(text, handmade()[1]))
    with pytest.raises(BundleError, match=message):
        load(tmp_path / "hostile.mast")


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "other.mast"
    with pytest.raises(FileNotFoundError, match="no such policy file"):
        load(path)
    with pytest.raises(FileNotFoundError, match="no such policy file"):
        load(tmp_path)
    for content in (
        b"",
        b"PK\x03\x04",
        b"\xff" * 8,
        (1 << 62).to_bytes(8, "little") + b"{}",
        np.random.default_rng(0).bytes(5000),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="not a readable"):
            load(path)
    path.write_bytes(safetensors_save(handmade()[1]))
    with pytest.raises(BundleError, match="no mast manifest"):
        load(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="has 1099511627776 bytes"):
        load(path)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "BOOL", "F64", "U64"])
def test_tensor_types_the_format_does_not_use(dtype, tmp_path):
    bits = {"BF16": 16, "F4": 4, "C64": 64, "F64": 64, "U64": 64}.get(dtype, 8)
    start = f'{{"values":{{"dtype":"{dtype}","shape":[16],"data_offsets":[0,{2 * bits}]}},"__metadata__":{{"mast":'
    header = (start + json.dumps(json.dumps(handmade()[0])) + "}}").encode()
    (tmp_path / "p.mast").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * bits))
    with pytest.raises(BundleError):
        load(tmp_path / "p.mast")
