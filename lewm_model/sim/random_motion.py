# SPDX-License-Identifier: Apache-2.0
"""Random motion within an arm's limits, on which world models are trained; it is also a baseline of every task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.planning.random_motion import BLOCK_STEPS, random_velocities
from lewm_model.sim.arm import ArmSim


@dataclass(frozen=True)
class RandomMotion:
    """Random motion as a :class:`lewm_model.sim.collect.Motion`, without expert and goal: the arm wanders, crosses its
    joint space, moves a single joint, and rests.

    :param few: share of the episodes in which only one or two joints move. Only these joints tell the pictures of such
        an episode apart, so the latent must encode them even if they move few pixels.
    """

    kind: str = "random motion"
    policy: Path | None = None
    arguments: tuple[str, ...] = ()
    few: float = 0.0

    def __call__(
        self, sim: ArmSim, rng: np.random.Generator, steps: int, look: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        sim.reset(seed=int(rng.integers(2**32)))
        dt, moving = sim.control_dt_s, None
        if self.few and rng.random() < self.few:
            moving = rng.choice(len(sim.names), min(len(sim.names), int(rng.integers(1, 3))), replace=False)
        motion = random_motion(rng, sim.joint_positions().copy(), steps, sim, moving).sample(dt * np.arange(steps + 1))
        sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
        look()
        for _ in range(steps):
            sim.step(dt)
            look()
        return np.diff(motion.positions, axis=0) / dt


RANDOM = RandomMotion()


def random_motion(
    rng: np.random.Generator, start: np.ndarray, steps: int, sim: ArmSim, moving: np.ndarray | None = None
) -> Timeline:
    """A random motion of `steps` control steps, from rest at `start` (A,) rad, in which the arm touches nothing.

    :param moving: numbers of the joints that move; None moves all.
    """
    limits = KnotLimits(sim.limits, BLOCK_STEPS * sim.control_dt_s)
    if moving is not None:
        moves = np.isin(np.arange(len(start)), moving)
        limits = limits.between(np.where(moves, limits.lower, start), np.where(moves, limits.upper, start))
    motion = Timeline(0.0, start, limits)
    blocks = math.ceil(steps / BLOCK_STEPS)
    motion.splice(0, random_velocities(rng, start, blocks, limits, lambda poses: not sim.touches(poses)))
    return motion
