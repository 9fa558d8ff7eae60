"""Reaching: bring the end effector to where a picture shows it.

- NEAR: two frames 25 control steps apart in a random motion; budget 50 steps.
- ANYWHERE: start and goal uniform in the joint space, 5 % inside the limits; budget 150 steps.

A start that already lies within the tolerance of its goal is drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.task import Outcome, State, Trial, follow, random_motion

EPISODE_STEPS = 100  # of the random motion that near goals are cut from
TOLERANCE = 0.025  # of the workspace diameter, between end effector and goal
INSET = 0.05  # of each joint's range, left free at either end


@dataclass(frozen=True)
class Reach:
    """A task of :class:`lewm_model.tasks.task.Task`.

    :param goal_steps: control steps of one random motion from start to goal; None draws the two apart.
    """

    name: str
    budget_steps: int
    goal_steps: int | None
    subject: str = "end effector"
    seed: int = 0x4C65574D

    def tolerance_m(self, sim: ArmSim) -> float:
        return TOLERANCE * 2 * sim.reach_m

    def error_m(self, state: State, goal: State, sim: ArmSim) -> float:
        return float(np.linalg.norm(sim.end_effector(state.joints) - sim.end_effector(goal.joints)))

    def draw(self, rng: np.random.Generator, sim: ArmSim) -> tuple[State, State] | None:
        first = _pose(rng, sim)
        poses = (first, _pose(rng, sim)) if self.goal_steps is None else self._of_motion(rng, first, sim)
        start, goal = (State(pose) for pose in poses)
        return (start, goal) if self.error_m(start, goal, sim) > self.tolerance_m(sim) else None

    def _of_motion(self, rng: np.random.Generator, first: np.ndarray, sim: ArmSim) -> np.ndarray:
        assert self.goal_steps is not None
        motion = random_motion(rng, first, EPISODE_STEPS, sim)
        begin = int(rng.integers(EPISODE_STEPS - self.goal_steps + 1))
        positions = motion.sample(sim.control_dt_s * np.array([begin, begin + self.goal_steps])).positions
        return np.clip(positions, sim.limits.lower, sim.limits.upper)  # rounding

    def scripted(self, trial: Trial, sim: ArmSim, rng: np.random.Generator) -> Outcome:
        """A straight line in joint space at full speed; it is told the goal's joint positions."""
        start, goal = trial.start.joints, trial.goal.joints
        duration_s = float(max(np.abs((goal - start) / sim.limits.velocity).max(), sim.control_dt_s))
        return follow(trial, sim, np.array([0.0, duration_s]), np.stack([start, goal]))


NEAR = Reach("near", budget_steps=50, goal_steps=25)
ANYWHERE = Reach("anywhere", budget_steps=150, goal_steps=None)


def _pose(rng: np.random.Generator, sim: ArmSim) -> np.ndarray:
    inset = INSET * (sim.limits.upper - sim.limits.lower)
    return rng.uniform(sim.limits.lower + inset, sim.limits.upper - inset)
