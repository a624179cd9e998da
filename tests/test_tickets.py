"""Tickets: the last masks of a finished run on fresh weights, random ones of that size, and every misnamed one."""

from __future__ import annotations

import shutil

import pytest
import torch
from test_training import config, run
from typer.testing import CliRunner

import cli
from mast_train import checkpoint
from mast_train.errors import UserError
from mast_train.trainer import Trainer

SHORT = {"train.total_steps": 600, "sparse.agent_sparsity": 0.8, "sparse.block.gru": 4, "sparse.update_interval": 5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    trainer = Trainer(config(**SHORT), folder)
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
    ticket, source = Trainer(winning(finished)), Trainer(config(**SHORT))
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
    whole, first = (Trainer(winning(source), tmp_path / name) for name in ("a", "b"))
    run(whole)
    run(first, until=500)
    shutil.rmtree(source)
    second = Trainer.resume(tmp_path / "b")
    run(second)
    expected, got = whole.learner.state_dict(), second.learner.state_dict()
    assert expected.keys() == got.keys() and all(torch.equal(tensor, got[name]) for name, tensor in expected.items())


def test_the_random_ticket_has_masts_connections_per_layer(finished):
    tensors, _ = checkpoint.read(finished / "checkpoint.safetensors")
    random = masks_of(Trainer(config("ticket-random", **{**SHORT, "seed": 5})))
    kept = {name: int(mask.sum()) for name, mask in random.items()}
    assert kept == {name: int(tensors[f"learner.{name}"].sum()) for name in kept}
    assert any(not torch.equal(mask, tensors[f"learner.{name}"]) for name, mask in random.items())


def test_misnamed_tickets(finished, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Trainer(winning(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"does not fit.*shape"):
        Trainer(winning(finished, **{"net.hidden": 8}))
    with pytest.raises(UserError, match=r"does not fit.*expected"):
        Trainer(winning(finished, algorithm="owqmix"))
    run(Trainer(config(**SHORT), tmp_path), until=300)
    with pytest.raises(UserError, match="not final, step"):
        Trainer(winning(tmp_path))
    run(Trainer(config("dense", **{"train.total_steps": 300}), tmp_path))
    with pytest.raises(UserError, match="no masks"):
        Trainer(winning(tmp_path))


def test_an_input_floor_beyond_the_budget_is_one_clear_line():
    with pytest.raises(UserError, match=r"lower sparse\.input_floor"):
        Trainer(config(**{"sparse.input_floor": 16.0, "sparse.agent_sparsity": 0.98}))


def test_masks_from_the_command_line(tmp_path):
    result = CliRunner().invoke(cli.app, ["train", "--masks", "nothing", "--runs", str(tmp_path)])
    assert result.exit_code == 2 and "no run there" in result.output
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "run.json").write_text("{}")
    arguments = ["train", "--method", "ticket-winning", "--masks", "found", "--runs", str(tmp_path), "--show-config"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0 and f'masks_from = "{tmp_path / "found"}"' in result.output
