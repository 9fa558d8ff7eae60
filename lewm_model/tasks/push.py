# SPDX-License-Identifier: Apache-2.0
"""Pushing: bring an object to where a picture shows it.

A trial is cut from what the scripted policy of the recordings does: the arm rests somewhere, the object lies somewhere
else in every trial; the goal is the picture at the moment when the policy had pushed the object, backed off and come to
rest. The object was moved by more than MOVED_M, so that an arm that does nothing fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_model.planning.random_motion import BLOCK_STEPS
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.world import State
from lewm_model.tasks.push_script import ScriptedPush, play
from lewm_model.tasks.task import Outcome, Trial

TOLERANCE = 0.05  # of the workspace diameter, between the object's middle and its place in the goal picture
MOVED_M = 0.08  # least distance of the object from start to goal
MOST_STEPS = 240  # control steps that the scripted policy may take to make a goal


@dataclass(frozen=True)
class Push:
    """A task of :class:`lewm_model.tasks.task.Task`.

    :param object: name of what is pushed.
    """

    object: str
    name: str = "push"
    subject: str = "object"
    unit: str = "m"
    budget_steps: int = 400  # 20 s
    seed: int = 0x50757368

    @property
    def objects(self) -> tuple[str, ...]:
        return (self.object,)

    def tolerance(self, sim: ArmSim) -> float:
        return TOLERANCE * 2 * sim.reach_m

    def error(self, state: State, goal: State, sim: ArmSim) -> float:
        """On the table, between the middles."""
        return float(np.linalg.norm((state.objects[self.object] - goal.objects[self.object])[:2]))

    def draw(self, rng: np.random.Generator, sim: ArmSim) -> tuple[State, State] | None:
        """Follows the scripted policy until its first push has come to rest."""
        begin: list[State] = []
        rests: list[bool] = []

        def look() -> None:
            if not begin:
                begin.append(sim.state())

        def until(policy: ScriptedPush) -> bool:
            rests.append(policy.phase == "rest")
            return rests[-1]

        play(sim, rng, self.object, MOST_STEPS, look, roam=False, until=until)
        if not rests[-1]:
            return None
        sim.step(BLOCK_STEPS * sim.control_dt_s)  # what still moves comes to rest
        end = State(np.clip(sim.joint_positions(), sim.limits.lower, sim.limits.upper), sim.state().objects)
        return (begin[0], end) if self.error(begin[0], end, sim) > MOVED_M else None

    def scripted(self, trial: Trial, sim: ArmSim, rng: np.random.Generator) -> Outcome:
        """The policy of the recordings, which sees the object and is told where it is to be; it stops when it is."""
        sim.put(trial.start)
        policy = ScriptedPush(sim, rng, self.object, roam=False)
        policy.target = trial.goal.objects[self.object][:2].copy()
        errors: list[float] = []
        policy.play(
            self.budget_steps,
            lambda: errors.append(self.error(sim.state(), trial.goal, sim)),
            lambda policy: policy.phase == "rest",
        )
        sim.step(BLOCK_STEPS * sim.control_dt_s)
        final = self.error(sim.state(), trial.goal, sim)
        return Outcome(final <= self.tolerance(sim), min([final, *errors]) <= self.tolerance(sim), final)


PUSH = Push("block")  # of worlds/tabletop.sdf
