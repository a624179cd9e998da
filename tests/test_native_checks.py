"""What is handed to the C extension is checked there: a wrong type, shape, index or size is an error in Python."""

from __future__ import annotations

import importlib
from array import array

import numpy as np
import pytest
from networks import random_network

from mast_runtime import Contract, ObservationError
from mast_runtime.native import Members, NativeStep, find_level, levels, missing, packing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"native backend: needs {missing()}")


@pytest.fixture(params=levels())
def level(request):
    return request.param


def build(hidden, obs_dim=9, sparsity=0.8, blocks=None, **contract):
    c = Contract(obs_dim, 5, 3, **contract)
    return c, random_network(np.random.default_rng(0), c, hidden, hidden + 2, sparsity, blocks)


@pytest.fixture(scope="module")
def extension():
    """The C module itself, whose calls are checked where they are made."""
    return importlib.import_module("mast_runtime.native._native")


def test_tables_are_checked(level, extension):
    """The C side refuses tables that do not fit together rather than read beyond them."""
    contract, network = build(8, sparsity=0.95)
    packed, row = packing.pack(contract, network, find_level(level), False), find_level(level)
    fc1 = packed.fc1
    start, columns, rows, picks = (np.asarray(fc1[i]) for i in range(2, 6))
    for broken in (
        {"start": start[::-1].copy()},
        {"columns": np.full_like(columns, 60_000)},
        {"rows": rows + np.uint16(9000), "picks": np.full_like(picks, 200)},
        {"values": fc1.values[:-1]},
        {"offset": 60_000},
    ):
        with pytest.raises(ValueError, match=r"fc1 is a matrix whose parts do not fit together"):
            extension.Network(packed._replace(fc1=fc1._replace(**broken)))
    assert (packing.PANEL, packing.LANE_WINDOW) == (extension.PANEL, extension.WINDOW)
    assert len(row.dense_from) == len(packing.Layout)
    lanes = packing.pack(contract, build(40, sparsity=0.95)[1], row, True)
    swapped = lanes.gru.rows[:]
    swapped[0], swapped[-1] = swapped[-1], swapped[0]
    with pytest.raises(ValueError, match="fit together"):
        extension.Network(lanes._replace(gru=lanes.gru._replace(rows=swapped)))
    with pytest.raises(ValueError, match="layout"):
        extension.Network(packed._replace(lanes=True))
    with pytest.raises(ValueError, match=r"network.fc1_bias has 15 items, expected 16"):
        extension.Network(packed._replace(fc1_bias=packed.fc1_bias[:-1]))
    with pytest.raises(ValueError, match="cannot run"):
        extension.Network(packed._replace(level="sse9"))


WRONG = (
    None, -1, 2**70, 0.5, "text", b"", bytearray(3), (), array("H", [60_000] * 3), array("f", [1.0] * 7), array("B"),
    array("I", [2**32 - 1] * 5), array("q", [7, 7]), array("i", [-7] * 9), np.zeros((2, 2)), np.full(16, 9, ">f4"),
)  # fmt: skip
REFUSED = (TypeError, ValueError, OverflowError, AttributeError, ObservationError)


def fails(call, *arguments, **named):
    """Is the call refused? What is not must at least be a thing that lives and dies."""
    try:
        call(*arguments, **named)
    except REFUSED:
        return True
    return False


@pytest.mark.parametrize("lanes", [False, True])
def test_wrong_fields_of_a_network_are_refused(level, lanes, extension):
    """Every field of every structure, each of a wrong type, shape or range: an error in Python, never a fault."""
    contract, network = build(9, sparsity=0.7, blocks={"weight_ih": 16, "weight_hh": 8})
    packed = packing.pack(contract, network, find_level(level), lanes)
    assert packed.gru_rest is not None and not fails(extension.Network, packed)
    matrices = {name: getattr(packed, name) for name in ("fc1", "gru", "gru_rest", "fc2")}
    for wrong in WRONG:
        for name in packed._fields:
            if name != "gru_rest" or wrong is not None:
                assert fails(extension.Network, packed._replace(**{name: wrong})), (name, wrong)
        for name, matrix in matrices.items():
            for field in matrix._fields:
                broken = packed._replace(**{name: matrix._replace(**{field: wrong})})
                unchanged = isinstance(wrong, array | bytearray) and wrong == getattr(matrix, field)
                assert unchanged or fails(extension.Network, broken) or len(wrong) == 0, (name, field, wrong)
    rng = np.random.default_rng(0)
    for name, matrix in matrices.items():
        for field in ("start", "columns", "rows", "picks"):
            good = np.asarray(getattr(matrix, field))
            for _ in range(20):
                bad = rng.integers(0, np.iinfo(good.dtype).max, good.shape, good.dtype, endpoint=True)
                broken = packed._replace(**{name: matrix._replace(**{field: bad})})
                assert not good.size or fails(extension.Network, broken), (name, field)


class Shrinking:
    """A packed network whose arrays are longer the second time they are read."""

    def __init__(self, packed):
        self._packed, self._reads = packed, 0

    def __getattr__(self, name):
        self._reads += name == "fc2_bias"
        longer = {"hidden": 4096} if self._reads else {}
        return longer.get(name, getattr(self._packed, name))


def test_wrong_answers_between_two_reads_are_refused(level, extension):
    contract, network = build(9)
    packed = packing.pack(contract, network, find_level(level), False)
    assert fails(extension.Network, Shrinking(packed)) and fails(extension.Network) and fails(extension.Network, None)


def test_wrong_arguments_of_agents_and_teams_are_refused(level, extension):
    contract, network = build(9, agent_id=True)
    step = NativeStep(contract, network, level)
    one, many = step.compiled, NativeStep(contract, network, level, lanes=True).compiled
    assert not fails(extension.Agent, contract, one, 2, "native")
    for wrong in (*WRONG, 3, many):
        assert fails(extension.Agent, contract, wrong, 0, "native")
        assert fails(extension.Agent, contract, one, wrong, "native"), wrong
    assert fails(extension.Agent, contract, many, 0, "native")
    ids, ones = array("i", [0, 1, 2]), Members(one, array("i", [0, 1, 2]))
    other = build(9, obs_dim=10)
    foreign = Members(NativeStep(*other, level).compiled, array("i", [2]))
    for network_of in (one, many):
        assert not fails(extension.Team, contract, "native", ids, (Members(network_of, array("i", [0, 1, 2])),))
    for groups in (
        None, (), (None,), (ones, ones), (Members(None, array("i", [0])),), (Members(one, None),),
        (Members(one, array("i", [0, 1])),), (Members(one, array("i", [0, 1, 3])),),
        (Members(one, array("i", [0, 0, 1])),),
        (Members(one, array("i", [-1, 0, 1])),), (Members(one, array("q", [0, 1, 2])),), (Members(one, array("i")),),
        (Members(many, array("i", [0, 1, 2, 0])),), (Members(one, array("i", [0, 1])), foreign),
    ):  # fmt: skip
        assert fails(extension.Team, contract, "native", ids, groups), groups
    for wrong in (*WRONG, array("i", [0, 1, 3]), array("i", [0, -1, 2]), array("i", [0, 1])):
        assert fails(extension.Team, contract, "native", wrong, (ones,)), wrong


def test_wrong_arguments_of_a_step_are_refused(level):
    contract, network = build(9, agent_id=True)
    step = NativeStep(contract, network, level).compiled
    good = [np.zeros((2, 9), "f4"), np.zeros(2, "i8"), np.zeros(2, "i8"), np.zeros((2, 9), "f4")]
    assert not fails(step.step, *good) and fails(step.step)
    for place in range(4):
        others = (good[place][:1], good[place][..., :1], good[place].astype("f8"), np.full_like(good[place], -9))
        for wrong in (*WRONG, *(other for i, other in enumerate(others) if i < 3 or place in (1, 2))):
            arguments = [*good[:place], wrong, *good[place + 1 :]]
            assert fails(step.step, *arguments), (place, wrong)


def test_windows_by_a_slow_loop(extension):
    """pack_windows: entry by entry, one connection of each of 16 rows, all in one window of 32 inputs."""
    rng = np.random.default_rng(5)
    connected = rng.random((32, 200)) < 0.1
    connected[3], connected[20:24] = True, False
    lengths, columns = connected.sum(1).astype(np.uint32), np.nonzero(connected)[1].astype(np.uint16)
    weights = np.where(connected, rng.standard_normal(connected.shape), 0).astype(np.float32)
    counts, windows, picks, values = (
        np.frombuffer(part, code)
        for part, code in zip(extension.pack_windows(lengths, columns, weights[connected]), "IHBf", strict=True)
    )
    found, entry = np.zeros_like(weights), 0
    for panel, count in enumerate(counts):
        heights = [max(row[at : at + 32].sum() for row in connected[16 * panel : 16 * panel + 16])
                   for at in range(0, 200, 32)]  # fmt: skip
        assert count == sum(heights)
        for _ in range(count):
            for k in range(16):
                found[16 * panel + k, windows[entry] + picks[16 * entry + k]] += values[16 * entry + k]
            entry += 1
    np.testing.assert_array_equal(found, weights)
    for broken in (
        (lengths[:-1], columns, weights[connected]),
        (lengths + np.uint32(1), columns, weights[connected]),
        (lengths, columns[:-1], weights[connected]),
        (np.full_like(lengths, 2**31), columns, weights[connected]),
    ):
        with pytest.raises(ValueError, match="fit together"):
            extension.pack_windows(*broken)
    for wrong in WRONG:
        for place in range(3):
            arguments = [lengths, columns, weights[connected]]
            arguments[place] = wrong
            assert fails(extension.pack_windows, *arguments), (place, wrong)
