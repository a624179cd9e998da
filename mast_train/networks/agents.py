"""The agents' networks, grouped: a layer of all agents is one tensor [G, out, in] and one batched product.

G = N: each agent its own network (the paper). G = 1: one shared network. Networks of several seeds side by side have
seeds times as many, one seed's after another's, and every seed its own equal part of the batch. Letters: T steps,
B episodes of all seeds, N agents, I input, H hidden, A actions, R rows of a group.

An agent's network gives a number for each action, or each component of one. A critic's values an action that is given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

WEIGHTS = ("fc1_weight", "weight_ih", "weight_hh", "fc2_weight")


class GroupedNets(nn.Module):
    """fc1(I -> H) + ReLU -> GRUCell(H) for every group, torch's gate order r, z, n; or, not recurrent, fc1 + ReLU ->
    mid(H -> H) + ReLU, which remembers nothing."""

    def __init__(self, groups: int, inputs: int, hidden: int, recurrent: bool = True) -> None:
        super().__init__()
        self.groups, self.inputs, self.hidden, self.recurrent = groups, inputs, hidden, recurrent
        self.seeds = 1
        self.fc1_weight, self.fc1_bias = self._layer(hidden, inputs)
        if recurrent:
            self.weight_ih, self.weight_hh = (self._parameter(3 * hidden, hidden, fan_in=hidden) for _ in range(2))
            self.bias_ih, self.bias_hh = (self._parameter(3 * hidden, fan_in=hidden) for _ in range(2))
        else:
            self.mid_weight, self.mid_bias = self._layer(hidden, hidden)

    def _parameter(self, *shape: int, fan_in: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(self.groups, *shape).uniform_(-1.0, 1.0) / math.sqrt(fan_in))

    def _layer(self, outputs: int, inputs: int) -> tuple[nn.Parameter, nn.Parameter]:
        return self._parameter(outputs, inputs, fan_in=inputs), self._parameter(outputs, fan_in=inputs)

    def initial_hidden(self, batch: int, n_agents: int) -> Tensor:
        """Zeros [G, R, H] for `batch` teams; R rows per group."""
        return self.fc1_bias.new_zeros(self.groups, batch * n_agents // self.groups, self.hidden)

    def _states(self, x: Tensor) -> Tensor:
        """Whole sequences from a zero memory: x [T,B,N,I] -> [G,T*R,H]."""
        y = torch.relu(_linear(self._to_groups(x).flatten(1, 2), self.fc1_weight, self.fc1_bias))
        if not self.recurrent:
            return torch.relu(_linear(y, self.mid_weight, self.mid_bias))
        gates = _linear(y, self.weight_ih, self.bias_ih).view(self.groups, len(x), -1, 3 * self.hidden)
        return GRUSequence.apply(gates, self.weight_hh, self.bias_hh).flatten(1, 2)

    def _stepped(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B,N,I], hidden [G,R,H] -> what the last layers read [G,R,H], next hidden [G,R,H]."""
        y = torch.relu(_linear(self._to_groups(x[None]).flatten(1, 2), self.fc1_weight, self.fc1_bias))
        if not self.recurrent:
            return torch.relu(_linear(y, self.mid_weight, self.mid_bias)), hidden
        hidden = gru_cell(
            _linear(y, self.weight_ih, self.bias_ih), _linear(hidden, self.weight_hh, self.bias_hh), hidden
        )
        return hidden, hidden

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


Nets = TypeVar("Nets", bound=GroupedNets)


def side_by_side(nets: Sequence[Nets]) -> Nets:
    """The networks of several seeds as they are now, as one of all their groups that shares nothing with them."""
    joint, named = copy.copy(nets[0]), [dict(net.named_parameters()) for net in nets]
    joint.groups, joint.seeds = sum(net.groups for net in nets), sum(net.seeds for net in nets)
    joint._parameters = {
        name: nn.Parameter(torch.cat([own[name].detach() for own in named]), requires_grad=False) for name in named[0]
    }
    return joint


class AgentNets(GroupedNets):
    """`GroupedNets` -> fc2(H -> A) for every group."""

    def __init__(self, groups: int, inputs: int, hidden: int, n_actions: int, recurrent: bool = True) -> None:
        super().__init__(groups, inputs, hidden, recurrent)
        self.n_actions = n_actions
        self.fc2_weight, self.fc2_bias = self._layer(n_actions, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sequences from a zero memory: x [T,B,N,I] -> q [T,B,N,A], hidden [T,B,N,H]."""
        t, b, n, _ = x.shape
        states = self._states(x)
        q = _linear(states, self.fc2_weight, self.fc2_bias)
        return self._from_groups(q, t, b, n), self._from_groups(states, t, b, n)

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One decision: x [B,N,I], hidden [G,R,H] -> q [B,N,A], next hidden [G,R,H]."""
        b, n, _ = x.shape
        states, hidden = self._stepped(x, hidden)
        return self._from_groups(_linear(states, self.fc2_weight, self.fc2_bias), 1, b, n)[0], hidden


class CriticNets(GroupedNets):
    """Q_i(tau, u) = fc3(relu(fc2(h ++ u))), h of `GroupedNets`: many actions are valued in one memory."""

    def __init__(self, groups: int, inputs: int, hidden: int, n_actions: int, recurrent: bool = True) -> None:
        super().__init__(groups, inputs, hidden, recurrent)
        self.n_actions = n_actions
        self.fc2_weight, self.fc2_bias = self._layer(hidden, hidden + n_actions)
        self.fc3_weight, self.fc3_bias = self._layer(1, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sequences from a zero memory: x [T,B,N,I] -> h [T,B,N,H], which `value` reads, twice."""
        t, b, n, _ = x.shape
        states = self._from_groups(self._states(x), t, b, n)
        return states, states

    def step(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [B,N,I], hidden [G,R,H] -> h [B,N,H], which `value` reads, next hidden [G,R,H]."""
        b, n, _ = x.shape
        states, hidden = self._stepped(x, hidden)
        return self._from_groups(states, 1, b, n)[0], hidden

    def from_memory(self, states: Tensor) -> Tensor:
        """What fc2 makes of h [R,N,H], of one seed's networks -> [R,N,H]."""
        return _apart(states, self.fc2_weight[..., : self.hidden]) + self.fc2_bias

    def value(self, states: Tensor, actions: Tensor, sizes: Sequence[int]) -> Tensor:
        """h [R,N,H], actions [R,N,A] or [J,R,N,A] -> [R,N] or [J,R,N]; sizes: how many of the R are each seed's."""
        own, parts = self.groups // self.seeds, []
        split = zip(states.split(sizes), actions.split(sizes, -3), strict=True)
        for k, (h, u) in enumerate(split):
            at = slice(k * own, (k + 1) * own)
            from_h, from_u = self.fc2_weight[at].split((self.hidden, self.n_actions), -1)
            y = torch.relu(_apart(h, from_h) + self.fc2_bias[at] + _apart(u, from_u))
            parts.append((_apart(y, self.fc3_weight[at]) + self.fc3_bias[at]).squeeze(-1))
        return torch.cat(parts, -2) if len(parts) > 1 else parts[0]


def _apart(x: Tensor, weight: Tensor) -> Tensor:
    """x [...,N,I], weight [N,O,I] or, of all agents, [1,O,I] -> [...,N,O]."""
    if len(weight) == 1:
        return x @ weight[0].mT
    n = x.shape[-2]
    rows = x.reshape(-1, n, x.shape[-1]).transpose(0, 1)
    return torch.bmm(rows, weight.mT).transpose(0, 1).view(*x.shape[:-1], -1)


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
