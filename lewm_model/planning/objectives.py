# SPDX-License-Identifier: Apache-2.0
"""What a plan should achieve, as a cost on imagined rollouts."""

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
    """The model's rollouts of S candidates, from the newest frame on over H action blocks."""

    actions: np.ndarray  # (S, H * frameskip, C) low-level actions, rad/s, or m/s of the tip
    distances: np.ndarray  # (S, H + 1) to the goal, in the head's unit; column 0 is the newest frame
    latents: np.ndarray  # (S, H, D)


class Objective(Protocol):
    """Costs (S,) of rollouts; the least is the best."""

    def __call__(self, imagined: Imagined) -> np.ndarray: ...


@dataclass(frozen=True)
class Approach:
    """Near the goal soon and at the end, without motion that gains less than its effort."""

    effort: float  # cost of moving a joint for one control step at full speed
    full_speed: np.ndarray  # (C,) rad/s, or m/s of the tip

    def __call__(self, imagined: Imagined) -> np.ndarray:
        costs = mean_and_final(imagined.distances)
        if self.effort > 0.0:
            costs = costs + self.effort * (np.abs(imagined.actions) / self.full_speed).sum((1, 2))
        return costs


class Arrival:
    """Near the goal at the end of the horizon only: to push an object the arm may first have to move away from it."""

    def __call__(self, imagined: Imagined) -> np.ndarray:
        return final(imagined.distances)


def objective_of(heads: Collection[str], config: PlanConfig, full_speed: np.ndarray) -> Objective:
    """The objective for a bundle with these heads, by name. `full_speed` (C,) is in rad/s, or m/s of the tip."""
    if POLICY in heads:
        return Arrival()
    # Effort is in control steps and can only be compared with distances in the same unit.
    return Approach(config.effort if measuring(heads) == DISPLACEMENT else 0.0, full_speed)
