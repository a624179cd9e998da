"""Updates as CUDA graphs: what is recorded computes the same as an ordinary update, and reads nothing back.

Recording itself needs a GPU; everything that it rests on is tested without one.
"""

from __future__ import annotations

import pytest
import torch
from learning import update
from test_learner import SPEC, episodes, small
from torch.utils._python_dispatch import TorchDispatchMode

from mast_train.engines.graph import Recorder, _Recorded, padded_steps
from mast_train.engines.torch_engine import TorchEngine
from mast_train.experience.episodes import EpisodeBatch
from mast_train.experience.replay import EpisodeBuffer, pack
from mast_train.learning.learner import Learner
from mast_train.learning.update import Update
from mast_train.settings.config import ReplayConfig, override
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")
KINDS = [
    ("mast", {}), ("mast-scaled", {}), ("dense", {}), ("rlx2", {}), ("mast", {"algorithm": "vdn"}),
    ("mast", {"algorithm": "owqmix"}), ("dense", {"algorithm": "cwqmix"}), ("mast", {"algorithm": "res"}),
    ("mast", {"net.shared": True}), ("mast", {"target.returns": "n_step"}), ("mast", {"algorithm": "iql"}),
    ("mast", {"train.optimizer": "rmsprop", "train.lr_end_factor": 0.1}),
]  # fmt: skip
READS_BACK = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}


class Recording(TorchDispatchMode):
    """Refuses what no graph can hold: results that the host has to wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name not in READS_BACK, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def learners(method, settings, seeds=1, device=CPU, kernel="torch"):
    configs = (override(small(method, kernel=kernel, **settings), {"seed": seed}) for seed in range(seeds))
    return [Learner(config, SPEC, device) for config in configs]


def as_recorded(learners):
    """An update as a GPU records it: all seeds at once, over padding too; here it runs eagerly."""
    update = Update(learners)
    first = learners[0]
    update.engine = TorchEngine(first.config, first.spec, [each.parts for each in learners], at_once=True)
    return update


def joined(batches):
    return EpisodeBatch(**{name: torch.cat([vars(batch)[name] for batch in batches]) for name in vars(batches[0])})


def packed(batches):
    """The same episodes, each seed's in another order, as the replay gives them without padding."""
    device = batches[0].obs.device
    buffers = [EpisodeBuffer(ReplayConfig(capacity=4, batch=4), SPEC, device) for _ in batches]
    for own, batch in zip(buffers, batches, strict=True):
        own.add(batch)
    return pack(buffers, [torch.tensor([1, 3, 0, 2])] * len(batches), {})


def padded(batch, steps):
    """With padding that nothing may read: an earlier batch's, in a buffer."""
    whole, length = batch.padded(steps), batch.filled.shape[1]
    whole.obs[:, length + 1 :] = 50.0
    whole.state[:, length + 1 :] = -50.0
    whole.reward[:, length:] = 1e3
    whole.actions[:, length:] = 2
    return whole


@pytest.mark.parametrize(("method", "settings"), KINDS)
@pytest.mark.parametrize(("seeds", "start"), [(1, 0.0), (3, 0.5)])
def test_updates_of_all_seeds_at_once_over_padding_are_those_of_each_alone(method, settings, seeds, start):
    """Through topology changes and target copies, with seeds on both sides of T_0."""
    # Adam turns the rounding of a gradient near 0 into a whole step: the smaller, the closer.
    steps = {"sparse.update_interval": 3, "train.target_interval": 4, "train.lr": 2e-4}
    settings = {**settings, **steps, "target.start": start}
    alone, beside = (learners(method, settings, seeds) for _ in range(2))
    together, steps = as_recorded(beside), [int(share * 500_000) for share in (0.4, 0.6, 0.45)][:seeds]
    for number in range(7):
        batches = [episodes(10 * number + seed) for seed in range(seeds)]
        log = together(joined([padded(batch, 12) for batch in batches]), steps)
        for k, (own, batch) in enumerate(zip(alone, batches, strict=True)):
            for name, value in update(own, batch, steps[k]).items():
                torch.testing.assert_close(log[name][k], value, atol=1e-5, rtol=2e-4, msg=f"{name} {number} {k}")
    for own, other in zip(alone, beside, strict=True):
        for name, value in own.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, atol=3e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize(("method", "settings"), KINDS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_recorded_waits_for_the_device(method, settings, seeds):
    together, batch = as_recorded(learners(method, settings, seeds)), joined([episodes().padded(16)] * seeds)
    together(batch, [0] * seeds)
    with Recording():
        together._gradients(batch)
        together._optimise()


class Counting(TorchDispatchMode):
    """How many operations there are."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("method", "settings"), KINDS)
def test_what_is_recorded_is_as_much_for_any_number_of_seeds(method, settings):
    counts = []
    for seeds in (2, 5):
        together, batch = as_recorded(learners(method, settings, seeds)), joined([episodes().padded(16)] * seeds)
        together(batch, [0] * seeds)
        with Counting() as counting:
            together._gradients(batch)
            together._optimise()
        counts.append(counting.count)
    assert counts[0] == counts[1]


def test_a_resumed_learner_goes_on_where_its_optimiser_was():
    """Moments and step counts come into the flat memory, and out of it again."""
    whole, first = learners("mast", {})[0], learners("mast", {})[0]
    together, start = as_recorded([whole]), as_recorded([first])
    for number in range(6):
        together(episodes(number), [0])
        if number < 3:
            start(episodes(number), [0])
    second = learners("mast", {})[0]
    second.load_state_dict(first.state_dict())
    later = as_recorded([second])
    for number in range(3, 6):
        later(episodes(number), [0])
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.state_dict().items())


def test_the_check_for_waiting_finds_what_waits():
    with pytest.raises(AssertionError, match="waits"), Recording():
        torch.ones(3).nonzero()
    with pytest.raises(AssertionError, match="waits"), Recording():
        float(torch.ones(()))


def test_batches_come_in_few_lengths():
    assert [padded_steps(steps, 60) for steps in (1, 16, 17, 48, 49, 60)] == [16, 16, 32, 48, 60, 60]
    assert episodes().padded(16).avail_actions[:, 9:].all() and not episodes().padded(16).filled[:, 8:].any()


def test_each_shape_of_batch_is_recorded_once(monkeypatch):
    """Padded and packed ones; and what is replayed has the new batch where the recorded one lay."""

    class Graph:
        def replay(self):
            replayed.append(self)

    def record(self, batch, gradients, steps):
        graph = Graph()
        graph.batch = batch
        return _Recorded(graph, batch, {"loss": torch.zeros(1)})

    replayed, recorder = [], Recorder.__new__(Recorder)
    vars(recorder).update(_limit=8, _recorded={}, _version=0)
    monkeypatch.setattr(Recorder, "_record", record)
    lengths = (8, 3, 5, 1), (8, 3, 5, 2), (1, 1, 2, 1), (8, 7, 8, 8)
    for number, own in enumerate(lengths):
        for batch in (episodes(number, own), packed([episodes(number, own)])):
            recorder(batch, lambda batch: {}, dict, 0)
            assert torch.equal(replayed[-1].batch.obs, batch.obs if own[0] == 8 else replayed[-1].batch.obs)
    assert list(recorder._recorded) == [(4, 8), (32, 9), (16, 9), (48, 9)]
    recorder(episodes(), lambda batch: {}, dict, 1)
    assert len(recorder._recorded) == 1


def test_a_graph_needs_a_gpu():
    with pytest.raises(UserError, match="kernel 'graph' needs a CUDA GPU"):
        Update([Learner(small(kernel="graph"), SPEC, CPU)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
@pytest.mark.parametrize("kernel", ["graph", "fused"])
@pytest.mark.parametrize(("method", "settings"), KINDS)
def test_graphs_learn_what_plain_updates_learn(method, settings, kernel):
    """Thirty updates of changing lengths, the topology and the target networks changing in between."""
    settings = {**settings, "sparse.update_interval": 8, "train.target_interval": 6, "target.start": 0.5}
    cuda, seeds = torch.device("cuda"), 2
    alone = learners(method, settings, seeds, cuda)
    beside = learners(method, settings, seeds, cuda, kernel)
    recorded = Update(beside)
    for number in range(30):
        lengths = (8, 3, 5, 1) if number % 3 else (4, 3, 2, 1)
        batches = [episodes(10 * number + seed, lengths) for seed in range(seeds)]
        for batch in batches:
            for name, value in vars(batch).items():
                setattr(batch, name, value.to(cuda))
        steps = [number * 500_000 // 30 + 4000 * seed for seed in range(seeds)]
        log = recorded(packed(batches) if recorded.packs else joined(batches), steps)
        for k, (own, batch) in enumerate(zip(alone, batches, strict=True)):
            expected = update(own, batch, steps[k])
            torch.testing.assert_close(log["loss"][k].cpu(), expected["loss"].cpu(), atol=1e-4, rtol=1e-3)
            assert log["changed"][k] == expected["changed"]
