# SPDX-License-Identifier: Apache-2.0
"""The LeWM paper's open-loop control of the simulated arm: plan 25 control steps, execute all, plan again.

Simulation time stands still during planning. Actions are executed as joint velocities, clipped to the arm's velocity
and position limits; acceleration is not limited, which favours this planner.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from lewm_model.planning.solvers import HORIZON, SAMPLES, reference_cem
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import SAMPLE_S
from lewm_model.tasks.task import Outcome, Trial, picture_of, score

Planner = Callable[[np.ndarray, np.ndarray], np.ndarray]  # latents (D,) now and of the goal -> z-scored blocks (H, E)


def cem_planner(
    costs: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], block_dim: int, seed: int
) -> Planner:
    """The reference's planner at its default budget over `costs`: latents (D,) now and of the goal, candidates
    (S, H, E) -> squared latent distances from the goal at the end (S,).

    The noise is that of the reference's solver with the same seed.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise() -> np.ndarray:
        return torch.randn(SAMPLES, HORIZON, block_dim, generator=generator).numpy()

    def plan(latent: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return reference_cem(lambda candidates: costs(latent, goal, candidates), noise)

    return plan


def reach_open_loop(trial: Trial, sim: ArmSim, runtime: Runtime, plan: Planner) -> Outcome:
    """Moves the arm towards the trial's goal picture, executing each plan to its end before the next."""
    view, spec = runtime.bundle.observation, runtime.bundle.actions
    goal = runtime.encode(picture_of(trial.goal, sim, view))
    sim.put(trial.start)

    def error() -> float:
        return trial.task.error(sim.state(), trial.goal, sim)

    errors = [error()]
    total, plans = round(trial.budget_s / SAMPLE_S), 0
    while len(errors) <= total:
        blocks = plan(runtime.encode(sim.picture(view)), goal)
        raw = blocks.reshape(-1, len(spec.mean)) * np.asarray(spec.std) + np.asarray(spec.mean)
        positions = [sim.joint_positions()]
        for velocity in np.clip(raw, -sim.limits.velocity, sim.limits.velocity):
            wanted = positions[-1] + spec.control_dt_s * velocity
            positions.append(np.clip(wanted, sim.limits.lower, sim.limits.upper))
        sim.set_trajectory(spec.control_dt_s * np.arange(len(positions)), np.stack(positions))
        plans += 1
        until = math.ceil(plans * len(raw) * spec.control_dt_s / SAMPLE_S - 1e-6)  # a plan lasts 62.5 samples
        while len(errors) <= min(until, total):
            sim.step(SAMPLE_S)
            errors.append(error())
    return score(SAMPLE_S * np.arange(len(errors)), np.array(errors), trial.budget_s, trial.task.tolerance(sim))
