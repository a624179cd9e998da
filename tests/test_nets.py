"""Grouped networks against torch.nn, the hand-written backward pass against autograd, QMIX's monotonicity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mast_train.networks.agents import AgentNets, GRUSequence, gru_cell
from mast_train.networks.mixers import MonotonicMixer, Sum
from mast_train.settings.config import MixerConfig


def oracle(nets: AgentNets, group: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One group with torch.nn.Linear and torch.nn.GRUCell: x [T,B,I] -> q [T,B,A], hidden [T,B,H]."""
    cell = nn.GRUCell(nets.hidden, nets.hidden)
    with torch.no_grad():
        cell.weight_ih.copy_(nets.weight_ih[group])
        cell.weight_hh.copy_(nets.weight_hh[group])
        cell.bias_ih.copy_(nets.bias_ih[group])
        cell.bias_hh.copy_(nets.bias_hh[group])
        hidden, q, states = torch.zeros(x.shape[1], nets.hidden), [], []
        for step in x:
            hidden = cell(torch.relu(step @ nets.fc1_weight[group].T + nets.fc1_bias[group]), hidden)
            states.append(hidden)
            q.append(hidden @ nets.fc2_weight[group].T + nets.fc2_bias[group])
    return torch.stack(q), torch.stack(states)


@pytest.mark.parametrize("groups", [1, 3])
def test_sequence_and_step_equal_torch_modules(groups):
    torch.manual_seed(0)
    nets = AgentNets(groups, 7, 9, 5)
    x = torch.randn(120, 2, 3, 7)
    q, states = nets(x)
    hidden = nets.initial_hidden(2, 3)
    for agent in range(3):
        expected_q, expected_states = oracle(nets, agent if groups > 1 else 0, x[:, :, agent])
        torch.testing.assert_close(q[:, :, agent], expected_q, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[:, :, agent], expected_states, atol=1e-5, rtol=1e-4)
    for t in range(120):
        step_q, hidden = nets.step(x[t], hidden)
        torch.testing.assert_close(step_q, q[t], atol=1e-5, rtol=1e-4)


def test_hand_written_backward_equals_autograd():
    torch.manual_seed(0)
    shapes = [(2, 6, 3, 12), (2, 12, 4), (2, 12)]
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GRUSequence.apply, inputs)
    gates, weight, bias = inputs
    hidden, states = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for t in range(6):
        hidden = gru_cell(gates[:, t], torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT), hidden)
        states.append(hidden)
    expected = torch.stack(states, 1)
    torch.testing.assert_close(GRUSequence.apply(*inputs), expected)
    upstream = torch.randn_like(expected)
    slow = torch.autograd.grad(expected, inputs, upstream)
    fast = torch.autograd.grad(GRUSequence.apply(*inputs), inputs, upstream)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b)


def test_qmix_is_monotonic_in_each_agent():
    torch.manual_seed(0)
    mixer = MonotonicMixer(4, 6, MixerConfig(8, 16))
    q = torch.randn(50, 4, requires_grad=True)
    mixer(q, torch.randn(50, 6)).sum().backward()
    assert q.grad is not None and bool((q.grad >= 0).all()) and bool((q.grad > 0).any())


def test_qmix_against_a_loop():
    torch.manual_seed(0)
    mixer, q, state = MonotonicMixer(3, 5, MixerConfig(4, 6)), torch.randn(2, 7, 3), torch.randn(2, 7, 5)
    total = mixer(q, state)
    for b in range(2):
        for t in range(7):
            s = state[b, t]
            w1 = mixer.w1_out(torch.relu(mixer.w1_in(s))).abs().view(3, 4)
            w2 = mixer.w2_out(torch.relu(mixer.w2_in(s))).abs()
            hidden = nn.functional.elu(q[b, t] @ w1 + mixer.b1(s))
            expected = hidden @ w2 + mixer.b2_out(torch.relu(mixer.b2_in(s)))[0]
            torch.testing.assert_close(total[b, t], expected)


def test_vdn_is_a_sum():
    assert float(Sum()(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(1))) == 7.0
