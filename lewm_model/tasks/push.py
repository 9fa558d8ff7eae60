# SPDX-License-Identifier: Apache-2.0
"""The push task: bring an object to where a picture shows it.

Trials are made with the scripted policy of the recordings: arm and object start at random places, and the goal is the
picture after the policy has pushed the object, backed off and come to rest. The object is moved by more than MOVED_M,
so that an arm that does not move fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_model.planning.random_motion import BLOCK_STEPS
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.world import State
from lewm_model.tasks.push_script import PushSetup, ScriptedPush, play
from lewm_model.tasks.task import Outcome, Trial

TOLERANCE = 0.05  # share of the workspace diameter, between the object's centre and its place in the goal picture
MOVED_M = 0.08  # least distance of the object from start to goal; more than the tolerance
MOST_STEPS = 240  # control steps in which the scripted policy must have made a goal


@dataclass(frozen=True)
class Push:
    """A task of :class:`lewm_model.tasks.task.Task`.

    :param object: name of the object to push.
    :param setup: dimensions for the scripted policy.
    """

    object: str
    setup: PushSetup
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
        """Distance between the object's centres, on the table, m."""
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

        play(sim, rng, self.object, self.setup, MOST_STEPS, look, roam=False, until=until)
        if not rests[-1]:
            return None
        sim.step(BLOCK_STEPS * sim.control_dt_s)  # until the object rests
        end = State(np.clip(sim.joint_positions(), sim.limits.lower, sim.limits.upper), sim.state().objects)
        return (begin[0], end) if self.error(begin[0], end, sim) > MOVED_M else None

    def scripted(self, trial: Trial, sim: ArmSim, rng: np.random.Generator) -> Outcome:
        """The policy of the recordings with the goal as its target; it stops when the object is there."""
        sim.put(trial.start)
        policy = ScriptedPush(sim, rng, self.object, self.setup, roam=False)
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


# The arm and the cube of worlds/tabletop.sdf, whose name there is "block": a tip of radius 0.042 m and edges of 0.05 m.
PUSH = Push(
    "block",
    PushSetup(
        radii_m=(0.32, 0.47),
        angles_rad=(-1.3, 1.3),
        edge_radii_m=(0.27, 0.51),
        edge_angles_rad=(-1.55, 1.65),
        tip_radii_m=(0.262, 0.545),
        middle_m=0.4,
        tip_angles_rad=(-1.65, 1.8),
        contact_m=0.042 + 0.025,
        round_m=0.115,
    ),
)
