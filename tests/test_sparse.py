"""Allocation, topology evolution and masks: invariants as properties, numbers from slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import change

from mast_train.engines import native
from mast_train.engines.native import SparseSequence
from mast_train.networks.agents import AgentNets
from mast_train.sparse import evolution
from mast_train.sparse.allocation import erdos_renyi, uniform, with_floors
from mast_train.sparse.evolution import dense_gradients
from mast_train.sparse.masks import MaskedLayer, Masks
from mast_train.sparse.schedule import drop_fraction, evolves_at
from mast_train.sparse.topology import evolve, from_blocks, random_mask, spread_mask, to_blocks

SHAPES = [(3, 64, 84), (3, 192, 64), (3, 192, 64), (3, 9, 64)]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95, 0.99])
def test_erdos_renyi_meets_the_budget_and_its_ratio(sparsity):
    density = erdos_renyi(SHAPES, sparsity)
    sizes = [g * o * i for g, o, i in SHAPES]
    assert sum(d * n for d, n in zip(density, sizes, strict=True)) == pytest.approx((1 - sparsity) * sum(sizes))
    assert all(0.0 < d <= 1.0 for d in density)
    free = [(d, (o + i) / (o * i)) for d, (_, o, i) in zip(density, SHAPES, strict=True) if d < 1.0]
    for d, raw in free[1:]:
        assert d / free[0][0] == pytest.approx(raw / free[0][1])


def test_erdos_renyi_by_hand():
    """Two layers 4x4 and 2x2 (raw 1/2 and 1), budget 10 of 20: the second would be 10/12 dense, the first 5/12."""
    assert erdos_renyi([(1, 4, 4), (1, 2, 2)], 0.5) == pytest.approx([5 / 12, 10 / 12])
    assert uniform([(1, 4, 4), (1, 2, 2)], 0.75) == [0.25, 0.25]


def test_a_floor_by_hand():
    """Three layers of 16 weights at 75 %: 4 each. A floor of 1/2 takes 8 of the 12; the others share 4."""
    shapes = [(1, 4, 4)] * 3
    assert with_floors(uniform, shapes, 0.75, [0.5, 0.0, 0.0]) == pytest.approx([0.5, 0.125, 0.125])
    assert with_floors(uniform, shapes, 0.75, [0.2, 0.0, 0.0]) == [0.25, 0.25, 0.25]
    with pytest.raises(ValueError, match="leaves nothing of the 12"):
        with_floors(uniform, shapes, 0.75, [0.75, 0.0, 0.0])


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("blocks", [0.0, 1.0, 1.5])
def test_a_floor_keeps_the_budget_and_the_ratio_of_the_others(sparsity, blocks):
    floor = MaskedLayer("fc1_weight", 8, input_floor=blocks).floor(64)
    assert floor == blocks / 8
    density = with_floors(erdos_renyi, SHAPES, sparsity, [floor, 0.0, 0.0, 0.0])
    free = erdos_renyi(SHAPES, sparsity)
    sizes = [g * o * i for g, o, i in SHAPES]
    assert sum(d * n for d, n in zip(density, sizes, strict=True)) == pytest.approx((1 - sparsity) * sum(sizes))
    assert density[0] == max(floor, free[0]) and density[1] == density[2]
    if density[3] < 1.0:
        assert density[3] / density[1] == pytest.approx(free[3] / free[1])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 4, 8]), st.integers(1, 3), st.integers(1, 20), st.integers(1, 12),
    st.floats(0.0, 1.0),
)  # fmt: skip
def test_a_spread_mask_treats_inputs_alike(seed, rows, groups, outputs, inputs, density):
    generator, shape = torch.Generator().manual_seed(seed), (groups, outputs, inputs)
    mask = spread_mask(shape, density, rows, 1, generator)
    blocks = to_blocks(mask.float(), rows, 1) > 0
    assert torch.equal(from_blocks(blocks, rows, 1, outputs), mask)
    assert int(blocks.sum()) == max(1, round(density * blocks.numel()))
    per_input = blocks.sum(1)
    assert int(per_input.max() - per_input.min()) <= 1


def test_the_floor_connects_every_input_under_the_same_budget():
    """8x1 blocks everywhere at 95 %: without a floor most inputs are cut off, with a floor of one block none is."""
    torch.manual_seed(0)
    reach, kept = [], []
    for floor in (0.0, 1.0):
        nets = AgentNets(3, 83, 64, 8)
        wanted = [
            MaskedLayer("fc1_weight", 8, input_floor=floor), MaskedLayer("weight_ih", 8, 3),
            MaskedLayer("weight_hh", 8, 3), MaskedLayer("fc2_weight", 8),
        ]  # fmt: skip
        masks = Masks(nets, wanted, 0.95, "erdos_renyi", True, torch.Generator().manual_seed(0))
        reach.append(float(masks["fc1_weight"].any(1).float().mean()))
        kept.append(masks.nnz)
    assert reach[0] < 0.6 and reach[1] == 1.0
    assert abs(kept[0] - kept[1]) <= 8 * 4


def test_schedule():
    assert drop_fraction(0.0, 0.3, 0.75) == pytest.approx(0.3)
    assert drop_fraction(0.375, 0.3, 0.75) == pytest.approx(0.15)
    assert drop_fraction(0.25, 0.4, 0.5) == pytest.approx(0.2 * (1 + math.cos(math.pi / 2)))
    assert drop_fraction(0.75, 0.3, 0.75) == 0.0
    assert [u for u in range(1, 10) if evolves_at(u, 3, 0.0, 0.5)] == [3, 6, 9]
    assert not evolves_at(3, 3, 0.5, 0.5)


@pytest.mark.parametrize(("outputs", "rows", "segments"), [(12, 4, 1), (10, 4, 1), (30, 8, 3), (9, 16, 1), (6, 1, 3)])
def test_blocks_sum_and_spread(outputs, rows, segments):
    values = torch.rand(2, outputs, 5)
    blocks = to_blocks(values, rows, segments)
    size = outputs // segments
    slow = []
    for s in range(segments):
        for first in range(0, size, rows):
            slow.append(values[:, s * size + first : s * size + min(first + rows, size)].sum(1))
    torch.testing.assert_close(blocks, torch.stack(slow, 1))
    spread = from_blocks(blocks > 1.5, rows, segments, outputs)
    assert spread.shape == values.shape
    for o in range(outputs):
        row = (o // size) * math.ceil(size / rows) + (o % size) // rows
        assert torch.equal(spread[:, o], blocks[:, row] > 1.5)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 10_000), st.sampled_from([1, 4, 8, 16]), st.sampled_from([1, 3]), st.integers(1, 3),
    st.integers(1, 20), st.integers(1, 12), st.floats(0.05, 0.9), st.floats(0.0, 1.0),
)  # fmt: skip
def test_evolution_keeps_blocks_whole_and_their_number_constant(
    seed, rows, segments, groups, size, inputs, density, fraction
):
    generator = torch.Generator().manual_seed(seed)
    shape = (groups, segments * size, inputs)
    mask = random_mask(shape, density, rows, segments, generator)
    new = evolve(
        mask, torch.rand(shape, generator=generator), torch.rand(shape, generator=generator), fraction, rows, segments
    )

    def blocks(m):
        return to_blocks(m.float(), rows, segments) > 0

    assert torch.equal(from_blocks(blocks(new), rows, segments, shape[1]), new)
    assert blocks(new).sum() == blocks(mask).sum()
    if size % rows == 0:
        assert new.sum() == mask.sum()


def test_evolution_drops_the_smallest_and_grows_the_largest():
    mask = torch.tensor([[[1, 1, 1, 0, 0, 0]]], dtype=torch.bool)
    weight = torch.tensor([[[5.0, 0.1, 3.0, 0.0, 0.0, 0.0]]])
    gradient = torch.tensor([[[9.0, 99.0, 9.0, 1.0, 3.0, 2.0]]])
    new = evolve(mask, weight, gradient, 0.34)
    assert new.tolist() == [[[True, False, True, False, True, False]]]


def test_of_equal_scores_the_first_are_dropped_and_grown():
    mask = torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]]], dtype=torch.bool)
    weight = torch.tensor([[[2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]])
    gradient = torch.tensor([[[9.0, 9.0, 9.0, 9.0, 0.0, 1.0, 1.0, 1.0]]])
    assert evolve(mask, weight, gradient, 0.5).int().tolist() == [[[1, 0, 0, 1, 0, 1, 1, 0]]]
    assert evolve(mask, weight, 0 * gradient, 0.5).int().tolist() == [[[1, 0, 0, 1, 1, 1, 0, 0]]]


def test_groups_compete_for_one_budget():
    mask = torch.zeros(2, 1, 4, dtype=torch.bool)
    mask[:, :, :2] = True
    weight, gradient = torch.tensor([[[1.0, 1.0, 0, 0]], [[0.1, 0.1, 0, 0]]]), torch.zeros(2, 1, 4)
    gradient[0, 0, 2:] = 5.0
    new = evolve(mask, weight, gradient, 0.5)
    assert new[0].sum() == 4 and new[1].sum() == 0


def layers(rows=1):
    return [
        MaskedLayer("fc1_weight"),
        MaskedLayer("weight_ih", rows, 3),
        MaskedLayer("weight_hh", rows, 3),
        MaskedLayer("fc2_weight", actions=True),
    ]


def make_masks(nets, rows=1, sparsity=0.9, rescale=True):
    return Masks(nets, layers(rows), sparsity, "erdos_renyi", rescale, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rows", [1, 8, 16])
@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_masks_through_training_steps(rows, grow):
    torch.manual_seed(0)
    nets = AgentNets(2, 10, 20, 5)
    masks = make_masks(nets, rows)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    per_layer = {
        layer.name: int(to_blocks(masks[layer.name].float(), layer.rows, layer.segments).gt(0).sum())
        for layer in layers(rows)
    }
    for step in range(20):
        optimizer.zero_grad()
        nets(torch.randn(4, 3, 2, 10))[0].square().mean().backward()
        dense = dense_gradients([masks])
        masks.apply_to_gradients()
        optimizer.step()
        before = {layer.name: masks[layer.name].clone() for layer in layers()}
        if step % 5 == 4:
            change("magnitude", grow, dense, masks, generator, optimizer)
        for layer in layers(rows):
            weight, mask = dict(nets.named_parameters())[layer.name], masks[layer.name]
            assert not weight[~mask].any()
            assert int(to_blocks(mask.float(), layer.rows, layer.segments).gt(0).sum()) == per_layer[layer.name]
            changed = mask ^ before[layer.name]
            for moment in ("exp_avg", "exp_avg_sq"):
                assert not optimizer.state[weight][moment][changed].any()
                assert not optimizer.state[weight][moment][~mask].any()
            if step % 5 == 4:
                assert changed.any() or layer.rows > 1
                assert not weight[mask & ~before[layer.name]].any()


@pytest.mark.parametrize("kernel", ["torch", "native"])
@pytest.mark.parametrize("drop", ["idle", "magnitude"])
def test_idle_connections_are_dropped_before_small_ones(kernel, drop):
    """Inputs that are always 0 and a unit that is never active: however large their weights, none stays."""
    if kernel == "native" and not native.available():
        pytest.skip(native.status())
    torch.manual_seed(0)
    nets = AgentNets(2, 10, 20, 5)
    masks = make_masks(nets, sparsity=0.7)
    with torch.no_grad():
        nets.fc1_bias[1, 4] = -100.0
        nets.fc1_weight[:, :, 3:5] *= 50.0
        nets.fc1_weight[1, 4] *= 50.0
        nets.weight_ih[1, :, 4] *= 50.0
    optimizer, generator = torch.optim.Adam(nets.parameters(), lr=1e-9), torch.Generator().manual_seed(1)
    before = masks.nnz
    for _ in range(6):
        x = torch.randn(6, 8, 2, 10)
        x[..., 3:5] = 0.0
        optimizer.zero_grad()
        sequence = SparseSequence(nets, masks.state_dict()) if kernel == "native" else nets
        (sequence.forward(x, dense_gradients=True) if kernel == "native" else nets(x)[0]).square().mean().backward()
        dense = dense_gradients([masks])
        masks.apply_to_gradients()
        optimizer.step()
        change(drop, "gradient", dense, masks, generator, optimizer)
    fc1, ih = masks["fc1_weight"], masks["weight_ih"]
    idle = int(fc1[:, :, 3:5].sum() + fc1[1, 4].sum() + ih[1, :, 4].sum())
    assert masks.nnz == before and (idle == 0) == (drop == "idle"), idle


def test_an_action_that_nobody_took_is_not_idle():
    torch.manual_seed(0)
    nets = AgentNets(2, 10, 20, 5)
    masks = make_masks(nets, sparsity=0.7)
    with torch.no_grad():
        nets.fc2_weight[:, 2] *= 50.0
    optimizer, kept = torch.optim.Adam(nets.parameters(), lr=1e-9), masks["fc2_weight"][:, 2].clone()
    nets(torch.randn(6, 8, 2, 10))[0][..., [0, 1, 3, 4]].square().mean().backward()
    dense = dense_gradients([masks])
    dense_fc2 = dense["fc2_weight"][0]
    assert kept.any() and not dense_fc2[:, 2].any()
    idle = sum(int((dense[name][0][masks[name]] == 0).sum()) for name in ("fc1_weight", "weight_ih", "weight_hh"))
    judged = sum(int(masks[name].sum()) for name in ("fc1_weight", "weight_ih", "weight_hh"))
    assert evolution.idle([masks], dense).tolist() == [[idle], [judged]]
    change("idle", "gradient", dense, masks, torch.Generator(), optimizer)
    assert torch.equal(masks["fc2_weight"][:, 2] & kept, kept)


def test_gru_weights_are_masked_and_the_total_meets_the_sparsity():
    nets = AgentNets(3, 84, 64, 9)
    masks = make_masks(nets, sparsity=0.95)
    assert masks["weight_hh"].float().mean() < 0.1 and masks["weight_ih"].float().mean() < 0.1
    total = sum(getattr(nets, layer.name).numel() for layer in layers())
    assert 1 - masks.nnz / total == pytest.approx(0.95, abs=1e-3)


def test_rescaling_keeps_the_scale_of_a_layers_output():
    torch.manual_seed(0)
    dense = AgentNets(1, 400, 64, 5)
    sparse = AgentNets(1, 400, 64, 5)
    sparse.load_state_dict(dense.state_dict())
    masks = make_masks(sparse, sparsity=0.9)
    density = masks["weight_hh"].float().mean()
    kept = sparse.weight_hh[masks["weight_hh"]]
    torch.testing.assert_close(kept, dense.weight_hh[masks["weight_hh"]] / density.sqrt())


def test_dense_has_no_masks():
    nets = AgentNets(1, 4, 8, 3)
    assert make_masks(nets, sparsity=0.0).state_dict() == {}


def test_masks_of_another_shape_are_refused():
    masks = make_masks(AgentNets(1, 4, 8, 3))
    with pytest.raises(ValueError, match="shape"):
        masks.load_state_dict(make_masks(AgentNets(1, 5, 8, 3)).state_dict())


def test_short_blocks_are_judged_like_whole_ones():
    """Nine outputs in blocks of eight: under random scores the ninth keeps its share of blocks."""
    generator = torch.Generator().manual_seed(0)
    mask = random_mask((2, 9, 100), 0.3, 8, 1, generator)
    before = int(mask[:, 8].sum())
    for _ in range(40):
        mask = evolve(
            mask, torch.rand(2, 9, 100, generator=generator), torch.rand(2, 9, 100, generator=generator), 0.3, 8
        )
    assert 0.6 * before < int(mask[:, 8].sum()) < 1.5 * before
