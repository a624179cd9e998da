"""Updates as CUDA graphs: what is recorded computes the same as an ordinary update, and reads nothing back.

Recording itself needs a GPU; everything that it rests on is tested without one.
"""

from __future__ import annotations

import pytest
import torch
from test_learner import SPEC, episodes, small
from torch.utils._python_dispatch import TorchDispatchMode

from mast_train.engines.graph import padded_steps
from mast_train.learning.learner import Learner
from mast_train.learning.update import Cohort
from mast_train.settings.config import override
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")
KINDS = [
    ("mast", {}), ("mast-scaled", {}), ("dense", {}), ("rlx2", {}), ("mast", {"algorithm": "vdn"}),
    ("mast", {"algorithm": "owqmix"}), ("dense", {"algorithm": "cwqmix"}), ("mast", {"algorithm": "res"}),
    ("mast", {"net.shared": True}), ("mast", {"target.returns": "n_step"}),
]  # fmt: skip
READS_BACK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}


class Recording(TorchDispatchMode):
    """Refuses what no graph can hold: results that the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in READS_BACK, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def learner(method, settings, device=CPU):
    return Learner(small(method, kernel="torch", **settings), SPEC, device)


def padded(batch, steps):
    """With padding that nothing may read: an earlier batch's, in a buffer."""
    whole, length = batch.padded(steps), batch.filled.shape[1]
    whole.obs[:, length + 1 :] = 50.0
    whole.state[:, length + 1 :] = -50.0
    whole.reward[:, length:] = 1e3
    whole.actions[:, length:] = 2
    return whole


@pytest.mark.parametrize(("method", "settings"), KINDS)
@pytest.mark.parametrize("delayed", [False, True])
def test_padding_changes_no_update(method, settings, delayed):
    plain, recorded = learner(method, settings), learner(method, settings)
    for seed in range(3):
        batch = episodes(seed)
        expected = plain.alone._gradients(batch, batch.rows(), False, delayed)[0]
        found = recorded.alone.recordable_gradients(padded(batch, 12), delayed)[0]
        for subject, row in ((plain, expected), (recorded, found)):
            row |= subject.optimise()
            subject.advance()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    for a, b in zip(plain.parameters, recorded.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("method", "settings"), KINDS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_recorded_waits_for_the_device(method, settings, seeds):
    learners = [
        Learner(override(small(method, kernel="torch", **settings), {"seed": k}), SPEC, CPU) for k in range(seeds)
    ]
    cohort, batch = Cohort(learners) if seeds > 1 else learners[0].alone, episodes().padded(16)
    cohort.update(batch, [0] * seeds)
    with Recording():
        cohort.recordable_gradients(batch, delayed=False)
        cohort.recordable_steps()


def test_the_check_for_waiting_finds_what_waits():
    with pytest.raises(AssertionError, match="waits"), Recording():
        torch.ones(3).nonzero()
    with pytest.raises(AssertionError, match="waits"), Recording():
        float(torch.ones(()))


def test_batches_come_in_few_lengths():
    assert [padded_steps(steps, 60) for steps in (1, 16, 17, 48, 49, 60)] == [16, 16, 32, 48, 60, 60]
    assert episodes().padded(16).avail_actions[:, 9:].all() and not episodes().padded(16).filled[:, 8:].any()


def test_a_graph_needs_a_gpu():
    with pytest.raises(UserError, match="kernel 'graph' needs a CUDA GPU"):
        Learner(small(kernel="graph"), SPEC, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize(("method", "settings"), KINDS)
def test_graphs_learn_what_plain_updates_learn(method, settings):
    """Thirty updates of changing lengths, the topology and the target networks changing in between."""
    settings = {**settings, "sparse.update_interval": 10, "train.target_interval": 8, "target.start": 0.5}
    cuda = torch.device("cuda")
    plain = Learner(small(method, kernel="torch", **settings), SPEC, cuda)
    recorded = Learner(small(method, kernel="graph", **settings), SPEC, cuda)
    for update in range(30):
        lengths = (8, 3, 5, 1) if update % 3 else (4, 3, 2, 1)
        batch = episodes(update, lengths)
        for name, value in vars(batch).items():
            setattr(batch, name, value.to(cuda))
        env_steps = update * plain.config.train.total_steps // 30
        expected, found = plain.update(batch, env_steps), recorded.update(batch, env_steps)
        torch.testing.assert_close(found["loss"], expected["loss"], atol=1e-4, rtol=1e-3)
        assert found["changed"] == expected["changed"]
