"""Exploration: every seed's actions are what its own stream says, drawn a block of steps at once."""

from __future__ import annotations

import pytest
import torch

from mast_train.experience import exploration
from mast_train.experience.exploration import Exploration, Explorer

E, N, A = 3, 2, 5


def observed(seeds, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    avail = torch.rand(steps, seeds * E, N, A, generator=g) < 0.5
    avail[..., 2] = True
    return avail, torch.full((steps, seeds * E, N), 2)


def streams(seeds):
    return [torch.Generator().manual_seed(10 + k) for k in range(seeds)]


def expected(epsilon, generator, avail, block):
    """Step by step, agent by agent; avail [steps,E,N,A] of one seed that plays so long."""
    actions = []
    for t, now in enumerate(avail):
        if t % block == 0:
            numbers = torch.rand(block, E, N, 1 + A, generator=generator).tolist()
        row = numbers[t % block]
        for e in range(E):
            for n in range(N):
                first, *others = row[e][n]
                free = [a for a in range(A) if now[e, n, a]]
                actions.append(max(free, key=lambda a: others[a]) if first < epsilon else 2)
    return torch.tensor(actions).view(len(avail), E, N)


def test_each_seeds_actions_are_those_of_its_own_stream():
    """Of unlike epsilons, over episodes that end in the first block, at its end and in the third."""
    epsilons, lengths = [0.3, 1.0, 0.0, 0.7], [40, 16, 20, 5]
    avail, greedy = observed(4, 40)
    own, others = streams(4), streams(4)
    explorer = Explorer([Exploration(*pair) for pair in zip(epsilons, own, strict=True)])
    for _ in range(2):
        found = [explorer(t, avail[t], greedy[t], [t < length for length in lengths]).view(4, E, N) for t in range(40)]
        for k, (epsilon, length) in enumerate(zip(epsilons, lengths, strict=True)):
            alone = torch.full((length, E, N), 2)
            if epsilon > 0:
                alone = expected(epsilon, others[k], avail[:length, k * E : (k + 1) * E], 16)
            assert torch.equal(torch.stack(found[:length])[:, k], alone), k
            assert torch.equal(own[k].get_state(), others[k].get_state()), k
    assert all(bool(avail[t].gather(-1, found[t].view(-1, N, 1)).all()) for t in range(40))


def test_who_plays_is_asked_where_a_block_begins():
    class Asked(list):
        def __iter__(self):
            asked.append(t)
            return super().__iter__()

    asked, (avail, greedy) = [], observed(1, 40)
    explorer = Explorer([Exploration(0.5, *streams(1))])
    for t in range(40):
        explorer(t, avail[t], greedy[t], Asked([True]))
    assert asked == [0, 16, 32]


def test_without_exploration_nothing_is_drawn():
    avail, greedy = observed(2, 1)
    own = streams(2)
    before = [stream.get_state() for stream in own]
    for explorer in (Explorer([]), Explorer([Exploration(0.0, stream) for stream in own])):
        assert torch.equal(explorer(0, avail[0], greedy[0], [True, True]), greedy[0])
    assert all(torch.equal(stream.get_state(), state) for stream, state in zip(own, before, strict=True))


@pytest.mark.parametrize(("largest", "steps"), [(10**9, 16), (5 * E * N * (1 + A), 5), (1, 1)])
def test_large_maps_draw_fewer_steps_at_once(monkeypatch, largest, steps):
    monkeypatch.setattr(exploration, "LARGEST", largest)
    avail, greedy = observed(2, 20)
    own, others = streams(2), streams(2)
    explorer = Explorer([Exploration(0.5, stream) for stream in own])
    found = torch.stack([explorer(t, avail[t], greedy[t], [True, True]) for t in range(20)]).view(20, 2, E, N)
    for k in range(2):
        assert torch.equal(found[:, k], expected(0.5, others[k], avail[:, k * E : (k + 1) * E], steps))
    assert explorer._noise.numel() == 2 * steps * E * N * (1 + A)
