"""Random motion that keeps an arm's limits: what world models are trained on, and a baseline of every task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm_model.planning.motion import KnotLimits, Timeline, travelled
from lewm_model.sim.arm import ArmSim

BLOCK_STEPS = 5  # control steps in one action block
TRIES = 10  # to find a motion that is clear, before the arm stops
CHECKS = 4  # poses looked at in an action block
_MEMORY = 0.7  # correlation of a wandering joint's velocity from block to block, before it is made uniform
# What the arm does for a while: probability, and how many blocks.
_PHASES = {
    "wander": (0.30, (4, 10)),
    "stroke": (0.20, (4, 12)),
    "single": (0.15, (3, 8)),
    "hold": (0.35, (2, 5)),
}


@dataclass(frozen=True)
class RandomMotion:
    """What moves an arm that is to learn from nothing; a motion of :class:`lewm_model.sim.collect.Motion`.

    No expert and no goal: the arm wanders, strokes across its joint space, moves one joint alone and rests.
    """

    kind: str = "random motion"
    policy: Path | None = None
    arguments: tuple[str, ...] = ()

    def __call__(
        self, sim: ArmSim, rng: np.random.Generator, steps: int, look: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        sim.reset(seed=int(rng.integers(2**32)))
        dt = sim.control_dt_s
        motion = random_motion(rng, sim.joint_positions().copy(), steps, sim).sample(dt * np.arange(steps + 1))
        sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
        look()
        for _ in range(steps):
            sim.step(dt)
            look()
        return np.diff(motion.positions, axis=0) / dt


RANDOM = RandomMotion()


def random_motion(rng: np.random.Generator, start: np.ndarray, steps: int, sim: ArmSim) -> Timeline:
    """The motion of the recordings, from rest at `start` (A,) rad, for `steps` control steps; it touches nothing."""
    limits = KnotLimits(sim.limits, BLOCK_STEPS * sim.control_dt_s)
    motion = Timeline(0.0, start, limits)
    blocks = math.ceil(steps / BLOCK_STEPS)
    motion.splice(0, random_velocities(rng, start, blocks, limits, lambda poses: not sim.touches(poses)))
    return motion


def random_velocities(
    rng: np.random.Generator,
    start: np.ndarray,
    blocks: int,
    limits: KnotLimits,
    clear: Callable[[np.ndarray], bool] | None = None,
) -> np.ndarray:
    """Velocity knots of a random motion that keeps all limits, (blocks, A) rad/s, from rest at `start` (A,) rad.

    Speeds are spread evenly over their range: a Gaussian process goes through its own distribution function. With
    `clear`, which says of poses (N, A) rad whether the arm touches nothing in any of them, no motion is taken that
    could not be stopped before it touches something; the start must be clear.
    """
    joints = len(start)
    names = list(_PHASES)
    weights = [_PHASES[name][0] for name in names]
    position, velocity = start, np.zeros(joints)
    latent = rng.standard_normal(joints)
    knots = np.empty((blocks, joints))
    phase, left, alone = "", 0, 0
    for k in range(blocks):
        if left == 0:
            phase = names[rng.choice(len(names), p=weights)]
            left = int(rng.integers(*_PHASES[phase][1], endpoint=True))
            alone = int(rng.integers(joints))
            latent = rng.standard_normal(joints)
        left -= 1
        if phase in ("wander", "single"):
            latent = _MEMORY * latent + math.sqrt(1.0 - _MEMORY**2) * rng.standard_normal(joints)
        uniform = np.array([math.erf(value / math.sqrt(2.0)) for value in latent])  # in (-1, 1)
        wanted = np.zeros(joints) if phase == "hold" else uniform * limits.velocity
        if phase == "single":
            wanted[np.arange(joints) != alone] = 0.0
        knots[k] = limits.project(position, velocity, wanted[None, None])[0, 0]
        if clear is not None:
            tries = 0
            while not clear(_with_stop(position, velocity, knots[k], limits)):
                tries += 1
                if tries > TRIES:  # the stop that was found clear with the knot before
                    knots[k] = limits.stop_knots(velocity)[0]
                    break
                latent = rng.standard_normal(joints)
                wanted = np.array([math.erf(value / math.sqrt(2.0)) for value in latent]) * limits.velocity
                knots[k] = limits.project(position, velocity, wanted[None, None])[0, 0]
        # What a limit slowed down turns round instead of waiting there.
        slowed = np.abs(knots[k]) < np.abs(wanted) - 0.25 * limits.velocity
        latent = np.where(slowed & (np.abs(velocity) < 0.5 * limits.velocity), -latent, latent)
        position = position + 0.5 * limits.block_s * (velocity + knots[k])
        velocity = knots[k]
    return knots


def _with_stop(position: np.ndarray, velocity: np.ndarray, knot: np.ndarray, limits: KnotLimits) -> np.ndarray:
    """Poses (N, A) rad on the way to a knot and through the stop after it, CHECKS a block."""
    poses, after = [], (knot, *limits.stop_knots(knot))
    u = np.linspace(0.0, 1.0, CHECKS + 1)[1:, None]
    for end in after:
        poses.append(position + travelled(u, velocity, end, limits.block_s))
        position, velocity = poses[-1][-1], end
    return np.concatenate(poses)
