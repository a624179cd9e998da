"""Runs with continuous actions: the small game is solved, resuming is exact, runs are evaluated, drawn and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import events
from networks import random_bundle
from typer.testing import CliRunner

from cli import app
from mast_export.export import export_run
from mast_runtime import load, save
from mast_runtime.selftest.replay import replay
from mast_train.commands.evaluate import networks_policy
from mast_train.envs import make_env
from mast_train.experience.rollout import rollout
from mast_train.runs.events import Evaluation
from mast_train.runs.run import Run
from mast_train.settings.config import override
from mast_train.settings.errors import UserError
from mast_train.settings.methods import preset

SMALL = {
    "env.name": "points", "env.map": "meet", "env.num_envs": 32, "net.recurrent": False, "net.hidden": 32,
    "mixer.embed": 16, "mixer.hypernet_hidden": 32, "train.epsilon_steps": 3000, "train.epsilon_end": 0.0,
    "train.target_interval": 20, "sparse.update_interval": 25, "target.start": 0.0, "train.eval_interval": 10**9,
    "comix.candidates": 24, "comix.iterations": 2, "comix.elites": 4, "train.save_minutes": 1e6,
    "train.lr_end_factor": 1.0,
}  # fmt: skip


def config(algorithm, method, **settings):
    return override(preset(method), {**SMALL, "algorithm": algorithm, **settings})


@pytest.mark.parametrize(("method", "rate"), [("dense", 2e-3), ("mast-active", 5e-3)])
@pytest.mark.parametrize("algorithm", ["facmac", "comix"])
def test_the_small_game_is_solved(algorithm, method, rate, one_thread):
    """The best return is -0.9 on average, an untrained team's below -9; dense and at 95 %, in 768 updates."""
    width = 64 if method == "mast-active" else 32
    settings = config(algorithm, method, **{"train.lr": rate, "train.total_steps": 6144, "net.hidden": width})
    first, last = (e.return_mean for e in events(Run(settings)) if isinstance(e, Evaluation))
    assert first < -7.0 and last > -3.5


@pytest.mark.parametrize(("method", "rate"), [("dense", 2e-3), ("mast-active", 5e-3)])
def test_actors_that_choose_find_the_best_joint_choice(method, rate, one_thread):
    game = {"env.name": "matrix", "env.map": "coordination", "train.total_steps": 500, "train.epsilon_steps": 2000}
    *_, last = (
        e for e in events(Run(config("facmac", method, **game, **{"train.lr": rate}))) if isinstance(e, Evaluation)
    )
    assert last.return_mean == 9.0


def run(trainer, until=None):
    told = []
    for event in events(trainer):
        told.append(event)
        if until is not None and trainer.step >= until:
            trainer.stop_requested = True
    return [event for event in told if isinstance(event, Evaluation)]


@pytest.mark.parametrize(
    ("algorithm", "method", "settings"),
    [
        ("facmac", "mast-active", {"net.recurrent": True}),
        ("facmac", "rlx2", {"replay.segment": 3, "replay.burn_in": 2, "train.target_rate": 0.1}),
        ("comix", "mast", {"train.overlap": True}),
        ("facmac", "mast", {"env.name": "matrix", "env.map": "two_step"}),
    ],
)
def test_resume_is_exact_to_the_bit(tmp_path, algorithm, method, settings):
    short = {"env.num_envs": 8, "train.total_steps": 512, "train.eval_interval": 128, "train.eval_episodes": 8}
    short |= {"replay.batch": 8, "replay.recent_batch": 2, "net.hidden": 16, "sparse.update_interval": 5}
    wanted = config(algorithm, method, **short, **{"replay.dynamic_interval": 7}, **settings)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    whole, first = Run(wanted, tmp_path / "a"), Run(wanted, tmp_path / "b")
    straight = run(whole)
    part = run(first, until=200)
    second = Run.resume(tmp_path / "b")
    part += run(second)
    assert part == straight and len(straight) > 2
    for name, tensor in whole.learner.state_dict().items():
        assert torch.equal(tensor, second.learner.state_dict()[name]), name
    assert torch.equal(whole.exploration.get_state(), second.exploration.get_state())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of one short run."""
    runs = tmp_path_factory.mktemp("runs")
    settings = {**SMALL, "train.total_steps": 512, "net.recurrent": True, "train.eval_episodes": 8}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    answer = CliRunner().invoke(app, ["train", "--algorithm", "facmac", "--runs", str(runs), "--name", "r", *flags])
    assert answer.exit_code == 0, answer.output
    assert "continuous actions 2" in answer.output
    return runs


def call(runs, *words):
    return CliRunner().invoke(app, [*words, "--runs", str(runs)])


def test_a_run_is_evaluated_drawn_and_listed_by_its_return(trained, tmp_path):
    answer = call(trained, "eval", "r", "--episodes", "16", "--json")
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert result["episodes"] == 16 and result["length_mean"] == 8.0 and -30 < result["return_mean"] < 0
    again = json.loads(call(trained, "eval", "r", "--episodes", "16", "--json").stdout)
    assert again == result
    picture = tmp_path / "meet.gif"
    assert call(trained, "play", "r", "-o", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"GIF89a")


def test_an_export_plays_as_its_run_does_and_is_drawn(trained, tmp_path):
    policy, limited, picture = (str(tmp_path / name) for name in ("p.mast", "limited.mast", "meet.gif"))
    answer = call(trained, "export", "r", "-o", policy)
    assert answer.exit_code == 0 and re.search(r"each within (0\.0e\+00|\d\.\de-0[6-9]) of its range", answer.output)
    expected = json.loads(call(trained, "eval", "r", "--episodes", "16", "--json").stdout)
    for backend in ("native", "reference", "onnx"):
        words = ["eval", policy, "--episodes", "16", "--backend", backend, "--json"]
        result = json.loads(CliRunner().invoke(app, words).stdout)
        assert result["return_mean"] == pytest.approx(expected["return_mean"], abs=1e-4)
    assert CliRunner().invoke(app, ["play", policy, "-o", picture]).exit_code == 0
    assert Path(picture).read_bytes().startswith(b"GIF89a")
    assert CliRunner().invoke(app, ["selftest", policy]).exit_code == 0
    shown = " ".join(CliRunner().invoke(app, ["inspect", policy]).output.split())
    assert "reads obs 4, last action 2; 2 continuous actions within [-0.25, 0.25] [-0.1, 0.3]" in shown
    assert call(trained, "export", "r", "-o", limited, "--rate-limit", "0.1").exit_code == 0
    assert "at most 0.1 of the range a decision" in " ".join(
        CliRunner().invoke(app, ["inspect", limited]).output.split()
    )
    slower = json.loads(CliRunner().invoke(app, ["eval", limited, "--episodes", "16", "--json"]).stdout)
    assert slower["return_mean"] != pytest.approx(expected["return_mean"], abs=1e-4)


@pytest.mark.parametrize("format_", ["onnx", "onnx-sparse", "c"])
def test_other_formats_are_verified_with_a_limit_too(trained, tmp_path, format_):
    for more in ([], ["--rate-limit", "0.02"], *([["--dtype", "i8"]] if format_ == "c" else [])):
        answer = call(trained, "export", "r", "--format", format_, "-o", str(tmp_path / "models"), *more)
        assert answer.exit_code == 0 and answer.output.count("of its range") == 2, answer.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rate-limit", "0"], "--rate-limit 0: expected a share of the range, above 0 and at most 1"),
        (["--rate-limit", "nan"], "--rate-limit nan: expected a share of the range"),
    ],
)
def test_what_an_export_cannot_do_is_one_line(trained, words, expected):
    answer = call(trained, "export", "r", *words)
    assert answer.exit_code == 2 and expected in " ".join(answer.output.split())
    assert "Traceback" not in answer.output


def short_run(folder, algorithm):
    """The snapshot of a short run of agents without a memory."""
    folder.mkdir()
    run(Run(config(algorithm, "mast", **{"train.total_steps": 256, "net.hidden": 8, "train.eval_episodes": 8}), folder))
    return next((folder / "snapshots").iterdir())


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_agents_without_a_memory_are_exported_and_verified(tmp_path, dtype):
    snapshot = short_run(tmp_path / "r", "facmac")
    (file,) = export_run(tmp_path / "r", snapshot, dtype=dtype)
    assert file.report is not None and file.report.passed
    bundle = load(file.path)
    assert {network.architecture for network in bundle.networks} == {"mlp"} and replay(bundle).passed
    if dtype == "f32":
        models = export_run(tmp_path / "r", snapshot, "onnx")
        models += export_run(tmp_path / "r", snapshot, "c") + export_run(tmp_path / "r", snapshot, "c", dtype="i8")
        assert all(model.report is not None and model.report.passed for model in models)


def test_a_policy_of_another_kind_or_other_bounds_is_refused_in_one_line(trained):
    answer = call(trained, "eval", "r", "--env", "matrix:two_step")
    assert answer.exit_code == 2 and "actions are within [-0.25, 0.25]" in " ".join(answer.output.split())
    assert "those of matrix two_step discrete" in " ".join(answer.output.split())
    refused = CliRunner().invoke(app, ["train", "--env", "points", "--runs", str(trained), "--name", "q"])
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2 and "algorithm 'qmix' is for discrete actions" in said
    assert "use --algorithm facmac or comix" in said and not (trained / "q").exists()
    policy = str(trained / "r" / "policy.mast")
    assert call(trained, "export", "r").exit_code == 0
    answer = CliRunner().invoke(app, ["eval", policy, "--env", "matrix:two_step"])
    assert answer.exit_code == 2 and "those of matrix two_step discrete" in " ".join(answer.output.split())
    save(random_bundle(n_agents=2, obs_dim=4, n_actions=2), trained / "greedy.mast")
    answer = CliRunner().invoke(app, ["eval", str(trained / "greedy.mast"), "--env", "points:meet"])
    said = " ".join(answer.output.split())
    assert answer.exit_code == 2 and "actions are discrete, those of points meet within [-0.25, 0.25]" in said
    answer = call(trained, "train", "--from", "r", "--env", "matrix:coordination", "--steps", "10")
    assert answer.exit_code == 2 and "Traceback" not in answer.output


def test_noise_is_gaussian_inside_the_bounds_and_epsilon_uniform(trained):
    from mast_train.experience.exploration import Exploration, Explorer

    avail = torch.ones(4000, 2, 2, dtype=torch.bool)
    avail[:, 1, 1] = False
    greedy = torch.full((4000, 2, 2), 0.5).masked_fill(~avail, 0.0)

    def explored(epsilon, noise, seed=0):
        explorer = Explorer([Exploration(epsilon, torch.Generator().manual_seed(seed), noise)])
        return explorer(0, avail, greedy, [True])

    near = explored(0.0, 0.1) - greedy
    assert float(near[:, 0].std()) == pytest.approx(0.1, rel=0.05) and abs(float(near[:, 0].mean())) < 0.005
    anywhere = explored(1.0, 0.1)
    assert float(anywhere[:, 0].std()) == pytest.approx(1 / np.sqrt(3), rel=0.03)
    mixed = explored(0.25, 0.01)
    assert float(((mixed - greedy)[:, 0].abs() < 0.05).all(-1).float().mean()) == pytest.approx(0.75, abs=0.03)
    for actions in (explored(0.0, 2.0), anywhere, mixed):
        assert actions.abs().max() <= 1.0 and (actions[:, 1, 1] == 0.0).all()
    assert torch.equal(explored(0.0, 0.0), greedy)


def test_a_snapshot_plays_what_its_networks_decide(trained):
    (snapshot, *_) = sorted((trained / "r" / "snapshots").iterdir())[-1:]
    env = make_env("points", "meet", 4, 1, torch.device("cpu"), {})
    played = rollout(env, networks_policy(snapshot, env))
    assert played.episodes.actions.abs().max() <= 1.0 and played.episodes.actions.dtype == torch.float32
    other = make_env("matrix", "two_step", 4, 1, torch.device("cpu"), {})
    with pytest.raises(UserError, match="evaluate it on the map it was trained on"):
        networks_policy(snapshot, other)
