"""COMIX runs as policies: the search at run time is training's, exports are verified, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_continuous_runs import config, run
from typer.testing import CliRunner

from cli import app
from mast_export.errors import ExportError
from mast_export.export import export_run
from mast_export.extract import extract, record_trace
from mast_export.verify import verify
from mast_runtime import load
from mast_runtime.head import Search
from mast_runtime.search import Searcher, Values
from mast_runtime.selftest.replay import replay
from mast_train.networks.agents import CriticNets
from mast_train.networks.heads import cross_entropy, draws
from mast_train.runs.run import Run
from mast_train.settings.of_algorithms import ComixConfig


@pytest.fixture(scope="module", params=[True, False], ids=["gru", "mlp"])
def trained(request, tmp_path_factory):
    """A run's folder."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"train.total_steps": 256, "net.hidden": 16, "train.eval_episodes": 8, "net.recurrent": request.param}
    settings |= {"sparse.block.fc2": 4, "net.shared": request.param, "sparse.agent_sparsity": 0.5}
    run(Run(config("comix", "mast", **settings), folder))
    return folder


def snapshot(folder):
    return next((folder / "snapshots").iterdir())


@pytest.mark.parametrize("groups", [1, 2])
def test_the_search_at_run_time_is_the_one_in_training(groups):
    """Of dense networks, in which no two candidates have one value: among such each takes its own."""
    torch.manual_seed(0)
    nets, settings = CriticNets(groups, 5, 16, 3, False).double(), ComixConfig(24, 4, 3)
    has, memory = torch.tensor([[True, True, True], [True, True, False]]), torch.randn(40, 2, 16).double()
    noise = draws(settings, 3, torch.device("cpu")).numpy().tobytes()
    first, own = nets.fc2_weight.detach().numpy()[..., 16:], nets.fc3_weight.detach().numpy()[:, 0]
    find = Searcher(Search(16, 24, 4, 3, noise), Values.made([*zip(first, own, strict=True)]), has.numpy())
    with torch.no_grad():
        found = cross_entropy(lambda u: nets.value(memory, u.double(), [40]), has.expand(40, -1, -1), settings)
        p = nets.from_memory(memory).numpy()
    ours = np.array([find(row) for row in p])
    assert (np.abs(ours - found.best.numpy()).max((1, 2)) < 1e-5).mean() > 0.95, "the others are nearly ties"


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_an_export_is_verified_and_plays_its_recording(trained, dtype, tmp_path):
    (file,) = export_run(trained, snapshot(trained), output=tmp_path / "p.mast", dtype=dtype)
    assert file.report is not None and file.report.passed and file.report.max_regret == 0.0
    bundle = load(tmp_path / "p.mast")
    assert bundle.networks[0].architecture.endswith("-critic") and bundle.networks[0].recording is not None
    assert replay(bundle).passed


def test_another_policy_does_not_pass_for_it(trained):
    """Of the same shapes, whose values turn the other way: the memory is right, the decisions are not."""
    bundle = extract(snapshot(trained))
    trace = record_trace(snapshot(trained), trained / "trace.safetensors")
    assert verify(bundle, trace).passed
    for network in bundle.networks:
        network.fc3.values[:] *= -1.0
    report = verify(bundle, trace)
    assert report.computes and not report.decides and report.mean_regret > 0.1


@pytest.mark.parametrize("format_", ["onnx", "onnx-sparse"])
def test_a_graph_searches_too(trained, format_, tmp_path):
    files = export_run(trained, snapshot(trained), format_, output=tmp_path / "models")
    assert [file.report is not None and file.report.passed for file in files] == [True, True]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_c_searches_too(trained, dtype, tmp_path):
    files = export_run(trained, snapshot(trained), "c", output=tmp_path / "c", dtype=dtype)
    assert len(files) == 2 and all(file.report is None or file.report.passed for file in files)


def test_integers_do_not_search_and_say_so_in_one_line(trained, tmp_path, monkeypatch):
    """Before anything is computed."""
    monkeypatch.setattr("mast_export.export.record_trace", lambda *_: pytest.fail("computed"))
    with pytest.raises(ExportError, match=r"searches for its actions, .* in float; export f32 or f16, not i8") as found:
        export_run(trained, snapshot(trained), "c", output=tmp_path / "c", dtype="i8")
    assert "\n" not in str(found.value) and not (tmp_path / "c").exists()


def test_it_is_evaluated_and_inspected_as_others_are(trained, tmp_path):
    export_run(trained, snapshot(trained), output=tmp_path / "p.mast")
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "p.mast")])
    assert shown.exit_code == 0 and "the best of 2 x 24 candidates" in " ".join(shown.output.split())
    played = CliRunner().invoke(app, ["eval", str(tmp_path / "p.mast"), "--episodes", "8"])
    assert played.exit_code == 0 and "return" in played.output
