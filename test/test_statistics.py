# SPDX-License-Identifier: Apache-2.0
"""Intervals and tests of the evaluation, compared with values from their definitions and from published tables."""

import math

import pytest

from lewm_model.evaluation.statistics import Pair, Rate, poisson_upper


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(95, 100, 88.8, 97.8), (0, 100, 0.0, 3.7), (100, 100, 96.3, 100.0)]
)
def test_intervals_of_rates_are_wilson_s(successes, trials, low, high):
    assert Rate(successes, trials).interval == pytest.approx((low, high), abs=0.05)


@pytest.mark.parametrize("trials", [1, 24, 200])
def test_intervals_of_rates_agree_with_wilson_s_formula(trials):
    z = 1.959964
    for successes in range(trials + 1):
        p, scale = successes / trials, 1 + z * z / trials
        middle = (p + z * z / (2 * trials)) / scale
        half = z / scale * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
        low, high = Rate(successes, trials).interval
        assert (low, high) == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=1e-4)


def test_two_planners_are_compared_by_the_tasks_that_only_one_of_them_held():
    assert Pair("a", "b", 5, 1, 10).p_value == pytest.approx(2 * (1 + 6) / 64)  # binomial, 6 tasks that differ
    assert Pair("a", "b", 0, 0, 200).p_value == Pair("a", "b", 3, 3, 200).p_value == 1.0
    assert Pair("a", "b", 40, 20, 200).p_value == Pair("a", "b", 20, 40, 200).p_value
    value, low, high = Pair("a", "b", 40, 20, 200).difference
    assert value == pytest.approx(10.0)
    assert (low, high) == pytest.approx((2.5, 17.3), abs=0.3)  # Bonett and Price's adjusted Wald interval


@pytest.mark.parametrize(("count", "limit"), [(0, 2.996), (1, 4.744), (10, 16.962), (100, 118.08)])
def test_so_few_events_have_a_probability_of_five_percent_at_the_upper_limit(count, limit):
    assert poisson_upper(count) == pytest.approx(limit, abs=0.01)
    terms = [count_ * math.log(limit) - math.lgamma(count_ + 1) - limit for count_ in range(count + 1)]
    assert sum(math.exp(term) for term in terms) == pytest.approx(0.05, abs=2e-4)
