"""Topology evolution of several seeds at once: the path that a GPU takes gives what the host's gives, to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graphs import Recording, as_recorded, joined, learners
from test_learner import episodes

from mast_train.learning import evolution as learning
from mast_train.learning.learner import sync_targets
from mast_train.sparse import evolution, topology
from mast_train.sparse.memory import beside, clear_each, copy_each, stacked
from mast_train.sparse.topology import evolve, random_mask

METHODS = [
    ("mast", {}), ("rigl", {}), ("set", {}), ("mast-scaled", {}), ("mast-active", {}), ("mast", {"net.shared": True}),
]  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 4, 8]), st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 12),
    st.integers(1, 9), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4), st.sampled_from([2, 5, 10**6]),
)  # fmt: skip
def test_by_rank_changes_what_partition_changes(seed, rows, segments, groups, size, inputs, fractions, levels):
    """Of any density in each layer; few levels of scores make many ties."""
    generator, k = torch.Generator().manual_seed(seed), len(fractions)
    shape = (groups, segments * size, inputs)
    densities = torch.rand(k, generator=generator).tolist()
    masks = torch.stack([random_mask(shape, density, rows, segments, generator) for density in densities])
    drop, grow = (torch.randint(levels, (k, *shape), generator=generator).float() / 7 for _ in range(2))
    expected = torch.stack([evolve(*layer, rows, segments) for layer in zip(masks, drop, grow, fractions, strict=True)])
    fractions = torch.tensor(fractions, dtype=torch.float64)
    for way in (topology._evolve_by_rank, topology.evolve_all):
        assert torch.equal(way(masks, drop, grow, fractions, rows, segments), expected)


def test_of_equal_scores_the_first_are_changed():
    mask = torch.tensor([[[[1, 1, 1, 1, 0, 0, 0, 0]]]], dtype=torch.bool)
    weight = torch.tensor([[[[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]]])
    gradient = torch.tensor([[[[9.0, 9.0, 9.0, 9.0, 0.0, 1.0, 1.0, 1.0]]]])
    half = torch.tensor([0.5], dtype=torch.float64)
    new = topology._evolve_by_rank(mask, weight, gradient, half, 1, 1)
    assert new.int().flatten().tolist() == [1, 0, 0, 1, 0, 1, 1, 0]


def trained(method, config, seeds):
    """Learners after updates of which every third evolves, seeds at different points of their runs."""
    given = {**config, "sparse.update_interval": 3, "train.target_interval": 4, "train.lr": 1e-3}
    own = learners(method, given, seeds)
    update, steps = as_recorded(own), [4000 * k for k in range(seeds)]
    batches = [joined([episodes(10 * number + seed) for seed in range(seeds)]) for number in range(7)]
    return own, [update(batch, steps) for batch in batches]


@pytest.mark.parametrize(("method", "config"), METHODS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_learners_by_rank_are_those_by_partition_to_the_bit(monkeypatch, method, config, seeds):
    expected, logs = trained(method, config, seeds)
    monkeypatch.setattr(evolution, "evolve_all", topology._evolve_by_rank)
    found, others = trained(method, config, seeds)
    assert [bool(log["changed"].all()) for log in logs] == [False, False, True] * 2 + [False]
    for own, other in zip(expected, found, strict=True):
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in own.state_dict().items())
    for log, other in zip(logs, others, strict=True):
        assert ("idle" in log) == bool(log["changed"].any()) and torch.equal(log["changed"], other["changed"])
        assert "idle" not in log or torch.equal(log["idle"], other["idle"])


@pytest.mark.parametrize(("method", "config"), METHODS)
def test_nothing_is_read_back_while_the_topology_changes(monkeypatch, method, config):
    monkeypatch.setattr(evolution, "evolve_all", topology._evolve_by_rank)
    own = learners(method, config, 3)
    update = as_recorded(own)
    update(joined([episodes(seed) for seed in range(3)]), [0] * 3)
    before = [{name: mask.clone() for name, mask in masks.state_dict().items()} for masks in own[1].masks.values()]
    update._gradients(joined([episodes(seed) for seed in range(3)]), evolving=True)
    with Recording():
        found = learning.scores(own)
        update._optimise()
        changed = learning.evolve(own, found, [0, 50_000, 100_000])
    assert changed.tolist() == sorted(changed.tolist(), reverse=True) and int(changed.min()) > 0
    after = [masks.state_dict() for masks in own[1].masks.values()]
    pairs = [(old[name], new[name]) for old, new in zip(before, after, strict=True) for name in old]
    assert sum(int((old ^ new).sum()) for old, new in pairs) == changed[1]


def test_changing_the_topology_takes_as_many_operations_for_any_number_of_seeds():
    """Where the seeds' parameters, gradients, moments and masks lie in one memory."""
    found = []
    for seeds in (2, 5):
        own = learners("mast", {}, seeds)
        update, batch = as_recorded(own), joined([episodes(seed) for seed in range(seeds)])
        update(batch, [0] * seeds)
        update._gradients(batch, evolving=True)
        with Counting() as counted, pytest.MonkeyPatch.context() as forced:
            forced.setattr(evolution, "evolve_all", topology._evolve_by_rank)
            learning.evolve(own, learning.scores(own), [0] * seeds)
        found.append(counted.operations)
    assert found[0] == found[1]


def test_target_networks_of_all_seeds_follow_in_as_many_copies_as_those_of_one():
    found = []
    for seeds in (2, 5):
        own = learners("mast", {"train.target_interval": 3, "sparse.grow": "none"}, seeds)
        update = as_recorded(own)
        for number in range(2):
            update(joined([episodes(10 * number + seed) for seed in range(seeds)]), [0] * seeds)
        watched = [learner.targets["target_agents"].get_parameter("weight_hh") for learner in own]
        versions = [parameter._version for parameter in watched]
        with Counting() as counted:
            sync_targets(own)
        assert all(parameter._version > before for parameter, before in zip(watched, versions, strict=True))
        found.append(counted.operations)
        for learner in own:
            for target, name in zip(learner.targets.values(), learner.algorithm.copies.values(), strict=True):
                state = learner.online[name].state_dict()
                assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())
    assert found[0] == found[1]


class Counting(Recording):
    """How many operations there were, those that only look at memory in another way aside."""

    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += not func.is_view and func._schema.name not in ("aten::detach", "aten::as_strided")
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_seeds_that_are_not_due_stay_as_they_are():
    """One learner is past the end of evolution."""
    own = learners("mast", {"sparse.update_interval": 2}, 3)
    update = as_recorded(own)
    for number in range(2):
        before = [masks["weight_hh"].clone() for masks in (each.masks["agents"] for each in own)]
        log = update(joined([episodes(3 * number + seed) for seed in range(3)]), [0, 490_000, 0])
    changed = [bool((each.masks["agents"]["weight_hh"] ^ mask).any()) for each, mask in zip(own, before, strict=True)]
    assert changed == [True, False, True] and (log["changed"] > 0).tolist() == changed
    assert log["idle"].isnan().tolist() == [False, True, False]


def test_tensors_beside_each_other_are_one():
    whole = torch.arange(24.0).view(4, 2, 3)
    parts = list(whole.clone().unbind())
    seen = beside(parts)
    assert seen is not None and torch.equal(seen, whole) and seen.data_ptr() == parts[0].data_ptr()
    assert all(beside(other) is None for other in (parts[::-1], [parts[0], parts[2]], [part.T for part in parts]))
    copies = [part.clone() for part in parts]
    assert torch.equal(stacked(copies), whole)
    for tensors in (parts, copies):
        copy_each(tensors, -whole)
        clear_each(tensors, whole > 20)
        assert torch.equal(torch.stack(tensors), torch.where(whole > 20, 0.0, -whole))
