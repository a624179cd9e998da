"""Pieces of long episodes against plain slices of them, how they are drawn, and what is learnt from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from given_actions import SPEC, subject
from given_actions import episodes as some_episodes
from learning import update

from mast_train.experience.replay import EpisodeBuffer, gather
from mast_train.experience.segments import draw_pieces
from mast_train.settings.config import ReplayConfig

CPU = torch.device("cpu")
CONFIG = ReplayConfig(capacity=10, batch=6, recent_batch=2, recent_capacity=2, segment=3, burn_in=2)


def buffer(config=CONFIG):
    replay = EpisodeBuffer(config, SPEC, CPU)
    batches = [some_episodes(seed, (8, 3, 5, 1)) for seed in range(2)]
    for batch in batches:
        replay.add(batch)
    return replay, [own for batch in batches for own in batch.split(4)]


def test_pieces_are_slices_of_their_episodes_with_burn_in_before_them():
    replay, stored = buffer()
    places = [(age, start) for age in range(8) for start in range(int(stored[7 - age].lengths))]
    batch = replay.gather(torch.tensor(places))
    assert int(batch.filled.sum(1).max()) == 3 and batch.filled.shape[1] == 5
    for row, (age, start) in enumerate(places):
        episode = stored[7 - age]
        length, first = int(episode.lengths), max(0, start - 2)
        end = min(length, start + 3)
        count = end - first
        for name in ("obs", "state", "avail_actions"):
            assert torch.equal(getattr(batch, name)[row, : count + 1], getattr(episode, name)[0, first : end + 1])
        for name in ("actions", "reward"):
            assert torch.equal(getattr(batch, name)[row, :count], getattr(episode, name)[0, first:end])
            assert (getattr(batch, name)[row, count:] == 0).all()
        filled = [start - first <= t < count for t in range(5)]
        assert batch.filled[row].tolist() == filled
        whole = end == length
        ended = bool(episode.terminated.any()) and whole
        for flag, expected in ((batch.terminated, ended), (batch.truncated, not ended)):
            assert flag[row].tolist() == [expected and t == count - 1 for t in range(5)]


def test_every_place_is_as_likely_and_the_newest_come_as_often_as_asked():
    lengths, generator = torch.tensor([5, 2, 3]), torch.Generator().manual_seed(0)
    drawn = Counter(map(tuple, draw_pieces(lengths, 30_000, 3, generator).tolist()))
    assert set(drawn) == {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)}
    assert all(5600 < count < 6400 for count in drawn.values())
    replay, _ = buffer()
    places = replay.draw(generator)
    assert places.shape == (6, 2) and (places[4:, 0] < 2).all()
    again = [replay.draw(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*again)


def test_a_batch_is_there_as_soon_as_there_are_as_many_steps():
    replay = EpisodeBuffer(replace(CONFIG, batch=12), SPEC, CPU)
    replay.add(some_episodes(0, (3, 2, 1, 1)))
    assert not replay.can_sample()
    replay.add(some_episodes(1, (3, 2, 1, 1)))
    assert replay.can_sample() and replay.gather(replay.draw(torch.Generator().manual_seed(0))).filled.any(1).all()


def test_several_buffers_give_their_pieces_in_order():
    buffers = [buffer()[0] for _ in range(2)]
    places = [own.draw(torch.Generator().manual_seed(k)) for k, own in enumerate(buffers)]
    both = gather(buffers, places)
    for k, (own, where) in enumerate(zip(buffers, places, strict=True)):
        alone = own.gather(where)
        part = both.split(2)[k]
        t = alone.filled.shape[1]
        assert torch.equal(part.filled[:, :t], alone.filled) and torch.equal(part.obs[:, : t + 1], alone.obs)


@pytest.mark.parametrize("algorithm", ["facmac", "comix"])
def test_what_is_learnt_from_a_piece_that_is_the_whole_episode_is_what_the_episode_teaches(algorithm):
    """Also what stands before the first step that is learnt from changes memory, and no loss."""
    replay, _ = buffer(replace(CONFIG, segment=8, burn_in=8))
    ages = torch.arange(8)
    whole, pieces = replay.gather(ages), replay.gather(torch.stack([ages, torch.zeros(8, dtype=torch.int64)], 1))
    settings = {"target.returns": "td_lambda", "replay.segment": 8}
    learners = [subject(algorithm, "rigl", **settings) for _ in range(3)]
    losses = [float(update(own, batch, 0)["loss"]) for own, batch in zip(learners, (whole, pieces), strict=False)]
    assert losses[0] == losses[1]
    for a, b in zip(learners[0].parameters, learners[1].parameters, strict=True):
        assert torch.equal(a, b)
    later = replay.gather(torch.tensor([[3, 4], [7, 4]]))
    assert later.filled.sum(1).tolist() == [4, 4] and not later.filled[:, :4].any()
    changed = replace(later, reward=later.reward + 100.0 * ~later.filled)
    results = [float(update(subject(algorithm, "rigl", **settings), batch, 0)["loss"]) for batch in (later, changed)]
    assert results[0] == results[1]
    other = replace(later, obs=later.obs.clone())
    other.obs[:, 0] += 1.0
    assert float(update(subject(algorithm, "rigl", **settings), other, 0)["loss"]) != results[0]
