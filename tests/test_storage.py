"""The storage that several seeds' replay buffers share, as a GPU has it: one memory that grows, one pass for all."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from test_replay import SPEC, STORED, batch, buffer, random_batch
from test_seeds import _game, assert_same_state, config, separately  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from mast_train.engines import native
from mast_train.experience import storage as storage_module
from mast_train.experience.replay import EpisodeBuffer, add, gather, share
from mast_train.experience.storage import Storage
from mast_train.learning.update import Update
from mast_train.runs import loop as loop_module
from mast_train.runs.events import Evaluation, Saved
from mast_train.runs.loop import Loop
from mast_train.runs.run import Run
from mast_train.settings.config import ReplayConfig
from mast_train.settings.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def grows(monkeypatch):
    """Memory as a GPU's, taken when it is asked for."""
    monkeypatch.setattr(storage_module, "_reserves", lambda device: False)


def assert_same_batches(one, other):
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("memory", ["grown", "reserved"])
def test_buffers_that_share_are_what_they_are_alone(monkeypatch, memory, seed):
    """Rounds below and beyond the capacity of 11, forgetting, a resume, and one that leaves early."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    alone, beside = ([buffer(capacity=11, batch=2) for _ in range(3)] for _ in range(2))
    first = random_batch([3, 1], generator)
    for buffers in (alone, beside):
        buffers[1].add(first)
    with monkeypatch.context() as forced:
        if memory == "grown":
            forced.setattr(storage_module, "_reserves", lambda device: False)
        share(beside)
        present = [0, 1, 2]
        for turn in range(30):
            each = draw.choice((1, 2, 3, 5, 11, 12))
            added = random_batch([draw.randint(1, 6) for _ in range(each * len(present))], generator)
            add([beside[k] for k in present], added)
            for k, own in zip(present, added.split(len(present)), strict=True):
                alone[k].add(own)
            k, count = draw.choice(present), draw.randint(0, 12)
            for buffers in (alone, beside):
                buffers[k].drop_oldest(count if count < 4 else 0)
            if draw.random() < 0.2:
                beside[k].load_state_dict(beside[k].state_dict())
            if turn == 20:
                present.remove(1)
                beside[1].release()
            ages = [torch.randint(alone[k].size, (4,), generator=generator) for k in present]
            assert_same_batches(gather([alone[k] for k in present], ages), gather([beside[k] for k in present], ages))
            for k in present:
                state, expected = beside[k].state_dict(), alone[k].state_dict()
                assert all(torch.equal(state[name], expected[name]) for name in (*STORED, "length", "terminated"))
            assert_nothing_lost(beside[0].storage, sum(beside[k].size for k in present))


def assert_nothing_lost(storage, episodes):
    rows = storage.rows[storage.rows > 0]
    assert rows.numel() == rows.unique().numel() == storage._used - 1 - len(storage._free)
    assert not set(rows.tolist()) & set(storage._free.tolist())
    assert storage.episodes == episodes and bool((storage.rows[:, 0] > 0).sum() == episodes)
    assert all(bool((stored[0] == (name == "avail_actions")).all()) for name, stored in storage.data.items())


def test_a_buffer_alone_keeps_its_episodes_when_its_run_leaves():
    own = buffer()
    own.add(batch([2, 3]))
    own.release()
    assert own.size == 2


def test_memory_grows_with_the_steps_that_come(grows):
    """1,000 episodes of 2 steps of at most 6: a third of the rectangle is never asked for."""
    buffers = [buffer(capacity=500) for _ in range(2)]
    share(buffers)
    storage, held = buffers[0].storage, []
    assert storage.held == 1
    for first in range(0, 600, 20):
        add(buffers, batch([2] * 40, first))
        held.append(storage.held)
        assert storage._used <= storage.held <= 1.5 * storage._used + 1
    assert held == sorted(held) and len(set(held)) <= 10
    assert storage.limit == 1 + 2 * 500 * 7 and storage.held <= 1.5 * (1 + 2 * 500 * 3 + 40 * 3)


def test_what_the_host_does_is_the_same_for_any_number_of_seeds():
    """Operations on the steps' tensors, for 2 and for 16 buffers."""

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in moved:
                calls[func] += 1
            return func(*args, **(kwargs or {}))

    aten, found = torch.ops.aten, []
    moved = {aten.index_select.default, aten.index_select.out, aten.index_copy_.default, aten.index.Tensor}
    for seeds in (2, 16):
        buffers, calls = [buffer() for _ in range(seeds)], Counter()
        share(buffers)
        with Counted():
            add(buffers, batch([2, 4, 3, 6] * seeds))
            gather(buffers, [torch.arange(4)] * seeds)
        found.append(dict(calls))
    assert found[0] == found[1]
    assert found[0][aten.index_select.out] == found[0][aten.index_copy_.default] == len(STORED)


def test_buffers_that_share_do_not_wait_for_their_device():
    """On a device whose values cannot be had."""
    settings = ReplayConfig(capacity=10, batch=4, recent_batch=1)
    buffers = [EpisodeBuffer(settings, SPEC, torch.device("meta")) for _ in range(3)]
    share(buffers)
    add(buffers, batch([6, 2, 4, 1, 3, 3]))
    out = gather(buffers, [torch.tensor([1, 0])] * 3)
    assert {value.device.type for value in vars(out).values()} == {"meta"} and out.obs.shape[:2] == (6, 7)


def test_a_capacity_that_will_not_fit_is_refused_in_the_first_round(grows, monkeypatch):
    buffers = [buffer(capacity=100, batch=4) for _ in range(4)]
    share(buffers)
    row = buffers[0].storage.row_bytes
    monkeypatch.setattr(storage_module, "memory", lambda device, own: 500 * row)
    message = (
        r"replay\.capacity = 100 of 4 seeds: 1,2\d\d steps of map need .* GB, more than the .* GB that cpu has for "
        r"them; try --set replay\.capacity=3\d$"
    )
    with pytest.raises(UserError, match=message):
        add(buffers, batch([2] * 8))
    fits = [buffer(capacity=36, batch=4) for _ in range(4)]
    share(fits)
    for _ in range(30):
        add(fits, batch([2] * 8))
    assert fits[0].size == 36 and fits[0].storage.held <= 500


def test_what_updates_take_is_planned_with_the_first_of_them(grows, monkeypatch, tmp_path):
    """A replay that fits before there are updates, and would not hours later."""
    given = config(**{"replay.capacity": 400, "train.total_steps": 4000})
    runs = [Run(replace(given, seed=seed)) for seed in range(2)]
    share([run.replay for run in runs])
    row, updates, step = runs[0].replay.storage.row_bytes, [], Update.__call__
    monkeypatch.setattr(storage_module, "memory", lambda device, own: (200 if updates else 10_000) * row)

    def taken(self, batch, env_steps):
        updates.append(env_steps)
        return step(self, batch, env_steps)

    monkeypatch.setattr(Update, "__call__", taken)
    with pytest.raises(UserError, match=r"replay\.capacity = 400 of 2 seeds: .* try --set replay\.capacity=\d+$"):
        list(Loop(runs).events())
    assert 0 < len(updates) <= given.env.num_envs


def test_what_was_taken_before_the_updates_is_not_planned_for(grows, monkeypatch):
    """As a resume takes for a while, to lay a replay out. What the updates take is."""
    given = config(**{"replay.capacity": 400, "train.total_steps": 400})
    for of_updates, fits in ((10, True), (10**12, False)):
        runs, peak, step = [Run(replace(given, seed=seed)) for seed in range(2)], [10**12], Update.__call__
        share([run.replay for run in runs])
        monkeypatch.setattr(storage_module, "memory", lambda device, own: 10**11)
        monkeypatch.setattr(storage_module, "passing", lambda device, peak=peak: peak[-1])
        monkeypatch.setattr(loop_module, "forget_peak", lambda device, peak=peak: peak.append(0))

        def taken(self, batch, env_steps, peak=peak, step=step, of_updates=of_updates):
            peak.append(max(peak[-1], of_updates))
            return step(self, batch, env_steps)

        with monkeypatch.context() as patched:
            patched.setattr(Update, "__call__", taken)
            with nullcontext() if fits else pytest.raises(UserError, match=r"replay\.capacity = 400 of 2 seeds"):
                list(Loop(runs).events())
        assert peak[-1] == of_updates


def test_a_storage_that_needs_most_of_the_memory_grows_once(grows, monkeypatch):
    """Growing holds a field twice."""
    storage = Storage(ReplayConfig(capacity=100), SPEC, CPU)
    monkeypatch.setattr(storage_module, "memory", lambda device, own: 400 * storage.row_bytes)
    storage._grow(31, 10)
    assert storage.held == 310
    storage = Storage(ReplayConfig(capacity=100), SPEC, CPU)
    monkeypatch.setattr(storage_module, "memory", lambda device, own: 4000 * storage.row_bytes)
    storage._grow(31, 10)
    assert storage.held == 31 + 15


@pytest.mark.skipif(not native.available(), reason=native.status())
def test_runs_that_share_a_replay_are_what_they_are_alone_to_the_bit(grows, monkeypatch, tmp_path):
    """Through the end of one before the others, and a resume."""
    wanted = config(**{"train.total_steps": 240, "train.eval_interval": 120})
    whole = separately(wanted)
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
    left, release = {}, EpisodeBuffer.release

    def released(own):
        left[own] = own.state_dict()
        release(own)

    monkeypatch.setattr(EpisodeBuffer, "release", released)

    def trained(runs):
        share([run.replay for run in runs])
        for run, event in Loop(runs).events():
            run.stop_requested = run.stop_requested or (stop and run.step >= 100)
            told.append((run, event))
        return runs

    stop, told = True, []
    trained([Run(replace(wanted, seed=seed), tmp_path / str(seed)) for seed in range(3)])
    assert [event.reason for _, event in told if isinstance(event, Saved)] == ["interrupted"] * 3
    stop, told = False, []
    resumed = trained([Run.resume(tmp_path / str(seed)) for seed in range(3)])
    assert len({run.learner.updates for run in resumed}) > 1
    assert len({run.replay.storage for run in resumed}) == 1 and not any(run.replay.size for run in resumed)
    for run, (alone, expected) in zip(resumed, whole, strict=True):
        later = [event for own, event in told if own is run and isinstance(event, Evaluation)]
        assert later == [event for event in expected if isinstance(event, Evaluation)][-len(later) :]
        kept = alone.replay.state_dict()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in left[run.replay].items())
        run.replay = alone.replay
        assert_same_state(alone, run)


@pytest.mark.parametrize("shared", [True, False])
def test_batches_of_one_length_lie_at_one_address_padded_as_asked(shared):
    """Over what longer and shorter batches left there, of fewer seeds too."""
    generator, memory, addresses = torch.Generator().manual_seed(0), {}, {}
    buffers = [buffer() for _ in range(3)]
    if shared:
        share(buffers)
    add(buffers, random_batch([6, 1, 2, 5, 3, 1, 4, 2, 2, 1, 1, 4], generator))
    for ages in ([0, 3], [1, 2], [3, 1], [2, 2], [0, 1]):
        for count in (3, 2):
            given = buffers[:count], [torch.tensor(ages)] * count
            plain = gather(*given)
            found = gather(*given, memory, lambda steps: -(-steps // 3) * 3)
            assert found.filled.shape[1] == -(-plain.filled.shape[1] // 3) * 3
            assert_same_batches(found, plain.padded(found.filled.shape[1]))
            at = {name: value.data_ptr() for name, value in vars(found).items()}
            assert addresses.setdefault(found.filled.shape, at) == at and len(set(at.values())) == 8
    assert {length for _, length in addresses} == {3, 6}


def test_a_batch_in_the_memory_of_another_is_not_copied():
    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten.copy_.default
            return func(*args, **(kwargs or {}))

    own, memory = buffer(), {}
    own.add(batch([6, 2, 3, 1]))
    first = gather([own], [torch.arange(4)], memory)
    with Copies():
        first.padded(6).copy_(gather([own], [torch.arange(4)], memory))
    with pytest.raises(AssertionError), Copies():
        first.copy_(gather([own], [torch.arange(4)]))
