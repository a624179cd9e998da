"""Replay: what goes in comes out, padded and flagged, in the order and shares asked for."""

from __future__ import annotations

import random
import resource
from collections import Counter, deque

import pytest
import torch

from mast_train.envs.base import EnvSpec
from mast_train.experience import storage as storage_module
from mast_train.experience.episodes import OBSERVED, EpisodeBatch
from mast_train.experience.replay import EpisodeBuffer
from mast_train.settings.config import ReplayConfig
from mast_train.settings.errors import UserError

STORED = (*OBSERVED, "actions", "reward")
SPEC = EnvSpec("test", "map", 2, 3, 4, 5, 6, ("a", "b"))


def batch(lengths, first=0, terminated=True):
    """Episodes whose every value is their number."""
    b, t = len(lengths), max(lengths)
    number = torch.arange(first, first + b, dtype=torch.float32)
    filled = torch.arange(t) < torch.tensor(lengths)[:, None]
    last = torch.arange(t) == torch.tensor(lengths)[:, None] - 1
    flag = last if terminated else torch.zeros_like(last)
    return EpisodeBatch(
        number.view(b, 1, 1, 1).expand(b, t + 1, 2, 3).clone(), number.view(b, 1, 1).expand(b, t + 1, 4).clone(),
        torch.ones(b, t + 1, 2, 5, dtype=torch.bool), torch.full((b, t, 2), 3), number.view(b, 1).expand(b, t).clone(),
        flag, last & ~flag, filled,
    )  # fmt: skip


def buffer(**settings):
    return EpisodeBuffer(
        ReplayConfig(**{"capacity": 10, "batch": 4, "recent_batch": 0, **settings}), SPEC, torch.device("cpu")
    )


def test_gather_returns_the_episodes_padded_and_flagged():
    replay = buffer()
    replay.add(batch([6, 2, 4], terminated=False))
    out = replay.gather(torch.tensor([2, 1, 0]))
    assert out.lengths.tolist() == [6, 2, 4]
    assert out.obs[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert out.truncated.sum(1).tolist() == [1, 1, 1] and not out.terminated.any()
    assert torch.equal(out.truncated, out.last)
    assert bool(out.avail_actions[1, 3:].all()) and not out.obs[1, 3:].any() and not out.reward[1, 2:].any()


def test_reused_slots_leak_nothing_of_the_longer_episode_before():
    replay = buffer(capacity=4)
    replay.add(batch([6, 6, 6, 6], first=100))
    replay.add(batch([2, 6, 2, 2], first=1))
    out = replay.gather(torch.tensor([3, 2]))
    assert out.lengths.tolist() == [2, 6]
    assert not out.obs[0, 3:].any() and not out.state[0, 3:].any() and not out.actions[0, 2:].any()


def test_fifo():
    replay = buffer(capacity=4)
    for k in range(7):
        replay.add(batch([2], first=k))
    assert replay.gather(torch.arange(4)).obs[:, 0, 0, 0].tolist() == [6.0, 5.0, 4.0, 3.0]
    assert replay.size == 4


def random_batch(lengths, generator):
    """Episodes of random values whose storage is longer than they are, as a rollout's is."""
    b, t = len(lengths), max(lengths)

    def values(steps, *shape):
        return torch.rand(b, steps + 3, *shape, generator=generator)[:, :steps]

    filled = torch.arange(t) < torch.tensor(lengths)[:, None]
    last = torch.arange(t) == torch.tensor(lengths)[:, None] - 1
    terminated = last & (torch.rand(b, 1, generator=generator) < 0.5)
    return EpisodeBatch(
        values(t + 1, 2, 3), values(t + 1, 4), values(t + 1, 2, 5) < 0.5, (9 * values(t, 2)).long(), values(t),
        terminated, last & ~terminated, filled,
    )  # fmt: skip


def episodes_of(batch):
    """One by one: each field's own steps, then the flags of the end."""
    for i, length in enumerate(batch.lengths.tolist()):
        steps = {name: getattr(batch, name)[i, : length + (name in OBSERVED)] for name in STORED}
        yield {**steps, "terminated": batch.terminated[i].any(), "truncated": batch.truncated[i].any()}


@pytest.mark.parametrize("seed", range(4))
def test_rounds_of_any_size_are_stored_as_one_by_one(seed):
    """Against a list of episodes: rounds below and beyond the capacity of 11, forgetting in between, and a resume."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    replay, kept = buffer(capacity=11, batch=2), deque(maxlen=11)
    replay.load_state_dict(replay.state_dict())
    for _ in range(40):
        count = draw.choice((1, 2, 3, 5, 8, 11, 12, 30))
        added = random_batch([draw.randint(1, 6) for _ in range(count)], generator)
        replay.add(added)
        kept.extend(episodes_of(added))
        if draw.random() < 0.3:
            forgotten = draw.randint(0, 12)
            replay.drop_oldest(forgotten)
            for _ in range(min(forgotten, max(0, len(kept) - 2))):
                kept.popleft()
        if draw.random() < 0.2:
            state, replay = replay.state_dict(), buffer(capacity=11, batch=2)
            replay.load_state_dict(state)
        assert_holds(replay, list(kept))


def assert_holds(replay, kept):
    storage = replay.storage
    state, rows = replay.state_dict(), storage.rows[storage.rows > 0]
    assert replay.size == len(kept)
    assert rows.numel() == rows.unique().numel() == storage._used - 1 - len(storage._free)
    assert not set(rows.tolist()) & set(storage._free.tolist())
    assert state["length"].tolist() == [len(episode["reward"]) for episode in kept]
    assert state["terminated"].tolist() == [bool(episode["terminated"]) for episode in kept]
    out = replay.gather(torch.arange(replay.size).flip(0))
    for name in STORED:
        assert torch.equal(state[name], torch.cat([episode[name] for episode in kept])), name
        for found, episode in zip(getattr(out, name), kept, strict=True):
            own = len(episode[name])
            assert torch.equal(found[:own], episode[name]), name
            assert bool((found[own:] == (name == "avail_actions")).all()), name
    for flag in ("terminated", "truncated"):
        last = [len(episode["reward"]) - 1 if episode[flag] else -1 for episode in kept]
        assert torch.equal(getattr(out, flag), torch.arange(out.reward.shape[1]) == torch.tensor(last)[:, None])


def test_a_batch_is_made_without_waiting_for_its_device():
    """On a device whose values cannot be had."""
    replay = EpisodeBuffer(ReplayConfig(capacity=10, batch=4, recent_batch=1), SPEC, torch.device("meta"))
    for lengths in ([6, 2, 4, 1, 3, 3, 2], [5, 5, 5, 5, 5]):
        replay.add(batch(lengths))
    out = replay.sample(torch.Generator().manual_seed(0))
    assert {value.device.type for value in vars(out).values()} == {"meta"}
    assert out.obs.shape[0] == 4 and out.rows().step_major.device.type == "meta"


def test_dual_buffer_shares():
    replay = buffer(capacity=100, batch=8, recent_batch=2, recent_capacity=5)
    replay.add(batch([2] * 60))
    generator = torch.Generator().manual_seed(0)
    recent, old = 0, 0
    for _ in range(200):
        numbers = replay.sample(generator).obs[:, 0, 0, 0]
        assert (numbers[6:] >= 55).all() and numbers[6] != numbers[7]
        assert len(set(numbers[:6].tolist())) == 6
        recent += int((numbers[:6] >= 55).sum())
        old += int((numbers[:6] < 55).sum())
    assert recent / (recent + old) == pytest.approx(5 / 60, abs=0.03)


def test_state_round_trip_continues_the_same():
    replay, copy = buffer(capacity=5), buffer(capacity=5)
    for k in range(8):
        replay.add(batch([1 + k % 6], first=k))
    copy.load_state_dict({name: tensor.clone() for name, tensor in replay.state_dict().items()})
    for target in (replay, copy):
        target.add(batch([3], first=50))
    generators = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)]
    for _ in range(5):
        a, b = replay.sample(generators[0]), copy.sample(generators[1])
        for name in vars(a):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_dropping_the_oldest_keeps_a_batch():
    replay = buffer()
    replay.add(batch([2] * 9))
    replay.drop_oldest(3)
    assert replay.size == 6 and float(replay.gather(torch.tensor([5])).obs[0, 0, 0, 0]) == 3.0
    replay.drop_oldest(100)
    assert replay.size == 4


def test_memory_follows_the_steps_that_are_kept():
    """30 episodes through a buffer of 4: never more rows than the 4 longest neighbours need, and none is lost."""
    replay = buffer(capacity=4)
    lengths = [1 + k * 5 % 6 for k in range(30)]
    for k, length in enumerate(lengths):
        replay.add(batch([length], first=k))
        held = sum(length + 1 for length in lengths[max(0, k - 3) : k + 1])
        assert replay.storage._used - 1 - len(replay.storage._free) == held
    assert replay.storage._used - 1 <= 4 * 7 and replay.storage._free.unique().numel() == replay.storage._free.numel()
    out = replay.gather(torch.arange(4))
    assert out.obs[:, 0, 0, 0].tolist() == [29.0, 28.0, 27.0, 26.0] and out.lengths.tolist() == lengths[:-5:-1]


def test_a_large_map_is_reserved_without_its_memory():
    wide = EnvSpec("smax", "25m", 25, 647, 600, 30, 101, ("marine",) * 25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    replay = EpisodeBuffer(ReplayConfig(), wide, torch.device("cpu"))
    assert replay.size == 0 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_episodes_beyond_the_machines_memory_are_refused_before_they_are_written(monkeypatch):
    replay = buffer()
    monkeypatch.setattr(storage_module, "memory", lambda *_: 40 * replay.storage.row_bytes)
    replay.add(batch([6] * 5))
    with pytest.raises(UserError, match=r"43 steps of map need .* GB"):
        replay.add(batch([6]))


def test_a_buffer_larger_than_the_machine_is_refused_with_advice():
    huge = EnvSpec("test", "wide", 30, 10_000, 10_000, 50, 1000, ("a",) * 30)
    with pytest.raises(UserError, match=r"replay\.capacity=\d+"):
        EpisodeBuffer(ReplayConfig(capacity=10**6), huge, torch.device("cpu"))


def test_bad_contents_are_refused():
    replay = buffer()
    with pytest.raises(ValueError, match="without transitions"):
        replay.add(batch([0, 2]))
    state = replay.state_dict()
    state["length"] = torch.tensor([99])
    with pytest.raises(ValueError, match="do not fit"):
        replay.load_state_dict(state)


def test_every_set_of_episodes_is_drawn_as_often():
    """4 of 6: each of the 15 sets, and no episode twice."""
    replay, generator = buffer(), torch.Generator().manual_seed(0)
    replay.add(batch([1] * 6))
    drawn = Counter(tuple(sorted(replay.draw(generator).tolist())) for _ in range(6000))
    assert len(drawn) == 15 and all(len(set(ages)) == 4 for ages in drawn)
    assert all(300 < count < 500 for count in drawn.values())


def test_fewer_recent_episodes_than_asked_for_repeat():
    replay, generator = buffer(batch=6, recent_batch=3, recent_capacity=2), torch.Generator().manual_seed(0)
    replay.add(batch([1] * 7))
    for _ in range(20):
        ages = replay.draw(generator).tolist()
        assert len(set(ages[:3])) == 3 and len(ages) == 6 and set(ages[3:]) <= {0, 1}
