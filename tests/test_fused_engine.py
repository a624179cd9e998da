"""Updates whose recurrence runs in the fused kernels, here under the CPU's emulation of CUDA, against torch's."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import emulated
import pytest
import torch
from learning import update
from test_fused import SHARED
from test_graphs import Recording, joined, learners, packed, padded
from test_learner import episodes

from mast_train.engines import fused_engine
from mast_train.engines.fused import nvrtc, optimise, structure
from mast_train.engines.fused_engine import FusedEngine
from mast_train.experience.replay import share
from mast_train.learning import update as update_module
from mast_train.learning.update import Update
from mast_train.runs.events import Progress
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import override
from mast_train.settings.methods import preset


@pytest.fixture(autouse=True)
def emulation(monkeypatch):
    monkeypatch.setattr(nvrtc, "kernel", emulated.kernel)
    monkeypatch.setattr(structure, "shared_limit", lambda device: SHARED)
    monkeypatch.setattr(optimise, "runs_on", lambda device: True)
    monkeypatch.setattr(optimise, "THREADS", 8)


def fused(learners):
    first, step = learners[0], Update(learners)
    step.engine = FusedEngine(first.config, first.spec, [each.parts for each in learners])
    return step


@pytest.mark.parametrize(
    ("settings", "seeds", "packs"),
    [({}, 1, True), ({}, 2, True), ({}, 2, False), ({"net.shared": True, "target.scale": "spread"}, 2, True),
     ({"algorithm": "res", "net.shared": True}, 2, False), ({"algorithm": "owqmix"}, 2, True),
     ({"algorithm": "res", "net.shared": True}, 2, True), ({"net.last_action": False}, 1, True),
     ({"algorithm": "iql", "target.returns": "n_step"}, 2, True), ({"sparse.block.gru": 8}, 2, True),
     ({"sparse.block.gru": 5, "algorithm": "cwqmix", "target.double_q": True}, 2, True)],
)  # fmt: skip
def test_fused_updates_are_torchs(settings, seeds, packs):
    """Through topology changes and target copies; what graphs read is refreshed in place."""
    steps = {"sparse.update_interval": 3, "train.target_interval": 4, "train.lr": 2e-4, "target.start": 0.0}
    alone, beside = (learners("mast-active", {**settings, **steps}, seeds) for _ in range(2))
    together = fused(beside)
    recurrences = together.engine._recurrences.values()
    assert all(recurrence._structure is not None for recurrence in recurrences)
    for number in range(9):
        batches = [episodes(10 * number + seed) for seed in range(seeds)]
        batch = packed(batches) if packs else joined([padded(batch, 12) for batch in batches])
        log = together(batch, [0] * seeds)
        for k, (own, batch) in enumerate(zip(alone, batches, strict=True)):
            for name, value in update(own, batch, 0).items():
                torch.testing.assert_close(log[name][k], value, atol=1e-5, rtol=3e-4, msg=f"{name} {number} {k}")
    assert all(recurrence._structure is not None for recurrence in recurrences)
    for own, other in zip(alone, beside, strict=True):
        for name, value in own.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, atol=3e-4, rtol=2e-3, msg=name)


def test_dense_agents_get_no_structure():
    recurrences = fused(learners("dense", {}, 1)).engine._recurrences
    assert recurrences.keys() == {"agents", "target_agents"}
    assert all(recurrence._structure is None for recurrence in recurrences.values())


@pytest.mark.parametrize("settings", [{}, {"net.shared": True}])
def test_nothing_of_a_packed_update_waits_for_the_device(settings):
    together, batch = fused(learners("mast-scaled", settings, 2)), packed([episodes(0), episodes(1, (2, 2, 4, 3))])
    together(batch, [0, 0])
    with Recording():
        together._gradients(batch)
        together._optimise()


@pytest.mark.parametrize("packs", [True, False])
def test_a_structure_that_no_longer_fits_gives_way_to_torch(monkeypatch, packs):
    """And the update is still that of torch: here neither Triton nor room for the connections is there."""
    monkeypatch.setattr(fused_engine, "triton_works", lambda: False)
    (alone,), beside = learners("mast", {}, 1), learners("mast", {}, 1)
    together = fused(beside)
    given = (lambda number: packed([episodes(number)])) if packs else episodes
    together(given(0), [0]), update(alone, episodes(0), 0)
    before, recurrence = together.engine.version, together.engine._recurrences["agents"]

    def full(self, *given, **more):
        raise structure.UserError("too many")

    monkeypatch.setattr(structure.Structure, "update", full)
    beside[0].masks["agents"]["weight_hh"].copy_(beside[0].masks["agents"]["weight_hh"])
    for number in range(1, 3):
        log, expected = together(given(number), [0]), update(alone, episodes(number), 0)
        torch.testing.assert_close(log["loss"][0], expected["loss"], atol=1e-5, rtol=3e-4)
    assert together.engine.version > before and recurrence._structure is None


def test_runs_learn_the_same_with_and_without_padding(monkeypatch):
    """Of several seeds that share a replay, in a real loop: the losses of every round."""

    def engine(config, spec, device, parts, in_torch):
        return FusedEngine(config, spec, parts), False

    monkeypatch.setattr(update_module, "make_engine", engine)
    settings = {
        "env.name": "matrix",
        "env.map": "recall",
        "env.num_envs": 4,
        "net.hidden": 16,
        "train.eval_episodes": 4,
    }
    settings |= {"replay.batch": 8, "replay.recent_batch": 2, "train.total_steps": 120, "sparse.update_interval": 5}
    config, losses = override(preset("mast"), settings | {"env.normalise": "running"}), []
    for packs in (True, False):
        monkeypatch.setattr(FusedEngine, "packs", packs)
        runs = [Run(replace(config, seed=seed)) for seed in range(2)]
        share([run.replay for run in runs])
        with closing(Loop(runs)) as loop:
            told = [event.metrics for _, event in loop.events() if isinstance(event, Progress)]
        losses.append(torch.tensor([[row.get("loss", 0.0), row["train_return"]] for row in told]))
    assert (losses[0][:, 0] > 0).sum() > 5
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-3)
