# SPDX-License-Identifier: Apache-2.0
"""Costs of imagined distances to a goal, which planning minimises.

They are here and not with the planner because the check of numerical equivalence ranks candidates by them as well.
"""

from __future__ import annotations

import numpy as np


def mean_and_final(distances: np.ndarray) -> np.ndarray:
    """Near the goal soon and at the end: distances (S, H + 1), column 0 that of the newest frame, -> costs (S,)."""
    cost: np.ndarray = distances[:, 1:].mean(1) + distances[:, -1]
    return cost


def final(distances: np.ndarray) -> np.ndarray:
    """Near the goal at the end of the horizon, as in the paper: distances (S, H + 1) or (S, H) -> costs (S,)."""
    return distances[:, -1]


def squared_latent_distance(latents: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The paper's distance of latents (…, D) from a goal (D,) -> (…)."""
    distance: np.ndarray = np.square(latents - goal).sum(-1)
    return distance
