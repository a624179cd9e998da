"""TD targets as pure functions. Nothing here holds parameters or gradients.

Letters: B episodes, T transitions, N agents, A actions. Unavailable actions enter no sum: they are excluded inside the
log-sum-exp, never multiplied by zero. alpha and omega are scalars, or of each row: [...,1] beside q [...,A].
"""

from __future__ import annotations

import torch
from torch import Tensor

_EXCLUDED = -torch.inf


def greedy_actions(q: Tensor, avail: Tensor) -> Tensor:
    """argmax_u Q(u) over available actions: q, avail [...,A] -> int64 [...]."""
    return q.masked_fill(~avail, _EXCLUDED).argmax(-1)


def value_of(q: Tensor, actions: Tensor) -> Tensor:
    """Q(u): q [...,A], actions int64 [...] -> [...]."""
    return q.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def greedy_value(q: Tensor, avail: Tensor, q_select: Tensor | None = None) -> Tensor:
    """max_u Q(u) over available actions; with `q_select`, Q at its greedy action (double Q, van Hasselt 2016).

    q, q_select [...,A] float, avail [...,A] bool -> [...].
    """
    return value_of(q, greedy_actions(q if q_select is None else q_select, avail))


def softmax_value(q: Tensor, avail: Tensor, alpha: float | Tensor, q_select: Tensor | None = None) -> Tensor:
    """sum_u softmax(alpha Q_select)(u) Q(u) over available actions (Song et al. 2019). [...,A] -> [...]."""
    return (_weights(q if q_select is None else q_select, avail, alpha) * q.masked_fill(~avail, 0.0)).sum(-1)


def mellowmax(q: Tensor, avail: Tensor, omega: float | Tensor) -> Tensor:
    """(1/omega) log mean_u exp(omega Q(u)) over available actions (Asadi & Littman 2017). [...,A] -> [...]."""
    total = torch.logsumexp((omega * q).masked_fill(~avail, _EXCLUDED), -1)
    return (total - avail.sum(-1).to(q.dtype).log()) / _reduced(omega)


def soft_mellowmax(
    q: Tensor, avail: Tensor, alpha: float | Tensor, omega: float | Tensor, q_select: Tensor | None = None
) -> Tensor:
    """(1/omega) log sum_u softmax(alpha Q_select)(u) exp(omega Q(u)) over available actions. [...,A] -> [...].

    Gan et al. 2021, equation 4; MAST, section 4.2. `q_select` None takes the weights from Q itself.
    """
    logits = (alpha * (q if q_select is None else q_select)).masked_fill(~avail, _EXCLUDED)
    joint = torch.logsumexp(logits + omega * q, -1)
    return (joint - torch.logsumexp(logits, -1)) / _reduced(omega)


def neighbours(q: Tensor, greedy: Tensor) -> Tensor:
    """The agents' values at the N A joint actions that differ from `greedy` in at most one agent (Pan et al. 2021).

    q [R,N,A], greedy int64 [R,N] -> [N*A,R,N]: in i A + u agent i takes u and every other agent its greedy action.
    The greedy joint action is there N times, once for each agent, as in ling-pan/RES.
    """
    r, n, a = q.shape
    deviates = torch.eye(n, dtype=torch.bool, device=q.device).view(n, 1, 1, n)
    return torch.where(deviates, q.permute(1, 2, 0).unsqueeze(-1), value_of(q, greedy)).reshape(n * a, r, n)


def spread(q: Tensor, avail: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean over rows of the standard deviation of Q over available actions, rows with one action left out; at least
    1e-6. The unit in which alpha and omega mean the same on every map: QMIX leaves the agents' scale of values free.

    q [R,...,A] float, avail [R,...,A] bool, real [R] bool (None: all): which rows count -> scalar.
    """
    deviation, choice = _deviations(q, avail, real)
    return (deviation * choice).sum().div(choice.sum().clamp(min=1)).clamp(min=1e-6)


def spreads(q: Tensor, avail: Tensor, real: Tensor | None, parts: int) -> Tensor:
    """`spread` of equal parts of the rows, one after another [parts]."""
    deviation, choice = (x.reshape(parts, -1) for x in _deviations(q, avail, real))
    return (deviation * choice).sum(1).div(choice.sum(1).clamp(min=1)).clamp(min=1e-6)


def _deviations(q: Tensor, avail: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """The standard deviation of Q over available actions, and where it counts [R,...]."""
    count = avail.sum(-1).to(q.dtype)
    mean = q.masked_fill(~avail, 0.0).sum(-1) / count
    deviation = (q - mean.unsqueeze(-1)).masked_fill(~avail, 0.0).square().sum(-1).div(count).sqrt()
    choice = count > 1
    if real is not None:
        choice = choice & real.view(-1, *[1] * (choice.dim() - 1))
    return deviation, choice


def _reduced(scale: float | Tensor) -> float | Tensor:
    """Of each row [...,1], beside what is left of q's rows [...]."""
    return scale.squeeze(-1) if isinstance(scale, Tensor) and scale.dim() else scale


def _weights(q: Tensor, avail: Tensor, alpha: float | Tensor) -> Tensor:
    return torch.softmax((alpha * q).masked_fill(~avail, _EXCLUDED), -1)


def one_step(reward: Tensor, next_value: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r_t + gamma (1 - terminated_t) V_{t+1}. reward, next_value (V at t+1), terminated bool: [B,T] -> [B,T]."""
    return reward + gamma * torch.where(terminated, 0.0, next_value)


def linked_td_lambda(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    last: Tensor,
    after: Tensor,
    gamma: float,
    lam: float | Tensor,
    steps: int,
) -> Tensor:
    """td_lambda of transitions in any order, all [R]: `after` says which row is the next step's, `last` where none is
    (of an episode, or of no transition, whose target is something finite). steps: of the longest episode, at most.

    y_i = f_i + c_i y_after(i) of all rows at once: after d rounds f holds 2^d terms of the sum, c what the rest is
    multiplied with, and each row knows the one that many steps later.
    """
    keep = torch.where(last, 0.0, lam)
    target = one_step(reward, (1.0 - keep) * next_value, terminated, gamma)
    carry = gamma * torch.where(terminated, 0.0, keep)
    for left in range((steps - 1).bit_length() - 1, -1, -1):
        target = torch.addcmul(target, carry, target.index_select(0, after))
        if left:
            carry, after = carry * carry.index_select(0, after), after.index_select(0, after)
    return target


def linked_n_step(
    reward: Tensor, next_value: Tensor, terminated: Tensor, last: Tensor, after: Tensor, gamma: float, n: int
) -> Tensor:
    """n_step of transitions in any order, all [R]: see linked_td_lambda."""
    target = one_step(reward, next_value, terminated, gamma)
    for _ in range(n - 1):
        following = torch.where(last, next_value, target.index_select(0, after))
        target = one_step(reward, following, terminated, gamma)
    return target


def episode_return(reward: Tensor, terminated: Tensor, last: Tensor, gamma: float) -> Tensor:
    """sum_k gamma^k r_{t+k} up to the episode's last step, truncated or not. Shapes as td_lambda."""
    return td_lambda(reward, torch.zeros_like(reward), terminated, last, gamma, 1.0)


def n_step(reward: Tensor, next_value: Tensor, terminated: Tensor, last: Tensor, gamma: float, n: int) -> Tensor:
    """sum_{k<n} gamma^k r_{t+k} + gamma^n V_{t+n}, cut at the episode's end. Shapes as td_lambda."""
    target = one_step(reward, next_value, terminated, gamma)
    for _ in range(n - 1):
        following = torch.cat([target[:, 1:], target[:, -1:]], 1)
        target = one_step(reward, torch.where(last, next_value, following), terminated, gamma)
    return target


def td_lambda(
    reward: Tensor, next_value: Tensor, terminated: Tensor, last: Tensor, gamma: float, lam: float | Tensor
) -> Tensor:
    """y_t = r_t + gamma (1 - terminated_t) ((1 - lambda) V_{t+1} + lambda y_{t+1}); V_{t+1} alone at the last step.

    The recursive form of (1-lambda) sum_n lambda^(n-1) T^(n) (paper, equation 5). reward and next_value (V at t+1)
    [B,T], terminated [B,T] bool, last [B,T] bool (each episode's last transition, truncated or not) -> [B,T]. Entries
    after `last` are padding: they never reach an earlier target. lam: one for all, or [B,1]; 0 is one-step.
    """
    keep = torch.where(last, 0.0, lam)
    fixed = one_step(reward, (1.0 - keep) * next_value, terminated, gamma)
    carry = gamma * torch.where(terminated, 0.0, keep)
    following, target = next_value[:, -1], []
    for fixed_t, carry_t in zip(reversed(fixed.unbind(1)), reversed(carry.unbind(1)), strict=True):
        following = torch.addcmul(fixed_t, carry_t, following)
        target.append(following)
    return torch.stack(target[::-1], 1)
