# SPDX-License-Identifier: Apache-2.0
"""Random motion that keeps an arm's limits: for training data of world models, and as a baseline in every task."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lewm_model.config import ModelConfig
from lewm_model.planning.motion import KnotLimits, travelled

BLOCK_STEPS = ModelConfig.frameskip  # control steps from knot to knot in simulation, as in the default action blocks
TRIES = 10  # random motions tried until one is collision-free; then the arm stops
CHECKS = 4  # poses per block that are checked for collisions
_MEMORY = 0.7  # correlation from block to block of the Gaussian behind a wandering joint's velocity
# Phases of motion: probability, and least and greatest duration in blocks.
_PHASES = {
    "wander": (0.30, (4, 10)),
    "stroke": (0.20, (4, 12)),
    "single": (0.15, (3, 8)),
    "hold": (0.35, (2, 5)),
}


class RandomKnots:
    """Velocity knots of a random motion, one after the other.

    Velocities are uniformly distributed over their range: a Gaussian process, mapped by its distribution function. With
    `clear`, which tells whether the arm is free of collisions in all of the poses (N, A) rad, every motion can be
    stopped before a collision; the start must be free of them.
    """

    def __init__(
        self, rng: np.random.Generator, joints: int, clear: Callable[[np.ndarray], bool] | None = None
    ) -> None:
        self._rng, self._joints, self._clear = rng, joints, clear
        self._latent = rng.standard_normal(joints)
        self._phase, self._left, self._alone = "", 0, 0

    def knot(self, position: np.ndarray, velocity: np.ndarray, limits: KnotLimits) -> np.ndarray:
        """The knot (A,) rad/s after the one at `position` (A,) rad and `velocity` (A,) rad/s."""
        rng = self._rng
        if self._left == 0:
            names = list(_PHASES)
            self._phase = names[rng.choice(len(names), p=[_PHASES[name][0] for name in names])]
            self._left = int(rng.integers(*_PHASES[self._phase][1], endpoint=True))
            self._alone = int(rng.integers(self._joints))
            self._latent = rng.standard_normal(self._joints)
        self._left -= 1
        if self._phase in ("wander", "single"):
            fresh = rng.standard_normal(self._joints)
            self._latent = _MEMORY * self._latent + math.sqrt(1.0 - _MEMORY**2) * fresh
        wanted = self._speeds(limits)
        if self._phase == "hold":
            wanted = np.zeros(self._joints)
        if self._phase == "single":
            wanted[np.arange(self._joints) != self._alone] = 0.0
        knot = limits.project(position, velocity, wanted[None, None])[0, 0]
        tries = 0
        while not self.is_clear(position, velocity, knot, limits):
            tries += 1
            if tries > TRIES:  # the stop that was checked together with the previous knot
                knot = limits.stop_knots(velocity)[0]
                break
            self._latent = rng.standard_normal(self._joints)
            wanted = self._speeds(limits)
            knot = limits.project(position, velocity, wanted[None, None])[0, 0]
        # A joint that a limit slowed down turns round instead of staying there.
        slowed = np.abs(knot) < np.abs(wanted) - 0.25 * limits.velocity
        self._latent = np.where(slowed & (np.abs(velocity) < 0.5 * limits.velocity), -self._latent, self._latent)
        return knot

    def knot_towards(
        self, target: np.ndarray, position: np.ndarray, velocity: np.ndarray, limits: KnotLimits
    ) -> np.ndarray:
        """The knot (A,) rad/s on a straight line to rest at `target` (A,) rad, or a random one if that would
        collide.
        """
        knot = knot_towards(target, position, velocity, limits)
        if self.is_clear(position, velocity, knot, limits):
            return knot
        return self.knot(position, velocity, limits)

    def is_clear(self, position: np.ndarray, velocity: np.ndarray, knot: np.ndarray, limits: KnotLimits) -> bool:
        """Whether the arm is free of collisions up to the knot (A,) rad/s and through the stop after it."""
        return self._clear is None or self._clear(_with_stop(position, velocity, knot, limits))

    def _speeds(self, limits: KnotLimits) -> np.ndarray:
        """Velocities (A,) rad/s, uniformly distributed."""
        return np.array([math.erf(value / math.sqrt(2.0)) for value in self._latent]) * limits.velocity


def knot_towards(target: np.ndarray, position: np.ndarray, velocity: np.ndarray, limits: KnotLimits) -> np.ndarray:
    """The next knot (A,) rad/s of a motion to rest at `target` (A,) rad, in a straight line where the limits allow.

    By construction no joint that can still brake before its target passes it, and repeated calls reach the target.
    """
    way = target - position - 0.5 * limits.block_s * velocity
    longest = float(np.max(np.abs(way) / limits.velocity))
    wanted = way / max(longest, limits.block_s)
    ahead = target > position
    to_target = limits.between(np.where(ahead, limits.lower, target), np.where(ahead, target, limits.upper))
    return to_target.project(position, velocity, wanted[None, None])[0, 0]


def random_velocities(
    rng: np.random.Generator,
    start: np.ndarray,
    blocks: int,
    limits: KnotLimits,
    clear: Callable[[np.ndarray], bool] | None = None,
) -> np.ndarray:
    """Velocity knots (blocks, A) rad/s of a random motion from rest at `start` (A,) rad; see `RandomKnots`."""
    motion = RandomKnots(rng, len(start), clear)
    position, velocity = start, np.zeros(len(start))
    knots = np.empty((blocks, len(start)))
    for k in range(blocks):
        knots[k] = motion.knot(position, velocity, limits)
        position = position + 0.5 * limits.block_s * (velocity + knots[k])
        velocity = knots[k]
    return knots


def _with_stop(position: np.ndarray, velocity: np.ndarray, knot: np.ndarray, limits: KnotLimits) -> np.ndarray:
    """Poses (N, A) rad up to a knot and through the stop after it, CHECKS per block."""
    poses, after = [], (knot, *limits.stop_knots(knot))
    u = np.linspace(0.0, 1.0, CHECKS + 1)[1:, None]
    for end in after:
        poses.append(position + travelled(u, velocity, end, limits.block_s))
        position, velocity = poses[-1][-1], end
    return np.concatenate(poses)
