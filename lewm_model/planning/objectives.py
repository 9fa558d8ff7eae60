# SPDX-License-Identifier: Apache-2.0
"""What a plan should achieve, as a cost of what is imagined."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lewm_model.config import PlanConfig
from lewm_model.models.objective import final, mean_and_final
from lewm_model.models.signature import DISPLACEMENT, POLICY, measuring


@dataclass(frozen=True)
class Imagined:
    """What the model imagines S candidates to lead to, from the newest frame on over H action blocks."""

    actions: np.ndarray  # (S, H * frameskip, A) low-level actions, rad/s
    distances: np.ndarray  # (S, H + 1) to the goal, column 0 that of the newest frame
    latents: np.ndarray  # (S, H, D)


class Objective(Protocol):
    """Costs (S,) of what is imagined; the least is the best."""

    def __call__(self, imagined: Imagined) -> np.ndarray: ...


@dataclass(frozen=True)
class Approach:
    """Near the goal soon and at the end, and no motion that is not worth its effort."""

    effort: float  # cost of moving a joint for one control step at full speed
    full_speed: np.ndarray  # (A,) rad/s

    def __call__(self, imagined: Imagined) -> np.ndarray:
        costs = mean_and_final(imagined.distances)
        if self.effort > 0.0:
            costs = costs + self.effort * (np.abs(imagined.actions) / self.full_speed).sum((1, 2))
        return costs


class Arrival:
    """Near the goal at the end of the horizon, whatever the way: an object may have to be left before it is moved."""

    def __call__(self, imagined: Imagined) -> np.ndarray:
        return final(imagined.distances)


def objective_of(heads: Collection[str], config: PlanConfig, full_speed: np.ndarray) -> Objective:
    """The objective that fits what a bundle's heads (names) measure and propose. `full_speed` is (A,) rad/s."""
    if POLICY in heads:
        return Arrival()
    # Effort is told in control steps; where no head measures in those, nothing is known to compare it with.
    return Approach(config.effort if measuring(heads) == DISPLACEMENT else 0.0, full_speed)
