# SPDX-License-Identifier: Apache-2.0
"""The reach tasks: bring the end effector to where a picture shows it, in any world.

- NEAR: two frames 25 control steps apart in a random motion; budget 50 steps.
- ANYWHERE: start and goal uniform in the joint space, 5 % inside the limits; budget 150 steps.

The arm touches nothing at the start nor at the goal. A start that already lies within the tolerance of its goal is
drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lewm_model.sim.arm import ArmSim
from lewm_model.sim.random_motion import random_motion
from lewm_model.sim.world import State
from lewm_model.tasks.task import Outcome, Trial, follow

EPISODE_STEPS = 100  # control steps of the random motion that near goals are cut from
TOLERANCE = 0.025  # share of the workspace diameter, between end effector and goal
INSET = 0.05  # share of each joint's range, left free at either end
DETOURS = (
    100  # random poses that the scripted policy tries to go through if the arm touches something on the straight line
)
CHECKS = 20  # poses on a line in which the arm must touch nothing


@dataclass(frozen=True)
class Reach:
    """A task of :class:`lewm_model.tasks.task.Task`.

    :param goal_steps: control steps from start to goal in one random motion; None draws the two independently.
    :param tolerance_m: of the end effector's position; None is TOLERANCE of the workspace diameter.
    :param angle_rad: tolerance of the tool's direction (the z axis of the tip); None does not require a direction. The
        error is the greater of the distance and the angle, which is scaled so that both tolerances are the same.
    """

    name: str
    budget_steps: int
    goal_steps: int | None
    tolerance_m: float | None = None
    angle_rad: float | None = None
    subject: str = "end effector"
    unit: str = "m"
    objects: tuple[str, ...] = ()
    seed: int = 0x4C65574D

    def tolerance(self, sim: ArmSim) -> float:
        return TOLERANCE * 2 * sim.reach_m if self.tolerance_m is None else self.tolerance_m

    def error(self, state: State, goal: State, sim: ArmSim) -> float:
        distance_m = float(np.linalg.norm(sim.end_effector(state.joints) - sim.end_effector(goal.joints)))
        if self.angle_rad is None:
            return distance_m
        cosine = sim.tool_direction(state.joints) @ sim.tool_direction(goal.joints)
        return max(distance_m, float(np.arccos(np.clip(cosine, -1.0, 1.0))) / self.angle_rad * self.tolerance(sim))

    def draw(self, rng: np.random.Generator, sim: ArmSim) -> tuple[State, State] | None:
        first = _pose(rng, sim)
        if sim.touches(first[None]):
            return None
        poses = (first, _pose(rng, sim)) if self.goal_steps is None else self._of_motion(rng, first, sim)
        if sim.touches(poses[1][None]):
            return None
        start, goal = (State(pose) for pose in poses)
        return (start, goal) if self.error(start, goal, sim) > self.tolerance(sim) else None

    def _of_motion(self, rng: np.random.Generator, first: np.ndarray, sim: ArmSim) -> np.ndarray:
        assert self.goal_steps is not None
        motion = random_motion(rng, first, EPISODE_STEPS, sim)
        begin = int(rng.integers(EPISODE_STEPS - self.goal_steps + 1))
        positions = motion.sample(sim.control_dt_s * np.array([begin, begin + self.goal_steps])).positions
        return np.clip(positions, sim.limits.lower, sim.limits.upper)  # rounding

    def scripted(self, trial: Trial, sim: ArmSim, rng: np.random.Generator) -> Outcome:
        """Moves at full speed to the goal's joint positions, on a straight line in joint space, or on two lines if the
        arm would touch something on one.
        """
        start, goal = trial.start.joints, trial.goal.joints
        ways = (np.stack([start, *between, goal]) for between in _detours(rng, sim))
        way = next((way for way in ways if _is_clear(way, sim)), np.stack([start, goal]))
        durations_s = np.maximum(np.abs(np.diff(way, axis=0) / sim.limits.velocity).max(1), sim.control_dt_s)
        return follow(trial, sim, np.cumsum([0.0, *durations_s]), way)


NEAR = Reach("near", budget_steps=50, goal_steps=25)
ANYWHERE = Reach("anywhere", budget_steps=150, goal_steps=None)


def _pose(rng: np.random.Generator, sim: ArmSim) -> np.ndarray:
    inset = INSET * (sim.limits.upper - sim.limits.lower)
    return rng.uniform(sim.limits.lower + inset, sim.limits.upper - inset)


def _detours(rng: np.random.Generator, sim: ArmSim) -> Iterator[list[np.ndarray]]:
    """Poses to go through: first none, then home, then random ones."""
    yield []
    yield [sim.home]
    for _ in range(DETOURS):
        yield [_pose(rng, sim)]


def _is_clear(way: np.ndarray, sim: ArmSim) -> bool:
    """Whether the arm touches nothing on straight lines through poses (N, A) rad."""
    share = np.linspace(0.0, 1.0, CHECKS)[:, None]
    return not any(sim.touches(begin + share * (end - begin)) for begin, end in pairwise(way))
