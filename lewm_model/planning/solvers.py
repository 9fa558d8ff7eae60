"""Cross-entropy method, iCEM and MPPI over velocity knots. Knots are (S, K, A), in z-scores of the recorded actions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lewm_model.config import PlanConfig

KEPT_ELITES = 0.3  # share of the elites that iCEM evaluates again in the next iteration
TEMPERATURE = 0.1  # of MPPI, in standard deviations of an iteration's costs
SHRINK = 1.25  # iCEM's population shrinks by this factor each iteration


@dataclass(frozen=True)
class Search:
    """Outcome of a search: the knots to execute (K, A), their cost, and how far the search came."""

    knots: np.ndarray
    cost: float
    iterations: int
    elites: np.ndarray  # (E, K, A) of the last iteration, the best first
    costs: np.ndarray  # (iterations,) of the best candidate of each


def coloured_noise(rng: np.random.Generator, shape: tuple[int, int, int], colour: float) -> np.ndarray:
    """Gaussian noise (S, K, A) whose power falls with frequency^colour along K, unit variance (as in iCEM)."""
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
    weights = np.full(len(frequency), 4.0)  # variance that each frequency adds to the real signal, times length^2
    weights[0] = 2.0
    if length % 2 == 0:
        weights[-1] = 2.0
    return noise * (length / np.sqrt((weights * scale[0, :, 0] ** 2).sum()))


def search(
    config: PlanConfig,
    start: np.ndarray,
    initial_std: float,
    extra: np.ndarray,
    feasible: Callable[[np.ndarray], np.ndarray],
    cost: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    deadline_s: float,
) -> Search:
    """Minimises `cost` (S, K, A) -> (S,) over feasible knots, from the mean `start` (K, A) and `initial_std`.

    `extra` (N, K, A) are guesses that the first iteration tries beside its samples (rest, the last plan). At least
    one iteration runs; none begins once `deadline_s` seconds have passed since the call, so that a search takes an
    iteration more than that at most.
    """
    begin = time.monotonic()
    mean, std = start, np.full_like(start, initial_std)
    kept = extra
    best, best_cost, done = start, np.inf, 0
    elites, found = start[None], []
    for iteration in range(config.iterations):
        if done and time.monotonic() - begin >= deadline_s:
            break
        if config.sampler == "icem":
            count = max(2 * config.elites, int(config.samples * SHRINK**-iteration))
            noise = coloured_noise(rng, (count, *start.shape), config.noise_colour)
        else:
            count = config.samples
            noise = rng.standard_normal((count, *start.shape))
        candidates = mean + std * noise
        candidates[0] = mean
        if len(kept):
            candidates[1 : 1 + len(kept)] = kept[: count - 1]
        candidates = feasible(candidates)
        costs = cost(candidates)
        order = np.argsort(costs)[: config.elites]
        elites = candidates[order]
        if config.sampler == "mppi":
            shares = np.exp((costs[order[0]] - costs) / (TEMPERATURE * costs.std() + 1e-12))
            mean = np.einsum("s,ska->ka", shares / shares.sum(), candidates)
        else:
            mean, std = elites.mean(0), elites.std(0)
        kept = elites[: max(1, int(KEPT_ELITES * config.elites))] if config.sampler == "icem" else extra[:0]
        if costs[order[0]] < best_cost:
            best, best_cost = elites[0], float(costs[order[0]])
        found.append(float(costs[order[0]]))
        done += 1
    if config.sampler != "icem":
        final = feasible(mean[None])
        return Search(final[0], float(cost(final)[0]), done, elites, np.array(found))
    return Search(best, best_cost, done, elites, np.array(found))
