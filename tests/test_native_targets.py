"""Targets in C against the pure functions in float64."""

from __future__ import annotations

import pytest
import torch

from mast_train.engines import native
from mast_train.engines.native import targets as native_targets
from mast_train.learning import targets

pytestmark = pytest.mark.skipif(not native.available(), reason=native.status())


@pytest.mark.parametrize("level", native.levels())
@pytest.mark.parametrize("scale", [0.1, 3.0, 1000.0])
@pytest.mark.parametrize("double", [False, True])
def test_soft_mellowmax(monkeypatch, level, scale, double):
    monkeypatch.setenv("MAST_NATIVE_LEVEL", level)
    torch.manual_seed(0)
    for rows, actions in [(1, 1), (33, 5), (200, 17)]:
        q, select = scale * torch.randn(rows, 3, actions), scale * torch.randn(rows, 3, actions)
        avail = torch.rand(q.shape) < 0.5
        avail[..., 0] = True
        chosen = select if double else None
        for alpha, omega in [(0.0, 1.0), (10.0, 10.0), (1.0, 50.0)]:
            expected = targets.soft_mellowmax(
                q.double(), avail, alpha, omega, None if chosen is None else chosen.double()
            )
            actual = native_targets.soft_mellowmax(q, avail, alpha, omega, chosen)
            torch.testing.assert_close(actual.double(), expected, atol=2e-6 * (1.0 + scale), rtol=1e-5)
    one = torch.tensor([[5.0, float("inf"), -3.0]])
    assert native_targets.soft_mellowmax(one, torch.tensor([[True, False, False]]), 10.0, 10.0).tolist() == [5.0]


def test_td_lambda():
    torch.manual_seed(0)
    length = torch.tensor([7, 3, 5, 1])[:, None]
    last = torch.arange(7) == length - 1
    terminated = last & torch.tensor([[True], [False], [True], [False]])
    reward, value, filled = torch.randn(4, 7), torch.randn(4, 7), torch.arange(7) < length
    for lam in (0.0, 0.6, 1.0):
        expected = targets.td_lambda(reward.double(), value.double(), terminated, last, 0.99, lam)
        actual = native_targets.td_lambda(reward, value[filled], terminated, filled, 0.99, lam)
        torch.testing.assert_close(actual.double(), expected[filled], atol=1e-6, rtol=1e-5)
        of_each = native_targets.td_lambda(reward, value[filled], terminated, filled, 0.99, torch.full((4,), lam))
        assert torch.equal(of_each, actual)


def test_td_lambda_of_seeds_with_lambdas_of_their_own():
    torch.manual_seed(0)
    filled, terminated = torch.arange(5) < torch.tensor([5, 2, 3, 4])[:, None], torch.zeros(4, 5, dtype=torch.bool)
    reward, value = torch.randn(4, 5), torch.randn(int(filled.sum()))
    lams = torch.tensor([0.0, 0.0, 0.6, 0.6])
    mixed = native_targets.td_lambda(reward, value, terminated, filled, 0.99, lams)
    of_one, of_two = (native_targets.td_lambda(reward, value, terminated, filled, 0.99, lam) for lam in (0.0, 0.6))
    first = int(filled[:2].sum())
    assert torch.equal(mixed, torch.cat([of_one[:first], of_two[first:]])) and not torch.equal(of_one, of_two)
    with pytest.raises(ValueError, match=r"lam is float32 \[3\], expected float32 \[4\]"):
        native_targets.td_lambda(reward, value, terminated, filled, 0.99, lams[1:])
