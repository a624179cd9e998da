"""What a run takes over from another: last masks for fresh weights, or networks and masks; and misnamed ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from test_training import config, run
from typer.testing import CliRunner

import cli
from mast_train.runs import checkpoint
from mast_train.runs.run import Run
from mast_train.settings.config import override, parse_toml, to_toml
from mast_train.settings.errors import UserError

SHORT = {"train.total_steps": 600, "sparse.agent_sparsity": 0.8, "sparse.block.gru": 4, "sparse.update_interval": 5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    trainer = Run(config(**SHORT), folder)
    before = masks_of(trainer)
    run(trainer)
    assert any(not torch.equal(mask, before[name]) for name, mask in masks_of(trainer).items())
    return folder


def masks_of(trainer):
    state = trainer.learner.state_dict()
    return {name: tensor for name, tensor in state.items() if name.startswith("masks.")}


def winning(folder, **settings):
    return config("ticket-winning", **{"sparse.masks_from": str(folder), **settings})


def test_the_winning_ticket_wears_the_last_masks_and_keeps_them(finished):
    tensors, _ = checkpoint.read(finished / "checkpoint.safetensors")
    ticket, source = Run(winning(finished)), Run(config(**SHORT))
    assert (ticket.config.sparse.agent_sparsity, ticket.config.sparse.block.gru) == (0.8, 4)
    start = masks_of(ticket)
    assert start and all(torch.equal(mask, tensors[f"learner.{name}"]) for name, mask in start.items())
    for key, module in (("agents", ticket.learner.agents), ("mixer", ticket.learner.mixer)):
        for name, weight in module.named_parameters():
            if f"masks.{key}.{name}" in start:
                assert not weight[~start[f"masks.{key}.{name}"]].any()
    both = start["masks.agents.weight_hh"] & source.learner.masks["agents"]["weight_hh"]
    assert both.any(), "of one seed: the initial weights of the run that found the ticket"
    torch.testing.assert_close(ticket.learner.agents.weight_hh[both], source.learner.agents.weight_hh[both])
    run(ticket, until=400)
    assert all(torch.equal(mask, start[name]) for name, mask in masks_of(ticket).items())


def test_a_ticket_resumes_to_the_bit_without_the_run_it_came_from(finished, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(finished, source)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    whole, first = (Run(winning(source), tmp_path / name) for name in ("a", "b"))
    run(whole)
    run(first, until=500)
    shutil.rmtree(source)
    second = Run.resume(tmp_path / "b")
    run(second)
    expected, got = whole.learner.state_dict(), second.learner.state_dict()
    assert expected.keys() == got.keys() and all(torch.equal(tensor, got[name]) for name, tensor in expected.items())


def test_the_random_ticket_has_masts_connections_per_layer(finished):
    tensors, _ = checkpoint.read(finished / "checkpoint.safetensors")
    random = masks_of(Run(config("ticket-random", **{**SHORT, "seed": 5})))
    kept = {name: int(mask.sum()) for name, mask in random.items()}
    assert kept == {name: int(tensors[f"learner.{name}"].sum()) for name in kept}
    assert any(not torch.equal(mask, tensors[f"learner.{name}"]) for name, mask in random.items())


def test_misnamed_tickets(finished, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Run(winning(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"does not fit.*shape"):
        Run(winning(finished, **{"net.hidden": 8}))
    with pytest.raises(UserError, match=r"does not fit.*expected"):
        Run(winning(finished, algorithm="owqmix"))
    run(Run(config(**SHORT), tmp_path), until=300)
    with pytest.raises(UserError, match="not final, step"):
        Run(winning(tmp_path))
    run(Run(config("dense", **{"train.total_steps": 300}), tmp_path))
    with pytest.raises(UserError, match="no masks"):
        Run(winning(tmp_path))


def test_an_input_floor_beyond_the_budget_is_one_clear_line():
    with pytest.raises(UserError, match=r"lower sparse\.input_floor"):
        Run(config(**{"sparse.input_floor": 16.0, "sparse.agent_sparsity": 0.98}))


def test_masks_from_the_command_line(tmp_path):
    result = CliRunner().invoke(cli.app, ["train", "--masks", "nothing", "--runs", str(tmp_path)])
    assert result.exit_code == 2 and "no run there" in result.output
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "run.json").write_text("{}")
    arguments = ["train", "--method", "ticket-winning", "--masks", "found", "--runs", str(tmp_path), "--show-config"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0 and f'masks_from = "{tmp_path / "found"}"' in result.output


def test_a_warm_start_has_the_networks_and_masks_of_its_run_and_goes_on_learning(finished, tmp_path):
    tensors, _ = checkpoint.read(finished / "checkpoint.safetensors")
    settings = config(**{**SHORT, "train.weights_from": str(finished), "seed": 5})
    warm = Run(settings, tmp_path)
    start = warm.learner.state_dict()
    for name, tensor in start.items():
        if not name.startswith(("generator", "updates", "target_")):
            assert torch.equal(tensor, tensors[f"learner.{name}"]), name
        if name.startswith("target_"):
            assert torch.equal(tensor, start[name.removeprefix("target_")]), "targets begin as copies"
    assert (warm.step, warm.learner.updates, warm.replay.size) == (0, 0, 0)
    run(warm, until=500)
    assert any(not torch.equal(tensor, start[name]) for name, tensor in warm.learner.state_dict().items())
    assert Run.resume(tmp_path).step == warm.step, "resuming does not start over"


def test_a_warm_start_that_does_not_fit(finished):
    for key, value, words in (
        ("net.hidden", 8, "net.hidden = 16, not 8"),
        ("algorithm", "vdn", "algorithm = 'qmix', not 'vdn'"),
        ("sparse.agent_sparsity", 0.5, "sparse.agent_sparsity = 0.8, not 0.5"),
        ("env.map", "climbing", r"\(agents, obs, actions, state\)"),
    ):
        with pytest.raises(UserError, match=words):
            Run(config(**{**SHORT, "train.weights_from": str(finished), key: value}))


def test_from_on_the_command_line_takes_the_settings_of_its_run(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "config.toml").write_text(to_toml(config(**{**SHORT, "train.lr": 0.003, "train.epsilon_end": 0.02})))
    show = ["train", "--from", "found", "--runs", str(tmp_path), "--show-config"]

    def shown(*more):
        result = CliRunner().invoke(cli.app, [*show, *more])
        assert result.exit_code == 0, result.output
        return parse_toml(result.output)

    expected = config(**{**SHORT, "train.lr": 0.003, "train.epsilon_end": 0.02, "train.epsilon_start": 0.02})
    assert shown() == override(expected, {"train.weights_from": str(folder)})
    assert shown("--set", "train.epsilon_start=0.5", "--steps", "9e3").train.epsilon_start == 0.5
    assert shown("--steps", "9e3").train.total_steps == 9000
    for more, words in (
        (["--config", str(folder / "config.toml")], "leave out --config"),
        (["--masks", "found"], "leave one out"),
        (["--set", "sparse.masks_from=found"], "leave one out"),
    ):
        both = CliRunner().invoke(cli.app, [*show, *more])
        assert both.exit_code == 2 and words in both.output
