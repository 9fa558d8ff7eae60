# SPDX-License-Identifier: Apache-2.0
"""Minimise a cost over candidates: shooting, the cross-entropy method, iCEM, MPPI, and the search of the LeWM paper.

Candidates are (S, K, C): K parts of a plan with C numbers each, of about unit size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.config import PlanConfig

KEPT_ELITES = 0.3  # share of the elites that iCEM (arXiv 2008.06389) evaluates again in the next iteration
SHRINK = 1.25  # factor by which iCEM's population shrinks in each iteration
TEMPERATURE = 0.1  # of MPPI, in standard deviations of an iteration's costs, which makes it independent of their unit
SAMPLES, ELITES, ITERATIONS, HORIZON = 300, 30, 30, 5  # of the LeWM paper's search, which executes each plan to its end

Project = Callable[[np.ndarray], np.ndarray]  # candidates (S, K, C) -> feasible ones
Cost = Callable[[np.ndarray], np.ndarray]  # candidates (S, K, C) -> costs (S,)


@dataclass(frozen=True)
class Solution:
    """Outcome of a search."""

    best: np.ndarray  # (K, C) the candidate to execute
    cost: float  # of it; infinite where no candidate had a finite cost
    iterations: int  # that were run
    elites: np.ndarray  # (E, K, C) of the last iteration, the best first
    costs: np.ndarray  # (iterations,) of the best candidate of each


def coloured_noise(rng: np.random.Generator, shape: tuple[int, int, int], colour: float) -> np.ndarray:
    """Gaussian noise (S, K, C) of unit variance whose power falls with frequency^colour along K, as in iCEM."""
    if colour == 0.0 or shape[1] == 1:
        return rng.standard_normal(shape)
    samples, length, joints = shape
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1]
    scale = (frequency ** (-colour / 2))[None, :, None]
    spectrum = rng.standard_normal((samples, len(frequency), joints)) + 1j * rng.standard_normal(
        (samples, len(frequency), joints)
    )
    spectrum[:, 0].imag = 0
    spectrum[:, 0] *= np.sqrt(2)
    if length % 2 == 0:
        spectrum[:, -1].imag = 0
        spectrum[:, -1] *= np.sqrt(2)
    noise = np.fft.irfft(spectrum * scale, n=length, axis=1)
    weights = np.full(len(frequency), 4.0)  # contribution of each frequency to the variance, times length^2
    weights[0] = 2.0
    if length % 2 == 0:
        weights[-1] = 2.0
    return noise * (length / np.sqrt((weights * scale[0, :, 0] ** 2).sum()))


def shoot(config: PlanConfig, guesses: np.ndarray, factors: np.ndarray, feasible: Project, cost: Cost) -> Solution:
    """The best of `guesses` (N, K, C), made feasible, with `factors` (N,) on their costs. Has no deadline."""
    candidates = feasible(guesses)
    costs = _finite(cost(candidates)) * factors
    order = np.argsort(costs)[: config.elites]
    best = costs[order[:1]]
    return Solution(candidates[order[0]], float(best[0]), 1, candidates[order], best)


def search(
    config: PlanConfig,
    guesses: np.ndarray,
    initial_std: float,
    feasible: Project,
    cost: Cost,
    rng: np.random.Generator,
    deadline_s: float,
    enough: float = -np.inf,
) -> Solution:
    """Minimises `cost` over feasible candidates, sampled at first around the first of `guesses` (N, K, C) with standard
    deviation `initial_std`.

    The first iteration evaluates the other guesses as well. At least one iteration runs, and none starts later than
    `deadline_s` seconds after the call, so that a search may take longer by one iteration.

    :param enough: cost that is good enough: the search ends with a candidate that costs no more. Where it is finite,
        the first iteration evaluates the guesses alone.
    """
    begin = time.monotonic()
    mean, std = guesses[0], np.full_like(guesses[0], initial_std)
    kept = guesses[1:]
    best, best_cost = mean, np.inf
    elites, found = mean[None], list[float]()
    while len(found) < config.iterations:
        if found and time.monotonic() - begin >= deadline_s:
            break
        # Sample.
        verifies = not found and np.isfinite(enough)
        if verifies:
            candidates = guesses
        else:
            if config.sampler == "icem":
                count = max(2 * config.elites, int(config.samples * SHRINK ** -len(found)))
                noise = coloured_noise(rng, (count, *mean.shape), config.noise_colour)
            else:
                count = config.samples
                noise = rng.standard_normal((count, *mean.shape))
            candidates = mean + std * noise
            candidates[0] = mean
            if len(kept):
                candidates[1 : 1 + len(kept)] = kept[: count - 1]
        candidates = feasible(candidates)
        # Evaluate.
        costs = _finite(cost(candidates))
        # Keep the elites.
        order = np.argsort(costs)[: config.elites]
        elites = candidates[order]
        found.append(float(costs[order[0]]))
        if found[-1] < best_cost:
            best, best_cost = elites[0], found[-1]
        if not np.isfinite(found[-1]):
            break  # there is nothing to refit to
        if best_cost <= enough:
            return Solution(best, best_cost, len(found), elites, np.array(found))
        if verifies:
            continue  # the guesses are of different kinds: their mean makes no sense
        # Refit.
        if config.sampler == "mppi":
            spread = costs[np.isfinite(costs)].std()
            shares = np.exp((found[-1] - costs) / (TEMPERATURE * spread + 1e-12))
            mean = np.einsum("s,ska->ka", shares / shares.sum(), candidates)
        else:
            mean, std = elites.mean(0), elites.std(0)
        kept = elites[: max(1, int(KEPT_ELITES * config.elites))] if config.sampler == "icem" else guesses[:0]
    if config.sampler != "icem" and np.isfinite(found[-1]):  # CEM and MPPI return their mean
        final = feasible(mean[None])
        best, best_cost = final[0], float(_finite(cost(final))[0])
    return Solution(best, best_cost, len(found), elites, np.array(found))


def _finite(costs: np.ndarray) -> np.ndarray:
    """The costs, with infinity for NaN, which would win every comparison."""
    return np.where(np.isfinite(costs), costs, np.inf)


def reference_cem(
    cost: Cost, noise: Callable[[], np.ndarray], elites: int = ELITES, iterations: int = ITERATIONS
) -> np.ndarray:
    """The search of the LeWM paper as its authors' code has it, over z-scored action blocks: the mean (H, E) of the
    last elites.

    With the same noise it has the same elites and mean as the CEMSolver of stable-worldmodel 0.1.1; `search` is
    compared with it. `noise` draws standard normal numbers (S, H, E) float32 for an iteration. It starts from mean 0
    and standard deviation 1, the first candidate is the mean, the elites' standard deviation (with n - 1) scales the
    next noise, and nothing is clipped.
    """
    mean: np.ndarray = np.zeros(1, np.float32)
    std: np.ndarray = np.ones(1, np.float32)
    for _ in range(iterations):
        candidates = noise() * std + mean
        candidates[0] = mean
        costs = cost(candidates)
        best = candidates[np.argpartition(costs, elites - 1)[:elites]]
        mean, std = best.mean(0), best.std(0, ddof=1)
    return mean
