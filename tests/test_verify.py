"""The rule by which an export passes, at its edges, whatever its weights and its format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mast_export.errors import ExportError
from mast_export.verify import AGREEMENT_LIMIT, ERROR_LIMIT, LEAST_NOISE, REGRET_LIMIT, Parity, Trace, compare
from mast_runtime.format import VALUE_DTYPES

GOOD = Parity(
    max_q_error=1e-6, max_hidden_error=1e-6, max_regret=0.0, mean_regret=0.0, actions_equal=1000, choices=1000,
    n_steps=100, n_agents=10, noise=LEAST_NOISE, dtype="f32",
)  # fmt: skip
LIMIT = ERROR_LIMIT * LEAST_NOISE
NEXT = np.nextafter


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
@pytest.mark.parametrize(
    ("at", "beyond"),
    [
        ({"max_q_error": LIMIT}, {"max_q_error": NEXT(LIMIT, 1.0)}),
        ({"max_hidden_error": LIMIT}, {"max_hidden_error": NEXT(LIMIT, 1.0)}),
        ({"max_hidden_error": 2.0, "noise": 0.125}, {"max_hidden_error": 2.01, "noise": 0.125}),
        ({"max_regret": 2e-6}, {"max_regret": 2e-5}),
        ({"actions_equal": 900}, {"actions_equal": 899}),
        ({"actions_equal": 950, "choices": 500}, {"actions_equal": 949, "choices": 500}),
        ({"actions_equal": 1000, "choices": 0}, {"actions_equal": 999, "choices": 0}),
        ({"mean_regret": REGRET_LIMIT}, {"mean_regret": NEXT(REGRET_LIMIT, 1.0)}),
    ],
)
def test_every_limit_from_both_sides(dtype, at, beyond):
    assert replace(GOOD, dtype=dtype, **at).passed
    assert not replace(GOOD, dtype=dtype, **beyond).passed


@pytest.mark.parametrize("name", ["max_q_error", "max_hidden_error", "max_regret", "mean_regret"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_never_passes(name, value):
    assert not replace(GOOD, noise=np.inf, **{name: value}).passed


@pytest.mark.parametrize(
    ("failing", "dtype", "words"),
    [
        ({"max_hidden_error": 1.0}, "f32", "report it"),
        ({"max_hidden_error": 1.0}, "i8", "report it"),
        ({"max_regret": 1.0}, "f32", "report it"),
        ({"actions_equal": 500}, "f32", "env.normalise=running"),
        ({"mean_regret": 0.2}, "i8", "use --dtype f16 or f32"),
        ({"mean_regret": 0.2}, "f16", "use --dtype f32"),
    ],
)
def test_a_refusal_says_what_to_do(failing, dtype, words):
    with pytest.raises(ExportError, match=words) as caught:
        replace(GOOD, dtype=dtype, **failing).require("policy.mast")
    assert str(caught.value).startswith("policy.mast differs from the trained network over 100 steps: q by ")
    assert "\n" not in str(caught.value)


def trace_of(q, avail=None, **noise):
    """One agent's trace of values [T][A], with hidden states of one unit that are 0."""
    q = np.array(q, np.float32)[:, None]
    avail = np.ones(q.shape, bool) if avail is None else np.array(avail, bool)[:, None]
    noise = {dtype: np.array([value]) for dtype, value in noise.items()}
    return Trace(np.zeros((len(q), 1, 1), np.float32), avail, q, np.zeros((len(q), 1, 1), np.float32), noise=noise)


def judged(trace, q, actions=None, dtype="f32"):
    q = np.array(q, np.float32)[:, None]
    actions = np.where(trace.avail_actions, q, -np.inf).argmax(-1) if actions is None else np.array(actions)[:, None]
    return compare(trace, q, trace.hidden, actions, dtype)


def test_errors_and_regret_by_hand():
    """Spans 4, 2 and none (one action to choose): the second decision gives up 1 of 6."""
    trace = trace_of([[4, 0, 2], [1, 0, 2], [0, 8, 9]], [[1, 1, 1], [1, 1, 1], [1, 0, 0]])
    report = judged(trace, [[4, 0, 2], [2.5, 0, 2], [0, 8, 9]])
    assert (report.choices, report.actions_equal, report.agreement) == (2, 2, 0.5)
    assert report.mean_regret == pytest.approx(1 / 6)
    assert report.max_q_error == pytest.approx(1.5 / 9) and report.max_regret == pytest.approx(1 / 9)


def test_a_wrong_argmax_is_found_however_rare():
    trace = trace_of([[0.5, 0.25]] * 500, i8=0.01)
    actions = [0] * 499 + [1]
    for dtype in VALUE_DTYPES:
        assert judged(trace, trace.q[:, 0], dtype=dtype).passed
        report = judged(trace, trace.q[:, 0], actions, dtype)
        assert report.decides and not report.passed and "report it" in report.advice()


def test_an_action_that_is_not_available_never_passes():
    trace = trace_of([[0.5, 0.25]] * 500, [[1, 0]] * 500, f32=10.0)
    assert judged(trace, trace.q[:, 0]).passed
    assert not judged(trace, trace.q[:, 0], [0] * 499 + [1]).passed


@given(st.floats(1e-9, 1e3), st.floats(0.0, 1e3), st.sampled_from(list(VALUE_DTYPES)), st.integers(1, 400))
def test_errors_count_in_units_of_the_noise(noise, error, dtype, differing):
    """Ten times the noise and ten times the error: the same answer, above the least noise."""
    noise = max(noise, LEAST_NOISE)
    for factor in (1.0, 8.0):
        report = replace(
            GOOD, noise=noise * factor, max_hidden_error=error * factor, actions_equal=1000 - differing, dtype=dtype
        )
        assert report.computes == (error <= ERROR_LIMIT * noise)
        assert report.passed == (report.computes and differing <= round(1000 * (1 - AGREEMENT_LIMIT)))


def test_the_noise_is_that_of_the_agents_that_are_compared():
    trace = replace(trace_of([[1, 0]] * 3), noise={"f32": np.array([1e-3])})
    team = Trace(*(np.repeat(x, 2, 1) for x in (trace.obs, trace.avail_actions, trace.q, trace.hidden)),
                 noise={"f32": np.array([1e-3, 1e-7]), "i8": np.array([0.5, np.nan])})  # fmt: skip
    assert team.noise_of("f32") == team.agent(0).noise_of("f32") == 1e-3
    assert team.agent(1).noise_of("f32") == team.agent(1).noise_of("i8") == LEAST_NOISE
    assert team.noise_of("f16") == LEAST_NOISE and team.first(2).noise_of("f32") == 1e-3
