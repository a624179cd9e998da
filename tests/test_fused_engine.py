"""Updates whose recurrence runs in the fused kernels, here under the CPU's emulation of CUDA, against torch's."""

from __future__ import annotations

import emulated
import pytest
import torch
from learning import update
from test_fused import SHARED
from test_graphs import joined, learners, padded
from test_learner import SPEC, episodes

from mast_train.engines import fused_engine
from mast_train.engines.fused import nvrtc, structure
from mast_train.engines.fused_engine import FusedEngine
from mast_train.experience.replay import EpisodeBuffer, pack
from mast_train.learning.update import Update
from mast_train.settings.config import ReplayConfig


@pytest.fixture(autouse=True)
def emulation(monkeypatch):
    monkeypatch.setattr(nvrtc, "kernel", emulated.kernel)
    monkeypatch.setattr(structure, "shared_limit", lambda device: SHARED)


def fused(learners):
    first, step = learners[0], Update(learners)
    step.engine = FusedEngine(first.config, first.spec, [each.parts for each in learners])
    return step


def packed(batches):
    """Batches of one episode count as seeds' packed episodes, shuffled."""
    buffers = [EpisodeBuffer(ReplayConfig(capacity=4, batch=4), SPEC, torch.device("cpu")) for _ in batches]
    for own, batch in zip(buffers, batches, strict=True):
        own.add(batch)
    return pack(buffers, [torch.tensor([1, 3, 0, 2])] * len(batches), {})


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("settings", "seeds"),
    [({}, 1), ({}, 2), ({"net.shared": True}, 2), ({"algorithm": "owqmix"}, 2), ({"net.last_action": False}, 1),
     ({"algorithm": "res", "net.shared": True}, 2), ({"algorithm": "iql", "target.returns": "n_step"}, 2),
     ({"sparse.block.gru": 8}, 2), ({"sparse.block.gru": 5, "algorithm": "owqmix"}, 2)],
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


def test_a_structure_that_no_longer_fits_gives_way_to_torch(monkeypatch):
    """And the update is still that of torch: here neither Triton nor room for the connections is there."""
    monkeypatch.setattr(fused_engine, "triton_works", lambda: False)
    (alone,), beside = learners("mast", {}, 1), learners("mast", {}, 1)
    together = fused(beside)
    together(episodes(), [0]), update(alone, episodes(), 0)
    before, recurrence = together.engine.version, together.engine._recurrences["agents"]

    def full(self, *given, **more):
        raise structure.UserError("too many")

    monkeypatch.setattr(structure.Structure, "update", full)
    beside[0].masks["agents"]["weight_hh"].copy_(beside[0].masks["agents"]["weight_hh"])
    for number in range(1, 3):
        log, expected = together(episodes(number), [0]), update(alone, episodes(number), 0)
        torch.testing.assert_close(log["loss"][0], expected["loss"], atol=1e-5, rtol=3e-4)
    assert together.engine.version > before and recurrence._structure is None
