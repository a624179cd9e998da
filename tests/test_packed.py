"""Batches without padding: the same episodes, their rows, and targets along them."""

from __future__ import annotations

import pytest
import torch
from test_replay import SPEC, batch, buffer, random_batch

from mast_train.experience.episodes import OBSERVED
from mast_train.experience.packed import Packed, locate, rounded
from mast_train.experience.replay import EpisodeBuffer, add, gather, pack, share
from mast_train.learning import targets
from mast_train.settings.config import ReplayConfig


def packed_and_padded(shared, seed=0, each=4):
    """The same episodes of three seeds both ways, the padded ones in the packed ones' order [K,E]."""
    generator, buffers = torch.Generator().manual_seed(seed), [buffer() for _ in range(3)]
    if shared:
        share(buffers)
    lengths = torch.randint(1, SPEC.episode_limit + 1, (30,), generator=generator).tolist()
    add(buffers, random_batch(lengths, generator))
    ages = [torch.randint(10, (each,), generator=generator) for _ in buffers]
    whole = gather(buffers, ages)
    order = [own.argsort(descending=True, stable=True) for own in whole.lengths.view(3, -1)]
    return pack(buffers, ages, {}), gather(buffers, [own[at] for own, at in zip(ages, order, strict=True)])


def where(padded, size):
    """The place of everything that is observed, one by one: [(seed, place, episode of its seed, step)]."""
    found = []
    for seed, lengths in enumerate(padded.lengths.view(3, -1).tolist()):
        steps = [(t, e) for t in range(max(lengths) + 1) for e, length in enumerate(lengths) if t <= length]
        found += [(seed, place, e, t) for place, (t, e) in enumerate(steps)]
        assert len(steps) <= size
    return found


@pytest.mark.parametrize("shared", [True, False])
def test_everything_observed_has_its_place_and_nothing_else(shared):
    packed, padded = packed_and_padded(shared)
    size, each = packed.reward.shape[1], len(padded.filled) // 3
    assert torch.equal(packed.episodes[0].flatten().long(), padded.lengths)
    assert torch.equal(packed.episodes[1].flatten().bool(), padded.terminated.any(1))
    unused = torch.ones(3, size, dtype=torch.bool)
    for seed, place, episode, step in where(padded, size):
        unused[seed, place] = False
        for name in (*OBSERVED, "actions", "reward"):
            found, row = getattr(packed, name)[seed, place], getattr(padded, name)[seed * each + episode]
            assert torch.equal(found, row[step] if step < len(row) else torch.zeros_like(found)), name
    for name in (*OBSERVED, "actions", "reward"):
        assert bool((getattr(packed, name)[unused] == (name == "avail_actions")).all()), name


@pytest.mark.parametrize("seed", range(3))
def test_rows_know_what_comes_before_and_after(seed):
    packed, padded = packed_and_padded(True, seed)
    rows, size, each = packed.rows(), packed.reward.shape[1], len(padded.filled) // 3
    places = {(s, e, t): s * size + place for s, place, e, t in where(padded, size)}
    real = dict.fromkeys(range(3 * size), False)
    for (s, e, t), place in places.items():
        real[place] = bool(t < padded.lengths[s * each + e])
        last = t == padded.lengths[s * each + e] - 1
        assert rows.after[place] == places.get((s, e, t + 1), place)
        assert rows.before[place] == places.get((s, e, t - 1), place) and rows.starts[place] == (t == 0)
        assert rows.last[place] == (last or not real[place])
        assert rows.terminated[place] == (last and bool(padded.terminated[s * each + e].any()))
    assert rows.real.tolist() == list(real.values()) and rows.sizes == [size] * 3
    others = sorted(set(range(3 * size)) - set(places.values()))
    assert rows.after[others].tolist() == others and rows.last[others].all() and not rows.terminated[others].any()
    assert torch.equal(rows.observed, padded.lengths.view(3, -1) + 1)
    assert rows.begins[:, -1].tolist() == (padded.lengths + 1).view(3, -1).sum(1).tolist()


@pytest.mark.parametrize("kind", ["one_step", "td_lambda", "monte_carlo", "n_step"])
@pytest.mark.parametrize("seed", range(3))
def test_targets_along_links_are_those_along_time(kind, seed):
    packed, padded = packed_and_padded(True, seed)
    rows, each, size = packed.rows(), len(padded.filled) // 3, packed.reward.shape[1]
    where_is = where(padded, size)
    flat, at = torch.tensor([[s * size + p, (s * each + e) * padded.filled.shape[1] + t] for s, p, e, t in where_is
                             if t < padded.lengths[s * each + e]]).unbind(1)  # fmt: skip
    padded_value, generator = torch.empty_like(padded.reward), torch.Generator().manual_seed(seed)
    value = torch.randn(3 * size, generator=generator)
    padded_value.fill_(torch.nan).view(-1)[at] = value[flat]
    padded_value.masked_fill_(~padded.filled, 1e6)
    reward, links = packed.reward.flatten(), (rows.terminated, rows.last, rows.after)
    given = padded.reward, padded_value, padded.terminated, padded.last, 0.9
    if kind == "n_step":
        expected, found = targets.n_step(*given, 3), targets.linked_n_step(reward, value, *links, 0.9, 3)
    else:
        lam = {"one_step": 0.0, "td_lambda": torch.rand(3, generator=generator), "monte_carlo": 1.0}[kind]
        own = lam.repeat_interleave(each).unsqueeze(1) if kind == "td_lambda" else lam
        expected = targets.td_lambda(*given, own)
        lam = lam.repeat_interleave(size) if kind == "td_lambda" else lam
        found = targets.linked_td_lambda(reward, value, *links, 0.9, lam, rows.steps)
    torch.testing.assert_close(found[flat], expected.flatten()[at], atol=1e-6, rtol=1e-6)
    assert found.isfinite().all()


def test_a_long_chain_is_followed_to_its_end():
    """With as few doublings as its number of steps asks for, and one less is not enough."""
    for steps in (1, 2, 3, 4, 5, 8, 9, 33):
        reward, after = torch.ones(steps), torch.arange(1, steps + 1).clamp(max=steps - 1)
        last = torch.arange(steps) == steps - 1
        found = targets.linked_td_lambda(reward, torch.zeros(steps), last, last, after, 1.0, 1.0, steps)
        assert found.tolist() == list(range(steps, 0, -1))
        if steps > 2:
            short = 1 << ((steps - 1).bit_length() - 1)
            less = targets.linked_td_lambda(reward, torch.zeros(steps), last, last, after, 1.0, 1.0, short)
            assert less[0] < steps


def test_batches_come_in_few_sizes_and_lose_an_eighth_at_most():
    assert [rounded(n, 5, 60)[0] for n in (1, 17, 130, 256, 257, 600, 1024)] == [16, 32, 144, 256, 288, 640, 1024]
    assert all(n <= rounded(n, 1, 60)[0] <= max(1.125 * n, n + 16) for n in range(1, 3000))
    assert [rounded(9, n, 101)[1] for n in (1, 16, 17, 32, 33, 65, 101)] == [17, 17, 33, 33, 65, 102, 102]
    assert len({rounded(n, 1, 60)[0] for n in range(512, 1024)}) == 9


def test_batches_lie_at_one_address_or_are_copied_to_another():
    own, memory, found = buffer(), {}, []
    own.add(batch([6, 2, 3, 1, 5, 5, 2, 4], terminated=False))
    for ages in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6]):
        found.append(pack([own], [torch.tensor(ages)], memory))
        assert found[-1].episodes[0, 0].tolist() == sorted(own._lengths(8)[ages].tolist(), reverse=True)
    tensors = [{name: x.data_ptr() for name, x in vars(each).items() if torch.is_tensor(x)} for each in found]
    assert tensors[0] == tensors[1] == tensors[2] and len(set(tensors[0].values())) == 6
    elsewhere = Packed(*(x.clone() if torch.is_tensor(x) else x for x in vars(found[1]).values()))
    again = pack([own], [torch.tensor([1, 1, 1, 1])], memory)
    elsewhere.copy_(again)
    assert elsewhere.episodes[0].tolist() == [[2, 2, 2, 2]] and elsewhere.obs.data_ptr() != again.obs.data_ptr()
    assert all(torch.equal(vars(elsewhere)[name], x) for name, x in vars(again).items() if torch.is_tensor(x))


def test_a_batch_is_packed_without_waiting_for_its_device():
    """On a device whose values cannot be had."""
    replay = EpisodeBuffer(ReplayConfig(capacity=10, batch=4, recent_batch=1), SPEC, torch.device("meta"))
    replay.add(batch([6, 2, 4, 1, 3, 3, 2]))
    packed = pack([replay], [replay.draw(torch.Generator().manual_seed(0))], {})
    assert {x.device.type for x in vars(packed).values() if torch.is_tensor(x)} == {"meta"}
    assert packed.rows().after.device.type == "meta"


def test_places_of_lengths_by_hand():
    at = locate(torch.tensor([[2, 1], [1, 1]], dtype=torch.int32), 6, 4)
    assert at.used.tolist() == [[True] * 5 + [False], [True] * 4 + [False] * 2]
    assert at.step[at.used].tolist() == [0, 0, 1, 1, 2, 0, 0, 1, 1]
    assert at.rank[at.used].tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1]
    assert at.begins.tolist() == [[0, 2, 4, 5, 5], [0, 2, 4, 4, 4]]
