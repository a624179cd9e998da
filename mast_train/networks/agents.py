"""The agents' networks, grouped: a layer of all agents is one tensor [G, out, in] and one batched product.

G = N: each agent its own network (the paper). G = 1: one shared network. Networks of several seeds side by side have
seeds times as many, one seed's after another's, and every seed its own equal part of the batch. Letters: T steps,
B episodes of all seeds, N agents, I input, H hidden, A actions, R rows of a group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = ("fc1_weight", "weight_ih", "weight_hh", "fc2_weight")


class AgentNets(nn.Module):
    """fc1(I -> H) + ReLU -> GRUCell(H) -> fc2(H -> A) for every group; torch's gate order r, z, n."""

    def __init__(self, groups: int, inputs: int, hidden: int, n_actions: int) -> None:
        super().__init__()
        self.groups, self.inputs, self.hidden, self.n_actions = groups, inputs, hidden, n_actions
        self.seeds = 1

        def parameter(*shape: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(groups, *shape).uniform_(-1.0, 1.0) / math.sqrt(fan_in))

        self.fc1_weight, self.fc1_bias = parameter(hidden, inputs, fan_in=inputs), parameter(hidden, fan_in=inputs)
        self.weight_ih = parameter(3 * hidden, hidden, fan_in=hidden)
        self.weight_hh = parameter(3 * hidden, hidden, fan_in=hidden)
        self.bias_ih, self.bias_hh = parameter(3 * hidden, fan_in=hidden), parameter(3 * hidden, fan_in=hidden)
        self.fc2_weight = parameter(n_actions, hidden, fan_in=hidden)
        self.fc2_bias = parameter(n_actions, fan_in=hidden)

    def initial_hidden(self, batch: int, n_agents: int) -> Tensor:
        """Zeros [G, R, H] for `batch` teams; R rows per group."""
        return self.fc1_bias.new_zeros(self.groups, batch * n_agents // self.groups, self.hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sequences from a zero memory: x [T,B,N,I] -> q [T,B,N,A], hidden [T,B,N,H]."""
        t, b, n, _ = x.shape
        x = self._to_groups(x)
        y = torch.relu(_linear(x.flatten(1, 2), self.fc1_weight, self.fc1_bias))
        gates = _linear(y, self.weight_ih, self.bias_ih).view(self.groups, t, -1, 3 * self.hidden)
        states = GRUSequence.apply(gates, self.weight_hh, self.bias_hh)
        q = _linear(states.flatten(1, 2), self.fc2_weight, self.fc2_bias)
        return self._from_groups(q, t, b, n), self._from_groups(states.flatten(1, 2), t, b, n)

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One decision: x [B,N,I], hidden [G,R,H] -> q [B,N,A], next hidden [G,R,H]."""
        b, n, _ = x.shape
        y = torch.relu(_linear(self._to_groups(x[None]).flatten(1, 2), self.fc1_weight, self.fc1_bias))
        hidden = gru_cell(
            _linear(y, self.weight_ih, self.bias_ih), _linear(hidden, self.weight_hh, self.bias_hh), hidden
        )
        return self._from_groups(_linear(hidden, self.fc2_weight, self.fc2_bias), 1, b, n)[0], hidden

    def _to_groups(self, x: Tensor) -> Tensor:
        """[T,B,N,F] -> [G,T,R,F]: a group's rows are its seed's episodes, batch-major."""
        t, b, n, width = x.shape
        seeds, own = self.seeds, self.groups // self.seeds
        parts = x.view(t, seeds, b // seeds, own, n // own, width)
        return parts.permute(1, 3, 0, 2, 4, 5).reshape(self.groups, t, -1, width)

    def _from_groups(self, x: Tensor, t: int, b: int, n: int) -> Tensor:
        """[G,T*R,F] -> [T,B,N,F]."""
        seeds, own = self.seeds, self.groups // self.seeds
        parts = x.view(seeds, own, t, b // seeds, n // own, -1)
        return parts.permute(2, 0, 3, 1, 4, 5).reshape(t, b, n, -1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [G,R,I], weight [G,O,I], bias [G,O] -> [G,R,O]."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def gru_cell(from_x: Tensor, from_h: Tensor, hidden: Tensor) -> Tensor:
    """Next hidden [...,H] from the two projections [...,3H], biases included (torch.nn.GRUCell)."""
    h = hidden.shape[-1]
    r, z = torch.sigmoid(from_x[..., : 2 * h] + from_h[..., : 2 * h]).chunk(2, -1)
    n = torch.tanh(torch.addcmul(from_x[..., 2 * h :], r, from_h[..., 2 * h :]))
    return torch.lerp(n, hidden, z)


class GRUSequence(torch.autograd.Function):
    """The recurrence over T steps with a hand-written backward pass: a third of autograd's time at these sizes.

    gates [G,T,R,3H] (input projections with bias), weight_hh [G,3H,H], bias_hh [G,3H] -> hidden [G,T,R,H].
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
        g, t, rows, width = gates.shape
        h = width // 3
        weight, bias = weight_hh.mT.contiguous(), bias_hh.unsqueeze(1)
        states = gates.new_zeros(t + 1, g, rows, h)
        rz, new, from_h = (
            gates.new_empty(t, g, rows, 2 * h),
            gates.new_empty(t, g, rows, h),
            gates.new_empty(t, g, rows, h),
        )
        for k in range(t):
            projected = torch.baddbmm(bias, states[k], weight)
            torch.add(gates[:, k, :, : 2 * h], projected[..., : 2 * h], out=rz[k]).sigmoid_()
            from_h[k] = projected[..., 2 * h :]
            torch.addcmul(gates[:, k, :, 2 * h :], rz[k, ..., :h], from_h[k], out=new[k]).tanh_()
            torch.lerp(new[k], states[k], rz[k, ..., h:], out=states[k + 1])
        ctx.save_for_backward(weight_hh, states, rz, new, from_h)
        return states[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight_hh, states, rz, new, from_h = ctx.saved_tensors
        t, g, rows, h = new.shape
        grad_states = grad_outputs[0].transpose(0, 1)
        r, z, previous = rz[..., :h], rz[..., h:], states[:-1]
        # Everything that does not depend on the running gradient is done for all steps at once.
        to_new = (1.0 - z) * (1.0 - new * new)
        to_reset = to_new * from_h * r * (1.0 - r)
        to_update = (previous - new) * z * (1.0 - z)
        factors = torch.cat([to_reset, to_update, to_new], -1).view(t, g, rows, 3, h)
        grad_x = torch.empty_like(factors)
        grad_h = torch.empty_like(factors)
        running = torch.zeros_like(new[0])
        for k in range(t - 1, -1, -1):
            running = running + grad_states[k]
            torch.mul(factors[k], running.unsqueeze(-2), out=grad_x[k])
            grad_h[k, ..., :2, :] = grad_x[k, ..., :2, :]
            torch.mul(grad_x[k, ..., 2, :], r[k], out=grad_h[k, ..., 2, :])
            running = torch.baddbmm(running * z[k], grad_h[k].flatten(-2), weight_hh)
        flat = grad_h.flatten(-2).transpose(0, 1).reshape(g, t * rows, 3 * h)
        grad_weight = torch.bmm(flat.mT, previous.transpose(0, 1).reshape(g, t * rows, h))
        return grad_x.flatten(-2).transpose(0, 1), grad_weight, flat.sum(1)
