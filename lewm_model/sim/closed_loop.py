# SPDX-License-Identifier: Apache-2.0
"""Closed loop without ROS: simulated camera -> latent -> plan -> simulated arm, in simulation time.

The planner is the one of the planner node. A plan must meet its deadline in wall-clock time, but takes no simulation
time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lewm_model.config import PlanConfig
from lewm_model.planning.planner import Planner
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim

SAMPLE_S = 0.02  # time between the samples of the error, well below a control step of 0.05 s


def samples_a_step(sim: ArmSim) -> int:
    """Number of samples of the error in a control step."""
    return round(sim.control_dt_s / SAMPLE_S) or 1


def drive(
    sim: ArmSim,
    runtime: Runtime,
    config: PlanConfig,
    seed: int,
    goal: np.ndarray,
    error: Callable[[], float],
    budget_s: float,
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Runs the planner from the simulation's state towards a goal latent (D,), until the budget is spent.

    The budget begins with the first command.

    :param error: called at every sample.
    :return: times (N,) s since the first command, the values of `error` then, (N,), and the duration of each plan, s.
    :raises RuntimeError: no command came, or the budget does not end.
    """
    observation = runtime.bundle.observation
    controller = Planner(runtime, sim.limits, config, clock=lambda: sim.time_s, seed=seed)
    controller.set_goal(goal)
    controller.start(sim.joint_positions())
    plan_s: list[float] = []
    times: list[float] = []
    errors: list[float] = []
    began_s: float | None = None
    samples = samples_a_step(sim)
    for _ in range(1000):
        controller.measure(sim.time_s, sim.joint_positions())
        controller.observe(sim.time_s, runtime.encode(sim.picture(observation)))
        decision = controller.plan()
        if decision is not None:
            if decision.iterations:  # 0 when the arm rests at its goal and nothing is planned
                plan_s.append(decision.plan_s)
            if decision.trajectory is not None:
                motion = decision.trajectory
                sim.set_trajectory(
                    motion.times_s - motion.times_s[0], motion.positions, motion.velocities, motion.times_s[0]
                )
                began_s = sim.time_s if began_s is None else began_s
        for _ in range(samples):
            if began_s is not None:
                times.append(sim.time_s - began_s)
                errors.append(error())
            sim.step(sim.control_dt_s / samples)
        if times and times[-1] >= budget_s:
            return np.array(times), np.array(errors), plan_s
    raise RuntimeError("the planner gave no command; is the frame period longer than its deadline allows?")
