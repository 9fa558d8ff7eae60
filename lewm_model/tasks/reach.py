"""Goal-reaching tasks on the simulated arm, what counts as success, and what chance reaches.

A task is a pose to start from at rest and a pose to reach, of which the robot sees a picture only. Its seeds have a
form that no recording has, so that nothing here was trained on.

- near: two frames 25 control steps apart in a random motion; budget 50 steps.
- anywhere: start and goal uniform in the joint space, 5 % inside the limits; budget 150 steps.

A start that already lies within the tolerance of its goal is drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lewm_model.config import PlanConfig
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import SAMPLE_S, drive, picture
from lewm_model.sim.random_motion import BLOCK_STEPS, random_velocities

BUDGET_STEPS = {"near": 50, "anywhere": 150}  # control steps
NEAR_STEPS = 25  # control steps between start and goal of a near task
EPISODE_STEPS = 100  # of the random motion that near tasks are cut from
TOLERANCE = 0.025  # of the workspace diameter, between end effector and goal
HELD_S = 0.5  # the end of the budget, throughout which the end effector must be within the tolerance
INSET = 0.05  # of each joint's range, left free at either end
# The tasks' seeds are (this, seed, task, attempt), those of recordings (seed, episode).
_HELD_OUT = 0x4C65574D


@dataclass(frozen=True)
class Task:
    """Bring the arm from `start` to `goal`, both (A,) rad, within `budget_s`."""

    kind: str
    start: np.ndarray
    goal: np.ndarray
    budget_s: float


@dataclass(frozen=True)
class Outcome:
    """How one task ended. Errors are distances of the end effector from its goal position, m."""

    held: bool  # within the tolerance at every sample of the last HELD_S of the budget
    first_hit: bool  # within the tolerance at any sample
    final_error_m: float  # at the end of the budget


def tolerance_m(sim: ArmSim) -> float:
    """How near the end effector must be to its goal: TOLERANCE of the workspace diameter, m."""
    return TOLERANCE * 2 * sim.reach_m


def tip_distance_m(sim: ArmSim, first: np.ndarray, second: np.ndarray) -> float:
    """Distance between the end effector's positions at two poses (A,) rad."""
    return float(np.linalg.norm(sim.end_effector(first) - sim.end_effector(second)))


def draw_tasks(kind: str, count: int, seed: int, sim: ArmSim) -> list[Task]:
    """The first `count` tasks of a kind ("near" or "anywhere"); the same seed gives the same ones."""
    draw = {"near": _near, "anywhere": _anywhere}[kind]
    tasks = []
    for number in range(count):
        attempt = 0
        while True:
            rng = np.random.default_rng(np.random.SeedSequence((_HELD_OUT, seed, number, attempt)))
            start, goal = draw(rng, sim)
            if tip_distance_m(sim, start, goal) > tolerance_m(sim):
                break
            attempt += 1
        tasks.append(Task(kind, start, goal, BUDGET_STEPS[kind] * sim.control_dt_s))
    return tasks


def _pose(rng: np.random.Generator, sim: ArmSim) -> np.ndarray:
    inset = INSET * (sim.limits.upper - sim.limits.lower)
    return rng.uniform(sim.limits.lower + inset, sim.limits.upper - inset)


def _anywhere(rng: np.random.Generator, sim: ArmSim) -> tuple[np.ndarray, np.ndarray]:
    return _pose(rng, sim), _pose(rng, sim)


def _near(rng: np.random.Generator, sim: ArmSim) -> tuple[np.ndarray, np.ndarray]:
    motion = _random_motion(rng, _pose(rng, sim), EPISODE_STEPS, sim)
    first = int(rng.integers(EPISODE_STEPS - NEAR_STEPS + 1))
    positions = motion.sample(sim.control_dt_s * np.array([first, first + NEAR_STEPS])).positions
    start, goal = np.clip(positions, sim.limits.lower, sim.limits.upper)  # rounding
    return start, goal


def _random_motion(rng: np.random.Generator, start: np.ndarray, steps: int, sim: ArmSim) -> Timeline:
    """The motion of the recordings, from rest at `start`, for `steps` control steps."""
    limits = KnotLimits(sim.limits, BLOCK_STEPS * sim.control_dt_s)
    motion = Timeline(0.0, start, limits)
    motion.splice(0, random_velocities(rng, start, math.ceil(steps / BLOCK_STEPS), limits))
    return motion


def score(times_s: np.ndarray, errors_m: np.ndarray, budget_s: float, tolerance: float) -> Outcome:
    """Judges errors (N,) m at times (N,) s since the budget began; samples outside the budget are ignored.

    :raises ValueError: the samples have gaps, of more than 0.1 s in the last HELD_S or more than 0.5 s before.
    """
    inside = (times_s >= 0) & (times_s <= budget_s + 1e-6)
    times, errors = times_s[inside], errors_m[inside]
    gaps = np.diff(np.concatenate([[0.0], times, [budget_s]]))
    at = np.concatenate([times, [budget_s]])
    late = at > budget_s - HELD_S
    if gaps.max() > 0.5 or gaps[late].max() > 0.1:
        raise ValueError(f"no sample for {gaps.max():.2f} s of a budget of {budget_s} s; it cannot be judged")
    good = errors <= tolerance
    held = times >= budget_s - HELD_S - 1e-6
    return Outcome(bool(good[held].all()), bool(good.any()), float(errors[-1]))


def hold_still(task: Task, sim: ArmSim) -> Outcome:
    """What an arm that does not move reaches."""
    sim.reset(joint_positions=task.start)
    return _watch(task, sim)


def move_randomly(task: Task, sim: ArmSim, seed: int, number: int) -> Outcome:
    """What the random motion of the recordings reaches; depends on (seed, number) only."""
    rng = np.random.default_rng(np.random.SeedSequence((_HELD_OUT, seed, number, 0, 1)))
    sim.reset(joint_positions=task.start)
    dt = sim.control_dt_s
    steps = math.ceil(task.budget_s / dt - 1e-9)
    motion = _random_motion(rng, task.start, steps, sim).sample(dt * np.arange(steps + 1))
    sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
    return _watch(task, sim)


def follow(task: Task, sim: ArmSim, times_s: np.ndarray, positions: np.ndarray) -> Outcome:
    """What a motion that does not look reaches: positions (T, A) rad at times (T,) s, and rest after them."""
    sim.reset(joint_positions=task.start)
    sim.set_trajectory(times_s, np.clip(positions, sim.limits.lower, sim.limits.upper))
    return _watch(task, sim)


def go_straight(task: Task, sim: ArmSim) -> Outcome:
    """What straight-line interpolation of the joints at full speed reaches; it is told the goal's joint positions."""
    duration = float(max(np.abs((task.goal - task.start) / sim.limits.velocity).max(), sim.control_dt_s))
    return follow(task, sim, np.array([0.0, duration]), np.stack([task.start, task.goal]))


def _watch(task: Task, sim: ArmSim) -> Outcome:
    goal = sim.end_effector(task.goal)
    count = round(task.budget_s / SAMPLE_S)
    errors = np.empty(count + 1)
    for i in range(count + 1):
        if i:
            sim.step(SAMPLE_S)
        errors[i] = np.linalg.norm(sim.end_effector() - goal)
    return score(SAMPLE_S * np.arange(count + 1), errors, task.budget_s, tolerance_m(sim))


def baselines(tasks: Sequence[Task], sim: ArmSim, seed: int) -> Iterator[tuple[str, list[Outcome]]]:
    """Outcomes of the policies "hold" and "random" on the same tasks."""
    yield "hold", [hold_still(task, sim) for task in tasks]
    yield "random", [move_randomly(task, sim, seed, number) for number, task in enumerate(tasks)]


@dataclass(frozen=True)
class ClosedLoop:
    """One task's outcome, how long each plan took (s), and the error over time (N,) m, `samples_a_step` each step."""

    task: Task
    outcome: Outcome
    plan_s: list[float]
    errors_m: np.ndarray


def reach(
    task: Task, sim: ArmSim, runtime: Runtime, config: PlanConfig, seed: int, goal_picture: np.ndarray | None = None
) -> ClosedLoop:
    """Brings the arm to the picture of the task's goal; the budget begins with the first command.

    `goal_picture` (S, S, 3) uint8 is a recorded one; None draws the arm at rest at the goal. The simulated arm is left
    as it is at the end of the budget.
    """
    size = runtime.bundle.model.image_size
    goal = runtime.encode(picture(sim, task.goal, size) if goal_picture is None else goal_picture)
    goal_tip = sim.end_effector(task.goal)
    sim.reset(joint_positions=task.start)

    def error_m() -> float:
        return float(np.linalg.norm(sim.end_effector() - goal_tip))

    times, errors, plan_s = drive(sim, runtime, config, seed, goal, error_m, task.budget_s)
    return ClosedLoop(task, score(times, errors, task.budget_s, tolerance_m(sim)), plan_s, errors)


def reach_all(
    tasks: Sequence[Task],
    sim: ArmSim,
    runtime: Runtime,
    config: PlanConfig,
    seed: int,
    progress: Callable[[ClosedLoop], None] = lambda result: None,
) -> list[ClosedLoop]:
    """`reach` for each task, seeds counted up from `seed`; `progress` is told of each result."""
    results = []
    for number, task in enumerate(tasks):
        results.append(reach(task, sim, runtime, config, seed + number))
        progress(results[-1])
    return results
