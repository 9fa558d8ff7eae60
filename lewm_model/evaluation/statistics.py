# SPDX-License-Identifier: Apache-2.0
"""Shares of successes and comparisons of two planners, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from lewm_model.tasks.task import Outcome


@dataclass(frozen=True)
class Rate:
    """A share of successes with its Wilson interval."""

    successes: int
    trials: int

    @property
    def percent(self) -> float:
        return 100.0 * self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval, percent. Computed here, since a robot that shows rates may not have SciPy."""
        z, share = NormalDist().inv_cdf(0.975), self.successes / self.trials
        scale = 1 + z * z / self.trials
        middle = (share + z * z / (2 * self.trials)) / scale
        half = z / scale * math.sqrt(share * (1 - share) / self.trials + z * z / (4 * self.trials**2))
        return 100.0 * max(0.0, middle - half), 100.0 * min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f} % ({low:.0f} to {high:.0f})"


def held(outcomes: Sequence[Outcome]) -> Rate:
    """Share of tasks whose goal was held."""
    return Rate(sum(outcome.held for outcome in outcomes), len(outcomes))


def first_hit(outcomes: Sequence[Outcome]) -> Rate:
    """Share of tasks that were within the tolerance at any time."""
    return Rate(sum(outcome.first_hit for outcome in outcomes), len(outcomes))


@dataclass(frozen=True)
class Pair:
    """How many of the same tasks each of two planners held."""

    first: str
    second: str
    only_first: int  # tasks that only the first held
    only_second: int
    tasks: int

    @property
    def p_value(self) -> float:
        """Two-sided p-value of McNemar's exact test of the hypothesis that the two are equally good."""
        from scipy.stats import binomtest

        differ = self.only_first + self.only_second
        return float(binomtest(self.only_first, differ).pvalue) if differ else 1.0

    @property
    def difference(self) -> tuple[float, float, float]:
        """Percentage points that the first holds more, and its 95 % interval (adjusted Wald; Bonett and Price 2012)."""
        total = self.tasks + 2
        more, less = (self.only_first + 1) / total, (self.only_second + 1) / total
        half = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / total)
        plain = (self.only_first - self.only_second) / self.tasks
        return 100 * plain, 100 * max(-1.0, more - less - half), 100 * min(1.0, more - less + half)

    def __str__(self) -> str:
        value, low, high = self.difference
        return (
            f"{self.first} holds {value:+.1f} points ({low:+.1f} to {high:+.1f}) more than {self.second}: "
            f"{self.only_first} tasks only {self.first}, {self.only_second} only {self.second}, McNemar p "
            f"{self.p_value:.3g}"
        )


def compare(first: str, second: str, outcomes: Sequence[tuple[Outcome, Outcome]]) -> Pair:
    """Compares what two planners held in the same tasks; `outcomes` has a pair for each task."""
    return Pair(
        first,
        second,
        sum(a.held and not b.held for a, b in outcomes),
        sum(b.held and not a.held for a, b in outcomes),
        len(outcomes),
    )


def poisson_interval(count: int) -> tuple[float, float]:
    """95 % interval of the mean of a Poisson distribution from which `count` events were observed (Garwood)."""
    from scipy.stats import chi2

    low = float(chi2.ppf(0.025, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(0.975, 2 * count + 2)) / 2


def poisson_upper(count: int) -> float:
    """95 % upper limit of that mean: `count` events or fewer then have a probability of 5 %."""
    from scipy.stats import chi2

    return float(chi2.ppf(0.95, 2 * (count + 1)) / 2)
