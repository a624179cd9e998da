"""Hostile files with continuous actions: each one typed error that says what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from handmade import BLANK, deflated, file_of, handmade

from mast_runtime import BundleError, ObservationError, load

FLOATS = np.array([0.25, -0.1, 0.3], "<f4").tobytes()


def continuous() -> tuple[dict, dict]:
    """The policy written down by hand, its agent (place 1 of the team) with one component of two."""
    manifest, tensors = handmade()
    manifest["head"] = {
        "kind": "continuous", "squash": "tanh", "low": [[-1, 0.5], [-0.1]], "high": [[1, 2], [0.3]], "rate_limit": None,
    }  # fmt: skip
    tensors["recording"] = deflated(bytes([0, 255, 1, 10, 246, 51, 1, 0, 1]) + FLOATS)
    return manifest, tensors


def test_a_file_written_by_hand_is_read(tmp_path):
    path = tmp_path / "p.mast"
    path.write_bytes(file_of(*continuous()))
    bundle = load(path)
    head, recording = bundle.contract.head, bundle.networks[0].recording
    assert head is not None and recording is not None
    assert head.low == ((-1.0, 0.5), (-0.1,)) and head.high == ((1.0, 2.0), (0.3,)) and head.rate_limit is None
    assert [round(x, 6) for (x,) in recording.actions] == [0.25, -0.1, 0.3]
    assert recording.starts == bytes([1, 0, 1]) and recording.obs == bytes([0, 255, 0, 10, 0, 51])
    agent: Any = bundle.agent()
    assert len(agent.act([0.0, 0.0])) == 1


def head(**values) -> Callable[[dict, dict], object]:
    return lambda m, t: m["head"].update(values)


def recording(content: bytes) -> Callable[[dict, dict], object]:
    return lambda m, t: t.update(recording=deflated(content))


OBS, NAN, INF = bytes([0, 255, 1, 10, 246, 51]), float("nan"), float("inf")
HOSTILE: dict[str, tuple[Callable[[dict, dict], object], str]] = {
    "no head": (lambda m, t: m.pop("head"), "manifest: head None, this runtime runs"),
    "head a text": (lambda m, t: m.update(head="continuous"), "head 'continuous', this runtime runs"),
    "another kind": (head(kind="gaussian"), "head {'kind': 'gaussian'.*update MAST"),
    "another squashing": (head(squash="clip"), "this runtime runs .* with tanh or search; update MAST"),
    "greedy with more": (lambda m, t: m.update(head={"kind": "greedy", "beta": 1}), "head {'kind': 'greedy', 'beta'"),
    "bounds missing": (lambda m, t: m["head"].pop("low"), "low has not one row for each of 2 agents"),
    "a row too few": (head(high=[[1, 2]]), "high has not one row for each of 2 agents"),
    "a row too many": (head(low=[[0], [0], [0]]), "low has not one row for each of 2 agents"),
    "rows a text": (head(low="ab"), "low has not one row for each of 2 agents"),
    "a row a number": (head(low=[0, 0]), "low of agent 0: expected 1 to 2 finite numbers"),
    "a row empty": (head(low=[[-1, 0.5], []]), "low of agent 1: expected 1 to 2 finite numbers"),
    "more components than outputs": (head(low=[[0, 0, 0], [0]]), "low of agent 0: expected 1 to 2 finite numbers"),
    "rows of two lengths": (head(low=[[-1, 0.5], [-0.1, 0]]), "agent 1 has 2 lower and 1 upper bounds"),
    "a bound NaN": (head(low=[[NAN, 0.5], [-0.1]]), "NaN is not JSON"),
    "a bound infinite": (head(high=[[INF, 2], [0.3]]), "Infinity is not JSON"),
    "a bound beyond float64": (head(high=[["HUGE", 2], [0.3]]), "high of agent 0: expected 1 to 2 finite numbers"),
    "a bound beyond float32": (head(high=[[1e39, 2], [0.3]]), "high of agent 0: expected 1 to 2 finite numbers"),
    "a bound a huge whole number": (head(high=[[2**1400, 2], [0.3]]), "high of agent 0: expected"),
    "a bound true": (head(high=[[True, 2], [0.3]]), "high of agent 0: expected 1 to 2 finite numbers"),
    "a bound a text": (head(high=[["1", 2], [0.3]]), "high of agent 0: expected 1 to 2 finite numbers"),
    "no width": (head(high=[[1, 0.5], [0.3]]), r"bounds \[0.5, 0.5\] of agent 0's actions, expected a width"),
    "upside down": (head(high=[[1, 2], [-0.2]]), r"bounds \[-0.1, -0.2\] of agent 1's actions, expected a width"),
    "too wide": (head(low=[[-3e38, 0], [0]], high=[[3e38, 1], [1]]), r"bounds \[-3e\+38, 3e\+38\]"),
    "a limit of nothing": (head(rate_limit=0), "rate_limit 0, expected a share of the range"),
    "a limit above the range": (head(rate_limit=1.5), "rate_limit 1.5, expected a share of the range"),
    "a limit NaN": (head(rate_limit=NAN), "NaN is not JSON"),
    "a limit a text": (head(rate_limit="0.1"), "rate_limit '0.1', expected a share"),
    "recording too short": (
        recording(OBS + bytes([1, 0, 1]) + FLOATS[:-1]),
        "recording: 20 bytes expanded, expected 21",
    ),
    "recording too long": (recording(OBS + bytes([1, 0, 1]) + FLOATS + b"x"), "recording: a zlib stream"),
    "recorded action out of bounds": (
        recording(OBS + bytes([1, 0, 1]) + np.array([0.25, -0.2, 0.3], "<f4").tobytes()),
        "recording: an action outside its bounds",
    ),
    "recorded action NaN": (
        recording(OBS + bytes([1, 0, 1]) + np.array([0.25, NAN, 0.3], "<f4").tobytes()),
        "recording: an action outside its bounds",
    ),
    "recorded flag 2": (recording(OBS + bytes([1, 2, 1]) + FLOATS), "recording: a flag that is not 0 or 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_typed_error(name, tmp_path):
    (change, words), (manifest, tensors), path = HOSTILE[name], continuous(), tmp_path / "p.mast"
    change(manifest, tensors)
    text = json.dumps(manifest).replace('"HUGE"', "1e999")
    path.write_bytes(file_of(text, tensors))
    with pytest.raises(BundleError, match=words) as found:
        load(path)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_a_flipped_byte_under_a_right_digest_is_an_error_or_a_policy_whose_actions_are_within_bounds(tmp_path):
    content, path, loaded = file_of(*continuous()), tmp_path / "p.mast", 0
    path.write_bytes(content)
    digits = content.index(load(path).identity.digest.encode())
    blank = content[:digits] + BLANK.encode() + content[digits + 64 :]
    for i in {*range(0, len(content), 2)} - {*range(digits, digits + 64)}:
        changed = blank[:i] + bytes([blank[i] ^ (0x01 if i % 4 else 0x10)]) + blank[i + 1 :]
        path.write_bytes(changed.replace(BLANK.encode(), hashlib.sha256(changed).hexdigest().encode(), 1))
        try:
            bundle = load(path)
        except BundleError as error:
            assert str(error).isprintable()
            continue
        loaded += 1
        head, agent = bundle.contract.head, bundle.agent()
        assert head is not None
        with suppress(ObservationError):
            action = np.asarray(agent.act(np.ones(bundle.contract.obs_dim, np.float32)))
            low, high = (np.array(side[bundle.agents[0].index], np.float32) for side in (head.low, head.high))
            assert (action >= low).all() and (action <= high).all()
    assert 0 < loaded < len(content)
