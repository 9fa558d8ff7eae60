"""The planner of the LeWM paper as its authors' code has it: the cross-entropy method over action blocks.

What ours is measured against, and faster only by its rollout: the same noise gives the same elites and the same mean as
the CEMSolver of stable-worldmodel 0.1.1. The robot plans with `samplers.search` instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SAMPLES, ELITES, ITERATIONS, HORIZON = 300, 30, 30, 5  # of the paper; each plan is executed to its end


def plan_blocks(
    cost: Callable[[np.ndarray], np.ndarray],
    noise: Callable[[], np.ndarray],
    elites: int = ELITES,
    iterations: int = ITERATIONS,
) -> np.ndarray:
    """Minimises `cost` (S, H, E) -> (S,) over z-scored action blocks; returns the mean (H, E) of the last elites.

    `noise` draws standard normal numbers (S, H, E) float32 for an iteration. The search starts from mean 0 and standard
    deviation 1, the first candidate is the mean, the elites' standard deviation (with n - 1) scales the next noise, and
    nothing is clipped.
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


def terminal_cost(latents: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Squared distance of imagined latents (S, H, D) from the goal (D,) at the end of the horizon -> (S,)."""
    return np.square(latents[:, -1] - goal).sum(-1)
