"""The native mixer against torch in float64: every instruction set, odd sizes, masks, repeats, threads."""

from __future__ import annotations

import copy

import pytest
import torch

from mast_train.engines import native
from mast_train.engines.native.mixer import SparseMixer
from mast_train.learning.losses import optimistic_weight, td_loss
from mast_train.networks.mixers import MonotonicMixer
from mast_train.settings.config import MixerConfig
from mast_train.sparse.topology import random_mask

pytestmark = [
    pytest.mark.skipif(not native.available(), reason=native.status()),
    pytest.mark.usefixtures("one_thread"),
]
LEVELS = native.levels()


def make(agents=3, states=17, embed=8, hidden=12, sparsity=0.8, block=1, seed=0):
    """A mixer and its masks; sparsity 0: none."""
    torch.manual_seed(seed)
    mixer, generator = MonotonicMixer(agents, states, MixerConfig(embed, hidden)), torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in mixer.named_parameters() if sparsity else []:
        if weight.dim() == 2:
            masks[name] = random_mask((1, *weight.shape), 1 - sparsity, block, 1, generator)[0]
            with torch.no_grad():
                weight.mul_(masks[name])
    return mixer, masks


def gradients(mixer, q_tot, q, grad):
    for parameter in mixer.parameters():
        parameter.grad = None
    q.grad = None
    q_tot.backward(grad)
    return {name: parameter.grad.clone() for name, parameter in mixer.named_parameters()} | {"q": q.grad.clone()}


def assert_agrees(mixer, masks, q, state, level):
    """Forward with and without gradients, and every gradient, to 1e-5 of its largest entry."""
    exact, exact_q = copy.deepcopy(mixer).double(), q.detach().double().requires_grad_()
    grad = torch.randn(q.shape[:-1])
    expected = exact(exact_q, state.double())
    wanted = gradients(exact, expected, exact_q, grad.double())
    subject, own = SparseMixer(mixer, masks, level), q.detach().clone().requires_grad_()
    for dense_gradients in (True, False):
        q_tot = subject(own, state, dense_gradients=dense_gradients)
        torch.testing.assert_close(q_tot.double(), expected, atol=1e-5, rtol=1e-5)
        for name, actual in gradients(mixer, q_tot, own, grad).items():
            masked = name in masks and not dense_gradients
            reference = wanted[name] * masks[name] if masked else wanted[name]
            scale = reference.abs().max().clamp(min=1e-3).item()
            torch.testing.assert_close(
                actual.double(), reference, atol=1e-5 * scale, rtol=0.0, msg=lambda m, name=name: f"{name}: {m}"
            )
            assert not masked or not actual[~masks[name]].any()
    with torch.no_grad():
        assert torch.equal(subject(own, state), q_tot)
        torch.testing.assert_close(SparseMixer(mixer, None, level)(own, state), q_tot, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 31, 33, 300])
@pytest.mark.parametrize("repeats", [None, 1, 5])
def test_rows_and_repeats(level, rows, repeats):
    mixer, masks = make()
    shape = (rows, 3) if repeats is None else (repeats, rows, 3)
    assert_agrees(mixer, masks, 3.0 * torch.randn(shape), torch.randn(rows, 17), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("agents", "states", "embed", "hidden"), [(1, 1, 1, 1), (8, 65, 32, 64), (5, 20, 7, 3)])
@pytest.mark.parametrize(("sparsity", "block"), [(0.0, 1), (0.5, 1), (0.95, 1), (0.8, 8)])
def test_sizes_and_masks(level, agents, states, embed, hidden, sparsity, block):
    mixer, masks = make(agents, states, embed, hidden, sparsity, block)
    assert_agrees(mixer, masks, torch.randn(70, agents), torch.randn(70, states), level)


@pytest.mark.parametrize("level", LEVELS)
def test_large_values_and_empty_layers(level):
    mixer, masks = make()
    masks["w1_out.weight"].zero_()
    masks["b1.weight"].zero_()
    with torch.no_grad():
        mixer.w1_out.weight.zero_()
        mixer.b1.weight.zero_()
    assert_agrees(mixer, masks, 100.0 * torch.randn(40, 3), 10.0 * torch.randn(40, 17), level)


def test_repeats_are_as_many_calls():
    """The torch mixer takes K joint actions of a state as well."""
    mixer, _ = make()
    q, state = torch.randn(4, 9, 3), torch.randn(9, 17)
    torch.testing.assert_close(mixer(q, state), torch.stack([mixer(part, state) for part in q]))


def test_rows_name_their_states():
    mixer, masks = make()
    state, rows, grad = torch.randn(20, 17), torch.randint(0, 20, (50,)), torch.randn(50)
    q, subject = torch.randn(50, 3, requires_grad=True), SparseMixer(mixer, masks)
    expected, found = subject(q, state[rows]), subject(q, state, rows)
    assert torch.equal(found, expected)
    wanted = gradients(mixer, expected, q, grad)
    assert all(torch.equal(value, wanted[name]) for name, value in gradients(mixer, found, q, grad).items())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("weighted", "low"), [(False, 1.0), (False, 0.3), (True, 1.0)])
def test_fit_is_the_loss_and_its_backward_pass(level, weighted, low):
    mixer, masks = make()
    exact, state, rows = copy.deepcopy(mixer).double(), torch.randn(20, 17), torch.randint(0, 20, (70,))
    q, y, weight = torch.randn(70, 3), torch.randn(70), torch.rand(70) if weighted else None
    exact_q = q.double().requires_grad_()
    q_tot = exact(exact_q, state.double()[rows])
    worn = optimistic_weight(q_tot.detach(), y.double(), low) if weight is None else weight.double()
    loss = td_loss(q_tot, y.double(), worn)
    wanted = gradients(exact, loss, exact_q, torch.ones(()))
    for dense_gradients in (True, False):
        for parameter in mixer.parameters():
            parameter.grad = None
        grad_q, means = SparseMixer(mixer, masks, level).fit(
            q, state, rows, y, weight, low, dense_gradients=dense_gradients
        )
        expected = torch.stack([value.double().mean() for value in (loss, q, q_tot, y, worn)])
        torch.testing.assert_close(means.double(), expected.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(grad_q.double(), wanted["q"], atol=1e-6, rtol=1e-4)
        for name, parameter in mixer.named_parameters():
            masked = name in masks and not dense_gradients
            reference = wanted[name] * masks[name] if masked else wanted[name]
            torch.testing.assert_close(parameter.grad.double(), reference, atol=1e-6, rtol=1e-4)


def test_the_number_of_threads_changes_no_bit():
    mixer, masks = make()
    q, state, grad, results = torch.randn(700, 3, requires_grad=True), torch.randn(700, 17), torch.randn(700), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        q_tot = SparseMixer(mixer, masks)(q, state)
        results.append([q_tot.detach(), *gradients(mixer, q_tot, q, grad).values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_masks_that_change_and_gradients_that_add_up():
    mixer, masks = make()
    subject, q, state = SparseMixer(mixer, masks), torch.randn(50, 3), torch.randn(50, 17)
    subject(q, state).sum().backward()
    first = {name: parameter.grad.clone() for name, parameter in mixer.named_parameters()}
    subject(q, state).sum().backward()
    for name, parameter in mixer.named_parameters():
        torch.testing.assert_close(parameter.grad, 2.0 * first[name])
        parameter.grad = None
    masks["w1_in.weight"].copy_(masks["w1_in.weight"].roll(1, 0))
    with torch.no_grad():
        mixer.w1_in.weight.copy_(torch.randn_like(mixer.w1_in.weight) * masks["w1_in.weight"])
    assert_agrees(mixer, masks, q, state, LEVELS[0])


def test_misuse_is_refused():
    mixer, masks = make()
    with pytest.raises(ValueError, match=r"q is float32 \[5, 2\]"):
        SparseMixer(mixer, masks)(torch.randn(5, 2), torch.randn(5, 17))
    with pytest.raises(ValueError, match="no gradients without masks"):
        SparseMixer(mixer, None)(torch.randn(5, 3), torch.randn(5, 17))
    with pytest.raises(ValueError, match="no gradients without masks"):
        SparseMixer(mixer, None).fit(torch.randn(5, 3), torch.randn(5, 17), torch.arange(5), torch.randn(5), None, 1.0)
    with pytest.raises(ValueError, match="float32"):
        SparseMixer(copy.deepcopy(mixer).double(), masks)
