# SPDX-License-Identifier: Apache-2.0
"""Tasks and their trials: how a trial is drawn, run, and judged; `registry.py` has the tasks.

A trial of a task is a state to start from at rest and a goal, of which the robot gets only a picture. Trials are drawn
from seeds of a form that no recording has, so that none was trained on. Success is judged from the simulator's state:
the error must be within the task's tolerance throughout the last HELD_S of the budget. A task works with every robot
and world that the simulator loads, if the world has the objects that the task names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from lewm_model.config import PlanConfig
from lewm_model.robot.observation import Observation
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import SAMPLE_S, drive
from lewm_model.sim.random_motion import random_motion
from lewm_model.sim.world import State

HELD_S = 0.5  # at the end of the budget, throughout which the error must be within the tolerance
MOST_GAP_S, MOST_LATE_GAP_S = 0.5, 0.1  # greatest gap between samples of the error, before and in the last HELD_S


SimT = TypeVar("SimT", contravariant=True)  # ArmSim, or another simulated world that has states


class Task(Protocol[SimT]):
    """A task, of which any number of trials can be drawn."""

    @property
    def name(self) -> str:
        """The name in tables and figures."""

    @property
    def subject(self) -> str:
        """What has to come to its goal, for people."""

    @property
    def unit(self) -> str:
        """Unit of errors and tolerance, such as "m"."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the world's objects that have a goal; empty if only the arm has one."""

    @property
    def budget_steps(self) -> int:
        """Control steps from the first command to the end of a trial."""

    @property
    def seed(self) -> int:
        """First part of the seeds (this, seed, number, attempt) of trials; seeds of recordings are (seed, episode)."""

    def tolerance(self, sim: SimT) -> float:
        """The greatest error at which a goal counts as reached."""

    def draw(self, rng: np.random.Generator, sim: SimT) -> tuple[State, State] | None:
        """A random start and goal; None if they cannot be used, for example as too easy, and must be drawn again."""

    def error(self, state: State, goal: State, sim: SimT) -> float:
        """Distance of `state` from the goal, in the task's unit."""

    def scripted(self, trial: Trial, sim: SimT, rng: np.random.Generator) -> Outcome:
        """The outcome of a policy that knows the state which the robot only sees: not a baseline, but a bound."""


@dataclass(frozen=True)
class Trial:
    """One trial: from `start` to `goal` within `budget_s`; `before` is the error at the start."""

    task: Task[Any]
    start: State
    goal: State
    budget_s: float
    before: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    held: bool  # within the tolerance at every sample of the last HELD_S of the budget
    first_hit: bool  # within the tolerance at any sample
    final_error: float  # in the unit of the task, at the end of the budget


def trial_of(task: Task[Any], start: State, goal: State, sim: Any) -> Trial:
    """A trial with the task's budget."""
    return Trial(task, start, goal, task.budget_steps * sim.control_dt_s, task.error(start, goal, sim))


def draw_trials(task: Task[Any], count: int, seed: int, sim: Any) -> list[Trial]:
    """The first `count` trials of a task; the same seed gives the same ones."""
    trials = []
    for number in range(count):
        drawn, attempt = None, 0
        while drawn is None:
            rng = np.random.default_rng(np.random.SeedSequence((task.seed, seed, number, attempt)))
            drawn, attempt = task.draw(rng, sim), attempt + 1
        trials.append(trial_of(task, *drawn, sim))
    return trials


def score(times_s: np.ndarray, errors: np.ndarray, budget_s: float, tolerance: float) -> Outcome:
    """Judges a trial by its errors (N,) at times (N,) s since the budget began; samples outside it are ignored.

    :raises ValueError: the samples have gaps, of more than MOST_LATE_GAP_S in the last HELD_S or MOST_GAP_S before.
    """
    inside = (times_s >= 0) & (times_s <= budget_s + 1e-6)
    times, errors = times_s[inside], errors[inside]
    gaps = np.diff(np.concatenate([[0.0], times, [budget_s]]))
    late = np.concatenate([times, [budget_s]]) > budget_s - HELD_S
    if gaps.max() > MOST_GAP_S or gaps[late].max() > MOST_LATE_GAP_S:
        raise ValueError(f"no sample for {gaps.max():.2f} s of a budget of {budget_s} s; it cannot be judged")
    good = errors <= tolerance
    held = times >= budget_s - HELD_S - 1e-6
    return Outcome(bool(good[held].all()), bool(good.any()), float(errors[-1]))


def picture_of(state: State, sim: ArmSim, observation: Observation) -> np.ndarray:
    """The model's picture of the world at rest in `state`, (*observation.size, 3) uint8; puts the world there."""
    sim.put(state)
    return sim.picture(observation)


def amount(value: float, unit: str) -> str:
    """An error or tolerance for people, with its unit; metres become cm."""
    return f"{100 * value:.1f} cm" if unit == "m" else f"{value:.3g} {unit}"


# ---- trials of a model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """The outcome of a trial, the duration of each plan, s, and the error over time (N,), a sample each SAMPLE_S."""

    trial: Trial
    outcome: Outcome
    plan_s: list[float]
    errors: np.ndarray


def attempt(
    trial: Trial, sim: ArmSim, runtime: Runtime, config: PlanConfig, seed: int, goal_picture: np.ndarray | None = None
) -> Attempt:
    """Runs the planner in a trial; the budget begins with the first command. Leaves the simulation in its final state.

    :param seed: of the planner's random candidates.
    :param goal_picture: (H, W, 3) uint8, of the model's size; None renders the goal in the present simulation.
    """
    if goal_picture is None:
        goal_picture = picture_of(trial.goal, sim, runtime.bundle.observation)
    goal = runtime.encode(goal_picture)
    sim.put(trial.start)
    times, errors, plan_s = drive(sim, runtime, config, seed, goal, lambda: _error(trial, sim), trial.budget_s)
    return Attempt(trial, score(times, errors, trial.budget_s, trial.task.tolerance(sim)), plan_s, errors)


def attempt_all(
    trials: Sequence[Trial],
    sim: ArmSim,
    runtime: Runtime,
    config: PlanConfig,
    seed: int,
    progress: Callable[[Attempt], None] = lambda result: None,
) -> list[Attempt]:
    """`attempt` for each trial, with the seeds `seed`, `seed` + 1, ...; `progress` is called with each result."""
    results = []
    for number, trial in enumerate(trials):
        results.append(attempt(trial, sim, runtime, config, seed + number))
        progress(results[-1])
    return results


# ---- policies without a model ----------------------------------------------------------------------------------------


def hold_still(trial: Trial, sim: ArmSim) -> Outcome:
    """The outcome if the arm does not move."""
    sim.put(trial.start)
    return _watch(trial, sim)


def move_randomly(trial: Trial, sim: ArmSim, seed: int, number: int) -> Outcome:
    """The outcome of the random motion of the recordings; depends on (seed, number) only."""
    rng = np.random.default_rng(np.random.SeedSequence((trial.task.seed, seed, number, 0, 1)))
    sim.put(trial.start)
    steps = math.ceil(trial.budget_s / sim.control_dt_s - 1e-9)
    motion = random_motion(rng, trial.start.joints, steps, sim).sample(sim.control_dt_s * np.arange(steps + 1))
    sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
    return _watch(trial, sim)


def follow(trial: Trial, sim: ArmSim, times_s: np.ndarray, positions: np.ndarray) -> Outcome:
    """The outcome of a given motion: positions (T, A) rad at times (T,) s, then rest."""
    sim.put(trial.start)
    sim.set_trajectory(times_s, np.clip(positions, sim.limits.lower, sim.limits.upper))
    return _watch(trial, sim)


def run_scripted(trial: Trial, sim: Any, seed: int, number: int) -> Outcome:
    """The outcome of the task's scripted policy; depends on (seed, number) only."""
    rng = np.random.default_rng(np.random.SeedSequence((trial.task.seed, seed, number, 0, 2)))
    return trial.task.scripted(trial, sim, rng)


def baselines(trials: Sequence[Trial], sim: ArmSim, seed: int) -> Iterator[tuple[str, list[Outcome]]]:
    """Name and outcomes of the baselines "hold" and "random" in the same trials."""
    yield "hold", [hold_still(trial, sim) for trial in trials]
    yield "random", [move_randomly(trial, sim, seed, number) for number, trial in enumerate(trials)]


def _watch(trial: Trial, sim: ArmSim) -> Outcome:
    """Runs the simulation for the budget and judges it."""
    errors = [_error(trial, sim)]
    for _ in range(round(trial.budget_s / SAMPLE_S)):
        sim.step(SAMPLE_S)
        errors.append(_error(trial, sim))
    times_s = SAMPLE_S * np.arange(len(errors))
    return score(times_s, np.array(errors), trial.budget_s, trial.task.tolerance(sim))


def _error(trial: Trial, sim: ArmSim) -> float:
    return trial.task.error(sim.state(), trial.goal, sim)
