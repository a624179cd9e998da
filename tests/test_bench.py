"""The benchmark's and the inspection's structure and counts; never a time."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from networks import random_bundle, random_network

from mast_export.variants import variants
from mast_runtime import AgentInfo, BackendError, Bundle, Contract, Identity, Layer, RuntimeFault, load, save
from mast_runtime.backends import installed_backends
from mast_runtime.console import new_console
from mast_runtime.measure import bench as bench_module
from mast_runtime.measure.bench import bench, print_bench
from mast_runtime.measure.card import print_description
from mast_runtime.measure.inspect import describe
from mast_runtime.measure.machine import describe_machine
from mast_runtime.measure.pictures import MAX_NETWORKS, masks_png
from mast_runtime.measure.rivals import RIVALS, Rival, installed_rivals
from mast_runtime.measure.startup import BARE, bare_command, measure_startup, policy_command


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "tiny.mast"
    save(random_bundle(0, n_agents=3, hidden=8, sparsity=0.8), path)
    return bench(load(path), rounds=2, team=8, startup_rounds=1), path


def text_of(show, value, width: int = 80) -> str:
    console = new_console(file=io.StringIO(), width=width, soft_wrap=False)
    show(console, value)
    return console.file.getvalue()


def test_an_unknown_engine_is_refused_with_those_there_are():
    with pytest.raises(BackendError, match=r"unknown engine 'abacus'; choose from auto, native, .*, openvino"):
        bench(random_bundle(hidden=8), ["abacus"])


def test_every_installed_backend_is_measured_sparse_and_dense(result):
    rows = {(row.backend, row.weights, row.agents): row for row in result[0].latency}
    engines = (*installed_backends(), *installed_rivals())
    assert set(rows) == {(b, w, n) for b in engines for w in ("sparse", "dense") for n in (1, 9)}
    assert rows[engines[0], "sparse", 1].against_first == rows[engines[0], "sparse", 9].against_first == 1.0
    for (_, weights, _), row in rows.items():
        assert 0 < row.median_us <= row.p99_us
        assert len(row.rounds_us) == 2
        assert row.calls >= 40
        assert (row.speedup is None) == (weights == "dense")


def test_variants_are_measured_on_the_first_backend():
    bundle = random_bundle(0, n_agents=2, hidden=8, sparsity=0.8)
    others = variants(bundle)
    found = bench(bundle, ["reference", "onnx"], rounds=1, team=2, startup_rounds=0, variants=others)
    rows = [row for row in found.latency if row.agents == 1]
    assert [row.weights for row in rows if row.backend == "reference"] == ["sparse", "dense", *others]
    assert [row.weights for row in rows if row.backend == "onnx"] == ["sparse", "dense"]
    assert all(row.speedup is not None for row in rows if row.weights in others)
    assert {f".mast, {name}" for name in others} < {row.name for row in found.sizes}


def test_variants_keep_the_architecture_and_the_connections():
    bundle = random_bundle(0, n_agents=2, hidden=40, sparsity=0.9)
    others = variants(bundle)
    blocks = {"1x1": (1, 1, 1, 1), "8x1": (8, 8, 8, 8), "16x1": (16, 16, 16, 16), "16x1 GRU": (1, 16, 16, 1)}
    assert list(others) == ["sparse f16", "sparse i8", *(f"random {name}" for name in blocks)]
    for name, rows in blocks.items():
        for given, other in zip(bundle.networks, others[f"random {name}"].networks, strict=True):
            assert tuple(layer.block for layer in other.layers().values()) == rows
            for layer, own in zip(other.layers().values(), given.layers().values(), strict=True):
                assert (layer.outputs, layer.inputs) == (own.outputs, own.inputs)
                assert abs(layer.nnz - own.nnz) <= max(layer.block, 0.2 * own.nnz)
    assert list(variants(random_bundle(0, sparsity=None))) == ["dense f16", "dense i8"]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("shared", [False, True])
def test_rivals_decide_as_the_reference_does(name, shared):
    if name not in installed_rivals():
        pytest.skip(f"{name} is not installed")
    bundle = random_bundle(2, n_agents=3, hidden=12, fc1=9, shared=shared, sparsity=0.6)
    rng, rival, team = np.random.default_rng(0), Rival(bundle, 6, name), bundle.team(6, "reference")
    one, agent = Rival(bundle, 1, name), bundle.agent(0, "reference")
    for t in range(30):
        if t == 15:
            for each in (rival, team, one, agent):
                each.reset()
        obs, avail = rng.standard_normal((6, 20)).astype(np.float32), rng.random((6, 7)) < 0.5
        avail[:, 3] = True
        assert rival.act(obs, avail).tolist() == team.act(obs, avail).tolist()
        assert one.act(obs[:1], avail[:1]).tolist() == [agent.act(obs[0], avail[0])]


def test_rivals_without_a_last_action():
    contract = Contract(4, 3, 1, last_action=False)
    network = random_network(np.random.default_rng(0), contract, hidden=5)
    bundle = Bundle(contract, (AgentInfo("a", "b", 0, 0),), (network,))
    obs, avail = np.ones((1, 4), np.float32), np.ones((1, 3), np.bool_)
    expected = bundle.team(backend="reference").act(obs, avail).tolist()
    assert [Rival(bundle, 1, name).act(obs, avail).tolist() for name in installed_rivals()] == [
        expected for _ in installed_rivals()
    ]


def test_a_rival_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(bench_module, "installed_rivals", list)
    with pytest.raises(BackendError, match=r"'litert' needs ai_edge_litert and .*; pip install ai-edge-litert"):
        bench(random_bundle(0, hidden=4), ["litert"], rounds=1)


def test_startup_has_every_backend_and_the_floor(result):
    rows = {row.name: row for row in result[0].startup}
    assert next(iter(rows)) == BARE
    assert set(installed_backends()) < set(rows)
    floor = rows.pop(BARE)
    assert all(row.peak_bytes > floor.peak_bytes for row in rows.values())


def test_sizes_are_those_of_the_file(result):
    given, dense = result[0].sizes[:2]
    assert given.size_bytes == result[1].stat().st_size
    assert dense.size_bytes > given.size_bytes
    assert all(row.gzip_bytes > 0 for row in result[0].sizes)


def test_result_is_json_and_prints(result):
    restored = json.loads(json.dumps(result[0].as_dict(), allow_nan=False))
    assert restored["machine"]["cores"] >= 1
    assert restored["sparse"]["paper_flops"] < restored["dense"]["paper_flops"]
    text = text_of(print_bench, result[0])
    assert all(name in text for name in (*installed_backends(), "p99", "gzipped", "peak MB"))


def test_dense_policy_from_memory():
    found = bench(random_bundle(0, sparsity=None, hidden=8), ["reference"], rounds=1, team=3, startup_rounds=0)
    assert [(row.weights, row.agents) for row in found.latency] == [("dense", 1), ("dense", 3)]
    assert found.startup == []
    assert "test mast" in text_of(print_bench, found)


def test_a_failing_start_says_why(tmp_path):
    with pytest.raises(RuntimeFault, match=r"start-up of broken: .*no such policy file"):
        measure_startup({"floor": bare_command(), "broken": policy_command(tmp_path / "none.mast")}, 1)


def test_a_busy_machine_is_named():
    machine = describe_machine()
    assert "load average 9.0" in replace(machine, cores=2, load_average=9.0).warning
    assert not replace(machine, cores=2, load_average=0.5).warning
    assert not replace(machine, load_average=None).warning


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("blocks", [{}, {"weight_ih": 4, "weight_hh": 4}])
def test_description_against_slow_loops(shared, blocks):
    bundle = random_bundle(3, 3, 9, 5, shared=shared, hidden=10, fc1=7, sparsity=0.85, blocks=blocks)
    found = describe(bundle)
    stats = {(row.network, row.layer): row for row in found.layers}
    for i, network in enumerate(bundle.networks):
        for name, layer in network.layers().items():
            matrix = layer.dense() != 0.0
            columns = [sum(bool(matrix[o, j]) for o in range(layer.outputs)) for j in range(layer.inputs)]
            rows = [sum(bool(matrix[o, j]) for j in range(layer.inputs)) for o in range(layer.outputs)]
            row = stats[i, name]
            assert (row.nnz, row.block) == (sum(rows), blocks.get(name, 1))
            assert (row.per_input.min, row.per_input.max) == (min(columns), max(columns))
            assert (row.per_input.median, row.per_output.median) == (median(columns), median(rows))
            assert (row.unused_inputs, row.empty_outputs) == (columns.count(0), rows.count(0))
        unused = found.networks[i].unused_features
        flat = [*unused["obs"], *(9 + k for k in unused["last_action"]), *(14 + k for k in unused.get("agent_id", []))]
        assert flat == [j for j in range(network.fc1.inputs) if not network.fc1.dense()[:, j].any()]
    assert found.nnz == sum(row.nnz for row in found.layers)
    assert json.loads(json.dumps(found.as_dict()))["types"][0]["agents"] == 3
    assert "Layers, over all networks" in text_of(print_description, found)


def test_the_card_says_what_a_policy_is_whatever_its_info_holds():
    bundle = random_bundle(0, 2, obs_dim=8, n_actions=3, hidden=4)
    verified = {"steps": 200, "max_q_error": 4e-7, "max_hidden_error": 3e-7, "action_agreement": 1.0}
    info = {"env": "smax", "map": "3m", "method": "mast", "steps": 60082, "win_rate": 0.75, "verification": verified}
    named = Identity("0a" * 32, "1.4", "mast-marl 0.2.0")
    lines = text_of(print_description, describe(replace(bundle, info=info, identity=named)), 200).splitlines()
    assert lines[0] == "smax, 3m, mast, 60,082 steps, win rate 0.750"
    assert lines[1] == "2 agents; reads obs 8, last action 3; 3 actions"
    assert lines[2].startswith("verified against the trained networks over 200 steps: q within 4e-07")
    assert f"version 1.4, digest {'0a' * 32}, made by mast-marl 0.2.0" in lines
    strange = {"env": "\x1b[2J", "steps": "many", "win_rate": [1], "verification": 3}
    lines = text_of(print_description, describe(replace(bundle, info=strange))).splitlines()
    assert lines[:2] == ["[2J", "2 agents; reads obs 8, last action 3; 3 actions"]


def test_policies_show_themselves_in_a_line():
    bundle = replace(random_bundle(0, 2, obs_dim=8, n_actions=3, hidden=4, fc1=5), info={"map": "3m"})
    assert repr(bundle).startswith("<Bundle 3m: 2 of 2 agents, obs 8, actions 3, ") and len(repr(bundle)) < 120
    assert repr(bundle.networks[0]).startswith("Network(fc1=Layer(11 -> 5, ")


def test_unused_inputs_are_printed_as_ranges():
    bundle = random_bundle(0, 1, obs_dim=8, n_actions=3, hidden=4, sparsity=0.0)
    weight = bundle.networks[0].fc1.dense()
    weight[:, [0, 4, 5, 6, 9]] = 0.0
    network = replace(bundle.networks[0], fc1=Layer.from_dense(weight, weight != 0.0))
    text = text_of(print_description, describe(replace(bundle, networks=(network,))))
    assert "ally_0 reads nothing of obs 0, 4-6, last_action 1" in text


def test_tables_fit_a_terminal(result):
    texts = text_of(print_bench, result[0]), text_of(print_description, describe(load(result[1])))
    assert not any("…" in text for text in texts)
    assert all("weight_ih" in text for text in texts[1:])


def test_connections_by_unit_type():
    bundle = random_bundle(0, n_agents=3, hidden=8)
    types = ("stalker", "zealot", "zealot")
    bundle = replace(bundle, agents=tuple(replace(a, type=t) for a, t in zip(bundle.agents, types, strict=True)))
    stalker, zealot = describe(bundle).types
    a, b, c = (network.nnz for network in bundle.networks)
    assert (stalker.type, stalker.agents, stalker.nnz_mean) == ("stalker", 1, a)
    assert (zealot.nnz_mean, zealot.nnz_min, zealot.nnz_max) == ((b + c) / 2, min(b, c), max(b, c))
    assert zealot.share == pytest.approx((b + c) / (a + b + c))


@pytest.mark.parametrize("n_agents", [1, 3, MAX_NETWORKS + 3])
def test_masks_are_a_picture(tmp_path, n_agents):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "masks.png"
    masks_png(random_bundle(0, n_agents=n_agents, hidden=8), path, dpi=40)
    pixels = image.imread(path)
    assert pixels.shape[0] > 200 and pixels.shape[1] > 200
    assert np.var(pixels[..., :3]) > 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["masks.png"]


def test_a_missing_matplotlib_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeFault, match=r'pip install "mast-marl\[train\]"'):
        masks_png(random_bundle(0), tmp_path / "masks.png")
    assert list(tmp_path.iterdir()) == []
