"""TD targets and action operators against slow loops and hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mast_train.learning import targets
from mast_train.learning.losses import td_error


def slow_lambda(reward, value, terminated, last, gamma, lam):
    """(1 - lambda) sum_n lambda^(n-1) T^(n) per episode, the remaining weight on the longest return."""
    result = torch.zeros_like(reward)
    for b in range(reward.shape[0]):
        end = int(last[b].nonzero()[0])
        for t in range(end + 1):
            longest = end - t + 1
            returns = []
            for n in range(1, longest + 1):
                total = sum(gamma**k * float(reward[b, t + k]) for k in range(n))
                if not (n == longest and bool(terminated[b, end])):
                    total += gamma**n * float(value[b, t + n])
                returns.append(total)
            mixed = sum((1 - lam) * lam ** (n - 1) * returns[n - 1] for n in range(1, longest))
            result[b, t] = mixed + lam ** (longest - 1) * returns[-1]
    return result


def episodes(lengths, ends, padding=0, seed=0):
    """Random rewards and values; ends: "terminated" or "truncated" per episode."""
    generator = torch.Generator().manual_seed(seed)
    t, b = max(lengths) + padding, len(lengths)
    reward, value = torch.randn(b, t, generator=generator), torch.randn(b, t + 1, generator=generator)
    last, terminated = torch.zeros(b, t, dtype=torch.bool), torch.zeros(b, t, dtype=torch.bool)
    for i, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        last[i, length - 1] = True
        terminated[i, length - 1] = end == "terminated"
    return reward, value, terminated, last


LENGTHS, ENDS = [5, 3, 1, 4], ["terminated", "truncated", "terminated", "truncated"]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.6, 1.0])
def test_td_lambda_is_the_mixture_of_n_step_returns(lam):
    reward, value, terminated, last = episodes(LENGTHS, ENDS)
    fast = targets.td_lambda(reward, value[:, 1:], terminated, last, 0.9, lam)
    slow = slow_lambda(reward, value, terminated, last, 0.9, lam)
    for i, length in enumerate(LENGTHS):
        torch.testing.assert_close(fast[i, :length], slow[i, :length])


def test_td_lambda_by_hand():
    """Two steps, gamma 0.5, lambda 0.5, terminated: y1 = 4; y0 = 2 + 0.5 (0.5 * 10 + 0.5 * 4) = 5.5."""
    y = targets.td_lambda(
        torch.tensor([[2.0, 4.0]]), torch.tensor([[10.0, 99.0]]),
        torch.tensor([[False, True]]), torch.tensor([[False, True]]), 0.5, 0.5,
    )  # fmt: skip
    torch.testing.assert_close(y, torch.tensor([[5.5, 4.0]]))


def test_lambda_zero_is_one_step_and_one_is_monte_carlo():
    reward, value, terminated, last = episodes([4], ["terminated"])
    one = targets.one_step(reward, value[:, 1:], terminated, 0.9)
    torch.testing.assert_close(targets.td_lambda(reward, value[:, 1:], terminated, last, 0.9, 0.0), one)
    monte_carlo = sum(0.9**k * reward[0, k] for k in range(4))
    torch.testing.assert_close(targets.td_lambda(reward, value[:, 1:], terminated, last, 0.9, 1.0)[0, 0], monte_carlo)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_n_step_against_its_definition(n):
    reward, value, terminated, last = episodes(LENGTHS, ENDS)
    fast = targets.n_step(reward, value[:, 1:], terminated, last, 0.9, n)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            k = min(n, length - t)
            expected = sum(0.9**j * float(reward[b, t + j]) for j in range(k))
            if not (t + k == length and bool(terminated[b, length - 1])):
                expected += 0.9**k * float(value[b, t + k])
            assert float(fast[b, t]) == pytest.approx(expected, abs=1e-5)


def test_padding_changes_no_target():
    plain = episodes(LENGTHS, ENDS, padding=0)
    reward, value, terminated, last = episodes(LENGTHS, ENDS, padding=7)
    t = max(LENGTHS)
    reward[:, :t], value[:, : t + 1] = plain[0], plain[1]
    reward[:, t:], value[:, t + 1 :] = 1e6, -1e6
    for i, length in enumerate(LENGTHS):
        reward[i, length:], value[i, length + 1 :] = 1e6, 1e6
    for function, extra in ((targets.td_lambda, 0.6), (targets.n_step, 3)):
        short = function(plain[0], plain[1][:, 1:], *plain[2:], 0.99, extra)
        long = function(reward, value[:, 1:], terminated, last, 0.99, extra)
        for i, length in enumerate(LENGTHS):
            assert torch.equal(long[i, :length], short[i, :length])


def test_truncated_bootstraps_and_terminated_does_not():
    reward, value, terminated, last = episodes([2, 2], ["terminated", "truncated"])
    y = targets.td_lambda(reward, value[:, 1:], terminated, last, 0.9, 0.6)
    assert float(y[0, 1]) == pytest.approx(float(reward[0, 1]))
    assert float(y[1, 1]) == pytest.approx(float(reward[1, 1] + 0.9 * value[1, 2]))


@st.composite
def action_values(draw):
    n = draw(st.integers(1, 9))
    q = draw(st.lists(st.floats(-50, 50, width=32), min_size=n, max_size=n))
    avail = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    return torch.tensor(q, dtype=torch.float64), torch.tensor(avail)


@settings(deadline=None, max_examples=200)
@given(action_values(), st.floats(0.1, 20), st.floats(0.0, 5))
def test_operators_lie_between_their_bounds(case, omega, alpha):
    q, avail = case
    allowed = q[avail]
    low, mean, high = float(allowed.min()), float(allowed.mean()), float(allowed.max())
    slack = 1e-6 * (1 + abs(low) + abs(high))
    assert float(targets.greedy_value(q, avail)) == high
    assert mean - slack <= float(targets.mellowmax(q, avail, omega)) <= high + slack
    assert low - slack <= float(targets.soft_mellowmax(q, avail, alpha, omega)) <= high + slack
    assert mean - slack <= float(targets.softmax_value(q, avail, alpha)) <= high + slack


def test_soft_mellowmax_by_its_formula_and_mellowmax_as_its_limit():
    q, avail = torch.tensor([1.0, 2.0, 7.0]), torch.tensor([True, True, False])
    weights = [math.exp(1.0), math.exp(2.0)]
    mixed = (weights[0] * math.exp(10.0) + weights[1] * math.exp(20.0)) / sum(weights)
    assert float(targets.soft_mellowmax(q, avail, 1.0, 10.0)) == pytest.approx(math.log(mixed) / 10.0, rel=1e-6)
    torch.testing.assert_close(targets.soft_mellowmax(q, avail, 0.0, 10.0), targets.mellowmax(q, avail, 10.0))


@pytest.mark.parametrize("operator", ["greedy", "softmax", "mellowmax", "soft_mellowmax"])
def test_one_available_action_is_its_own_value_and_unavailable_values_do_not_matter(operator):
    q, avail = torch.tensor([[3.0, -1e30, 5.0]]), torch.tensor([[False, False, True]])
    apply = {
        "greedy": lambda q, s: targets.greedy_value(q, avail, s),
        "softmax": lambda q, s: targets.softmax_value(q, avail, 1.0, s),
        "mellowmax": lambda q, s: targets.mellowmax(q, avail, 10.0),
        "soft_mellowmax": lambda q, s: targets.soft_mellowmax(q, avail, 1.0, 10.0, s),
    }[operator]
    for select in (None, torch.tensor([[9.0, 9.0, -9.0]])):
        torch.testing.assert_close(apply(q, select), torch.tensor([5.0]))


def test_double_q_takes_the_choice_from_one_network_and_the_value_from_the_other():
    value, online, avail = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0]), torch.tensor([True, True])
    assert float(targets.greedy_value(value, avail, online)) == 1.0
    sharp = float(targets.soft_mellowmax(value, avail, 50.0, 1.0, online))
    assert sharp == pytest.approx(1.0, abs=1e-3)
    assert float(targets.softmax_value(value, avail, 50.0, online)) == pytest.approx(1.0, abs=1e-3)


def test_td_error_is_the_square():
    assert td_error(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])).tolist() == [4.0, 1.0]


def test_the_spread_of_values_by_hand():
    """Standard deviations 2 (of 1 and 5) and 0 (of equal values); a row with one action says nothing."""
    q = torch.tensor([[1.0, 5.0, 99.0], [3.0, 3.0, 3.0], [7.0, -50.0, 80.0]])
    avail = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    assert float(targets.spread(q, avail)) == pytest.approx((2.0 + 0.0) / 2)
    assert float(targets.spread(q[2:], avail[2:])) == pytest.approx(1e-6)


def test_per_unit_of_spread_soft_mellowmax_scales_with_the_values():
    """sm(c Q) = c sm(Q) once alpha and omega are divided by the spread: the operator no longer depends on the scale."""
    torch.manual_seed(0)
    q, avail = torch.randn(50, 6), torch.ones(50, 6, dtype=torch.bool)

    def reduced(values):
        unit = float(targets.spread(values, avail))
        return targets.soft_mellowmax(values, avail, 5.0 / unit, 5.0 / unit)

    torch.testing.assert_close(reduced(30.0 * q), 30.0 * reduced(q), rtol=1e-4, atol=1e-4)
