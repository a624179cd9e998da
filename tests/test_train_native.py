"""The native training pass against torch in float64: every instruction set, odd sizes, masks, saturation, threads."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from learning import change

from mast_train.engines import native
from mast_train.engines.joint import joined, lay_out
from mast_train.engines.native import Inputs, SparseSequence, Wanted, together
from mast_train.networks.agents import WEIGHTS, AgentNets
from mast_train.sparse import evolution
from mast_train.sparse.masks import MaskedLayer, Masks
from mast_train.sparse.topology import random_mask

pytestmark = [
    pytest.mark.skipif(not native.available(), reason=native.status()),
    pytest.mark.usefixtures("one_thread"),
]
LEVELS = native.levels()


def layers(block: int = 1) -> list[MaskedLayer]:
    gru = [MaskedLayer(name, block, 3) for name in ("weight_ih", "weight_hh")]
    return [MaskedLayer("fc1_weight"), *gru, MaskedLayer("fc2_weight")]


def make(groups: int, inputs: int, hidden: int, actions: int, sparsity: float = 0.9, block: int = 1, seed: int = 0):
    """Networks and their masks; sparsity 0: none."""
    torch.manual_seed(seed)
    nets, generator = AgentNets(groups, inputs, hidden, actions), torch.Generator().manual_seed(seed)
    masks = {}
    for layer in layers(block) if sparsity else []:
        weight = getattr(nets, layer.name)
        masks[layer.name] = random_mask(tuple(weight.shape), 1 - sparsity, layer.rows, layer.segments, generator)
        with torch.no_grad():
            weight.mul_(masks[layer.name])
    return nets, masks


def gradients(nets: AgentNets, q: torch.Tensor, grad_q: torch.Tensor) -> dict[str, torch.Tensor]:
    for parameter in nets.parameters():
        parameter.grad = None
    q.backward(grad_q)
    return {name: parameter.grad.clone() for name, parameter in nets.named_parameters() if parameter.grad is not None}


def oracle(nets: AgentNets, x: torch.Tensor, grad_q: torch.Tensor):
    """q and dense gradients by torch in float64."""
    exact = copy.deepcopy(nets).double()
    q = exact(x.double())[0]
    return q.detach(), gradients(exact, q, grad_q.double())


def assert_near(actual: torch.Tensor, expected: torch.Tensor, what: object, tolerance: float = 1e-5):
    """To `tolerance` of the largest."""
    scale = expected.abs().max().clamp(min=1e-3).item()
    torch.testing.assert_close(
        actual.double(), expected, atol=tolerance * scale, rtol=0.0, msg=lambda m: f"{what}: {m}"
    )


def assert_agrees(nets, masks, x, level, tolerance=1e-5):
    """Forward with and without gradients, sparse and dense gradients."""
    grad_q = torch.randn(*x.shape[:3], nets.n_actions)
    expected_q, dense = oracle(nets, x, grad_q)
    sequence = SparseSequence(nets, masks, level)
    for dense_gradients in (False, True):
        q = sequence.forward(x, dense_gradients=dense_gradients)
        assert_near(q.detach(), expected_q, "q")
        for name, actual in gradients(nets, q, grad_q).items():
            masked = name in masks and not dense_gradients
            assert_near(actual, dense[name] * masks[name] if masked else dense[name], name, tolerance)
            assert not masked or not actual[~masks[name]].any()
    with torch.no_grad():
        assert torch.equal(sequence.forward(x), q)
        assert_near(SparseSequence(nets, None, level).forward(x), expected_q, "frozen")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("hidden", [1, 7, 9, 63, 64, 65, 129])
@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (2, 3), (40, 31), (2, 33), (1, 65)])
def test_sizes(level, hidden, steps, batch):
    nets, masks = make(2, 2 * hidden + 3, hidden, hidden % 6 + 1, 0.8)
    assert_agrees(nets, masks, torch.randn(steps, batch, 2, nets.inputs), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("sparsity", "block"), [(0.0, 1), (0.3, 1), (0.99, 1), (0.9, 8), (0.9, 16), (0.5, 3), (0.6, 4)]
)
@pytest.mark.parametrize("hidden", [21, 64])
def test_masks_and_groups(level, groups, sparsity, block, hidden):
    """hidden 21 makes ragged blocks; 0.99 makes empty rows; one shared group has several tiles of rows."""
    nets, masks = make(groups, 17, hidden, 18, sparsity, block)
    assert_agrees(nets, masks, torch.randn(18, 13, 3, 17), level)


@pytest.mark.parametrize("level", LEVELS)
def test_empty_masks_and_a_layer_left_full(level):
    nets, masks = make(3, 5, 20, 4)
    masks["weight_hh"].zero_()
    masks["fc2_weight"][1] = False
    del masks["fc1_weight"]
    with torch.no_grad():
        for name, mask in masks.items():
            getattr(nets, name).mul_(mask)
    assert_agrees(nets, masks, torch.randn(5, 4, 3, 5), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("scale", "tolerance"), [(5.0, 1e-5), (300.0, 1e-4)])
def test_saturated_gates(level, scale, tolerance):
    nets, masks = make(2, 9, 33, 5, 0.8)
    with torch.no_grad():
        for name in ("bias_ih", "bias_hh", "fc1_bias"):
            getattr(nets, name).mul_(scale)
    assert_agrees(nets, masks, scale * torch.randn(30, 4, 2, 9), level, tolerance)


def test_any_strides():
    nets, masks = make(3, 10, 16, 4)
    stored = torch.randn(6, 9, 3, 12)
    x = stored.transpose(0, 1)[..., 1:11]
    assert not x.is_contiguous()
    assert_agrees(nets, masks, x, LEVELS[0])
    assert_agrees(nets, masks, torch.randn(1, 1, 1, 10).expand(9, 6, 3, 10), LEVELS[0])
    sequence = SparseSequence(nets, masks)
    q = sequence.forward(x)
    grad_q = torch.randn(6, 9, 4, 3).permute(1, 0, 3, 2)
    expected = gradients(nets, sequence.forward(x), grad_q.contiguous())
    assert all(torch.equal(g, expected[name]) for name, g in gradients(nets, q, grad_q).items())


def padded(lengths: torch.Tensor, steps: int, agents: int = 3):
    """Observations, actions (-1: none), and the input that networks.agent_inputs makes of them with ids."""
    batch = len(lengths)
    obs, actions = torch.randn(steps, batch, agents, 6), torch.randint(-1, 4, (steps - 1, batch, agents))
    last = torch.cat([torch.full_like(actions[:1], -1), actions])
    one_hot = (last.unsqueeze(-1) == torch.arange(4)).float()
    identity = torch.eye(agents).expand(steps, batch, agents, agents)
    return obs, actions, torch.cat([obs, one_hot, identity], -1), torch.arange(steps)[:, None] < lengths


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [1, 16, 17, 32, 50])
def test_episodes_of_different_lengths_from_observations_and_actions(level, groups, batch):
    """Longest first inside, half a tile where that is enough; q and gradients as of the whole input, padding aside."""
    steps = 19
    lengths = torch.randint(1, steps + 1, (batch,), generator=torch.Generator().manual_seed(batch))
    lengths[-1] = steps
    nets, masks = make(groups, 6 + 4 + 3, 20, 4, 0.8)
    obs, actions, x, filled = padded(lengths, steps)
    grad_q = torch.randn(steps, batch, 3, 4)
    expected_q, expected = oracle(nets, x, grad_q * filled[..., None, None])
    sequence = SparseSequence(nets, masks, level)
    for _ in range(2):
        q = sequence.forward(obs, actions, lengths)
        assert_near(q.detach()[filled], expected_q[filled], "q")
        for name, actual in gradients(nets, q, grad_q).items():
            assert_near(actual, expected[name] * masks[name] if name in masks else expected[name], name)


def test_inputs_that_do_not_fit_are_refused():
    nets, masks = make(3, 6 + 4 + 3, 20, 4)
    sequence, (obs, actions, _, _) = SparseSequence(nets, masks), padded(torch.tensor([5, 4]), 5)
    with pytest.raises(ValueError, match="actions is"):
        sequence.forward(obs, actions[1:])
    with pytest.raises(ValueError, match="int64"):
        sequence.forward(obs, actions.int())
    for lengths in ([5, 6], [5, 0], [5]):
        with pytest.raises(ValueError, match="lengths is"):
            sequence.forward(obs, actions, torch.tensor(lengths))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [1, 17, 50])
def test_values_of_the_actions_taken(level, groups, batch):
    """Episode by episode, and those of all actions beside them; their gradient adds to that of q."""
    steps = 9
    lengths = torch.randint(1, steps + 1, (batch,), generator=torch.Generator().manual_seed(batch))
    nets, masks = make(groups, 6 + 4 + 3, 20, 4, 0.8)
    obs, actions, _, filled = padded(lengths, steps)
    actions = actions.clamp(min=0)
    sequence, inputs = SparseSequence(nets, masks, level), Inputs.of(obs, actions, lengths)
    q, rows = sequence.forward(inputs), [(t, b) for b in range(batch) for t in range(int(lengths[b]) - 1)]
    other = SparseSequence(make(groups, 13, 9, 4, 0.8, seed=1)[0], None, level)
    whole = other, Wanted(whole=True)
    values, *beside = together(inputs, (sequence, Wanted(now=True, after=True)), whole, whole)
    with torch.no_grad():
        assert all(torch.equal(found.q[filled], other.forward(inputs)[filled]) for found in beside)
    assert values.q is None and values.taken.tolist() == [
        [q[t, b, n, actions[t, b, n]].item() for n in range(3)] for t, b in rows
    ]
    assert values.now.tolist() == [q[t, b].tolist() for t, b in rows]
    assert values.after.tolist() == [q[t + 1, b].tolist() for t, b in rows]
    grad_q, grad_taken = torch.randn(q.shape), torch.randn(len(rows), 3)
    grad_alone = torch.zeros_like(q)
    for (t, b), row in zip(rows, grad_taken, strict=True):
        grad_alone[t, b].scatter_(1, actions[t, b].unsqueeze(1), row.unsqueeze(1))
    for q_too in (False, True):
        expected = gradients(nets, sequence.forward(inputs), grad_alone + q_too * grad_q)
        q, taken = together(inputs, (sequence, Wanted(whole=True, learning=True)))[0].differentiable()
        joint = (taken * grad_taken).sum() + ((q * grad_q)[filled].sum() if q_too else 0.0)
        for name, actual in gradients(nets, joint, torch.ones(())).items():
            torch.testing.assert_close(actual, expected[name], atol=1e-4, rtol=1e-4)


def test_gradients_add_up_and_live_in_the_same_memory():
    nets, masks = make(2, 8, 16, 4)
    sequence, x = SparseSequence(nets, masks), torch.randn(6, 5, 2, 8)
    sequence.forward(x).sum().backward()
    once, memory = nets.weight_hh.grad.clone(), nets.weight_hh.grad.data_ptr()
    sequence.forward(x).sum().backward()
    torch.testing.assert_close(nets.weight_hh.grad, 2.0 * once)
    nets.zero_grad(set_to_none=True)
    sequence.forward(x).sum().backward()
    assert torch.equal(nets.weight_hh.grad, once) and nets.weight_hh.grad.data_ptr() == memory


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [1, 3])
def test_step(level, groups):
    nets, masks = make(groups, 10, 16, 4)
    x, hidden = torch.randn(9, 12, 3, 10), nets.initial_hidden(12, 3)
    expected_q, _ = nets(x)
    sequence = SparseSequence(nets, masks, level)
    for step in range(9):
        before = hidden
        q, hidden = sequence.step(x[step], hidden)
        torch.testing.assert_close(q, expected_q[step], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(hidden, nets.step(x[step], before)[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 8])
def test_a_hundred_updates_with_topology_changes(block):
    """Adam, gradients clipped, connections dropped and grown every 20 updates: losses and masks as with torch."""
    start, _ = make(3, 11, 24, 5, 0.0)
    nets = [copy.deepcopy(start) for _ in range(2)]
    generators = [torch.Generator().manual_seed(1) for _ in nets]
    masks = [Masks(n, layers(block), 0.8, "erdos_renyi", False, g) for n, g in zip(nets, generators, strict=True)]
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-3, eps=1e-5) for n in nets]
    sequence = SparseSequence(nets[1], masks[1].state_dict())
    for update in range(1, 101):
        x, target, losses, evolving = torch.randn(12, 9, 3, 11), torch.randn(12, 9, 3, 5), [], update % 20 == 0
        for i in range(2):
            q = sequence.forward(x, dense_gradients=evolving) if i else nets[0](x)[0]
            loss = (q - target).square().mean()
            optimizers[i].zero_grad()
            loss.backward()
            dense = evolution.dense_gradients([masks[i]])
            masks[i].apply_to_gradients()
            torch.nn.utils.clip_grad_norm_(nets[i].parameters(), 0.5)
            optimizers[i].step()
            if evolving:
                assert change("magnitude", "gradient", dense, masks[i], generators[i], optimizers[i]) > 0
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1], losses[0], atol=0.0, rtol=1e-5)
        assert all(torch.equal(masks[0][name], masks[1][name]) for name in WEIGHTS)
    for name, expected in nets[0].named_parameters():
        torch.testing.assert_close(getattr(nets[1], name), expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_number_of_threads_changes_no_bit(groups):
    nets, masks = make(groups, 20, 40, 6)
    x, grad_q = torch.randn(20, 70, 3, 20), torch.randn(20, 70, 3, 6)
    results = []
    for threads in (1, 1, 2, 5):
        torch.set_num_threads(threads)
        q = SparseSequence(nets, masks).forward(x)
        results.append([q.detach(), *gradients(nets, q, grad_q).values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_two_passes_at_once_keep_apart():
    nets, masks = make(2, 8, 16, 4)
    sequence, grad_q = SparseSequence(nets, masks), torch.randn(6, 5, 2, 4)
    a, b = torch.randn(6, 5, 2, 8), torch.randn(6, 5, 2, 8)
    expected = gradients(nets, sequence.forward(a), grad_q)
    first, _ = sequence.forward(a), sequence.forward(b)
    assert all(torch.equal(g, expected[name]) for name, g in gradients(nets, first, grad_q).items())


def test_frozen_networks_follow_their_weights():
    """As a target network does: other weights, other connections."""
    target, _ = make(2, 8, 16, 4, seed=1)
    sequence, x = SparseSequence(target, None), torch.randn(6, 5, 2, 8)
    with torch.no_grad():
        sequence.forward(x)
        target.load_state_dict(make(2, 8, 16, 4, seed=2)[0].state_dict())
        torch.testing.assert_close(sequence.forward(x), target(x)[0], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="no gradients without masks"):
        sequence.forward(x)


def test_misuse_is_refused():
    nets, masks = make(2, 8, 16, 4)
    sequence = SparseSequence(nets, masks)
    with pytest.raises(ValueError, match=r"x is \[6, 5, 3, 8\]"):
        sequence.forward(torch.randn(6, 5, 3, 8))
    with pytest.raises(ValueError, match="expected"):
        sequence.forward(torch.randn(6, 5, 2, 9))
    with pytest.raises(ValueError, match="hidden is"):
        sequence.step(torch.randn(5, 2, 8), torch.zeros(2, 4, 16))
    with pytest.raises(ValueError, match="float32"):
        SparseSequence(AgentNets(2, 8, 16, 4).double(), {})
    with pytest.raises(ValueError, match="level 'mmx'"):
        SparseSequence(nets, masks, "mmx")
    q = sequence.forward(torch.randn(6, 5, 2, 8))
    q.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        q.sum().backward()
    q = sequence.forward(torch.randn(6, 5, 2, 8))
    with torch.no_grad():
        nets.weight_hh.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        q.sum().backward()


def test_without_the_extension_everything_says_so():
    """As where no C compiler was: the module cannot be imported."""
    program = """
import sys
sys.modules["mast_train.engines.native._train"] = None
from mast_train.engines import native
from mast_train.networks.agents import AgentNets
assert not native.available() and native.levels() == () and "not built" in native.status()
try:
    native.SparseSequence(AgentNets(2, 8, 16, 4), {})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "native training: not built" in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("groups", "agents"), [(3, 3), (1, 3), (1, 1)])
def test_networks_of_several_seeds_side_by_side_are_each_what_they_are_alone(level, groups, agents):
    """To the bit, on episodes of other lengths, in the parameters' own memory."""
    seeds, t, b = 3, 7, 18
    alone = [make(groups, 9, 20, 5, seed=seed) for seed in range(seeds)]
    members = copy.deepcopy(alone)
    own = [net for net, _ in members]
    wholes = {name: lay_out([getattr(net, name) for net in own]) for name, _ in own[0].named_parameters()}
    nets = joined(own, wholes)
    masks = {name: lay_out([worn[name] for _, worn in members]).flatten(0, 1) for name in WEIGHTS}
    x, lengths = torch.randn(t, seeds * b, agents, 9), torch.randint(1, t + 1, (seeds * b,))
    grad_q, hidden = torch.randn(t, seeds * b, agents, 5), torch.randn(seeds * groups, b * agents // groups, 20)
    sequence = SparseSequence(nets, masks, level)
    q, (acted, after) = sequence.forward(x, lengths=lengths), sequence.step(x[0], hidden)
    found = gradients(nets, q, grad_q)
    for k, (net, worn) in enumerate(alone):
        part, own = slice(k * b, (k + 1) * b), slice(k * groups, (k + 1) * groups)
        single = SparseSequence(net, worn, level)
        q_alone = single.forward(x[:, part], lengths=lengths[part])
        filled = torch.arange(t)[:, None] < lengths[part]
        assert torch.equal(q[:, part][filled], q_alone[filled])
        for name, expected in gradients(net, q_alone, grad_q[:, part]).items():
            assert torch.equal(found[name][own], expected), name
        acted_alone, after_alone = single.step(x[0, part], hidden[own])
        assert torch.equal(acted[part], acted_alone) and torch.equal(after[own], after_alone)
    with torch.no_grad():
        members[1][0].fc2_bias.add_(1.0)
        members[2][1]["weight_hh"].logical_not_()
    moved = SparseSequence(nets, masks, level).forward(x, lengths=lengths)
    differs = (q != moved).any(-1).any(-1) & (torch.arange(t)[:, None] < lengths)
    changed = [bool(part.any()) for part in differs.chunk(seeds, 1)]
    assert changed == [False, True, True]
    with pytest.raises(ValueError, match="B a multiple of 3"):
        sequence.forward(x[:, 1:])
