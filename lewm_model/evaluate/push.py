"""The push task on the simulated arm: bring the block to where a picture shows it.

A task is cut from play that no recording has (its seeds have another form): the arm rests somewhere, the block lies
somewhere else in every task; the goal is the picture that the player saw when it had pushed the block, backed off and
come to rest, and of it the robot gets the pixels alone. The block was moved by more than MOVED_M, so that an arm that
does nothing fails. Success is strict: the block's middle within TOLERANCE of the workspace diameter of its place in the
goal picture throughout the last half second of the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lewm_model.collect import BLOCK_STEPS, random_velocities
from lewm_model.config import PlanConfig
from lewm_model.evaluate.closed_loop import drive
from lewm_model.evaluate.tasks import SAMPLE_S, Outcome, score
from lewm_model.imaging import to_model_image
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.play import Player, play
from lewm_model.runtime import Runtime
from lewm_model.sim.arm_sim import ArmSim

TOLERANCE = 0.05  # of the workspace diameter, between the block's middle and its place in the goal picture
MOVED_M = 0.08  # least way of the block from start to goal
BUDGET_STEPS = 400  # control steps: 20 s
MOST_STEPS = 240  # that the player may take to make a goal
_HELD_OUT = 0x50757368  # the tasks' seeds are (this, seed, task, attempt), those of recordings (seed, episode)


@dataclass(frozen=True)
class PushTask:
    """From arm at `start` (A,) rad and block at `block` (7,) to the block at `goal_block` (7,), the arm at `goal`."""

    start: np.ndarray
    block: np.ndarray
    goal: np.ndarray
    goal_block: np.ndarray
    budget_s: float

    @property
    def way_m(self) -> float:
        """How far the block has to go."""
        return float(np.linalg.norm((self.goal_block - self.block)[:2]))


def tolerance_m(sim: ArmSim) -> float:
    return TOLERANCE * 2 * sim.reach_m


def draw_tasks(count: int, seed: int, sim: ArmSim) -> list[PushTask]:
    """The first `count` tasks; the same seed gives the same ones."""
    tasks = []
    for number in range(count):
        attempt, task = 0, None
        while task is None:
            task = _draw(np.random.default_rng(np.random.SeedSequence((_HELD_OUT, seed, number, attempt))), sim)
            attempt += 1
        tasks.append(task)
    return tasks


def _draw(rng: np.random.Generator, sim: ArmSim) -> PushTask | None:
    """Plays until the first push has come to rest; None where it does not, or moves the block too little."""
    begin: list[np.ndarray] = []
    rests: list[bool] = []

    def look() -> None:
        if not begin:
            begin.extend((sim.joint_positions().copy(), sim.block_pose()))

    def until(player: Player) -> bool:
        rests.append(player.phase == "rest")
        return rests[-1]

    play(sim, rng, MOST_STEPS, look, wander=False, until=until)
    if not rests[-1]:
        return None
    sim.step(BLOCK_STEPS * sim.control_dt_s)  # what still moves comes to rest
    end = np.clip(sim.joint_positions(), sim.limits.lower, sim.limits.upper), sim.block_pose()
    task = PushTask(begin[0], begin[1], *end, BUDGET_STEPS * sim.control_dt_s)
    return task if task.way_m > MOVED_M else None


def picture(sim: ArmSim, joints: np.ndarray, block: np.ndarray, size: int) -> np.ndarray:
    """The model's picture (size, size, 3) of arm (A,) rad and block (7,) at rest; moves both there."""
    sim.reset(joint_positions=joints)
    sim.set_block_pose(block)
    return to_model_image(sim.render(), size)


def push(task: PushTask, sim: ArmSim, runtime: Runtime, config: PlanConfig, seed: int) -> Outcome:
    """Brings the block to where the picture of the task's goal shows it; the budget begins with the first command."""
    goal = runtime.encode(picture(sim, task.goal, task.goal_block, runtime.bundle.model.image_size))
    _set_out(task, sim)
    times, errors, _ = drive(sim, runtime, config, seed, goal, lambda: _error_m(task, sim), task.budget_s)
    return score(times, errors, task.budget_s, tolerance_m(sim))


def hold_still(task: PushTask, sim: ArmSim) -> Outcome:
    """What an arm that does not move reaches."""
    _set_out(task, sim)
    return _watch(task, sim)


def move_randomly(task: PushTask, sim: ArmSim, seed: int, number: int) -> Outcome:
    """What the random motion of the reach recordings reaches; depends on (seed, number) only."""
    rng = np.random.default_rng(np.random.SeedSequence((_HELD_OUT, seed, number, 0, 1)))
    _set_out(task, sim)
    dt, steps = sim.control_dt_s, BUDGET_STEPS
    limits = KnotLimits(sim.limits, BLOCK_STEPS * dt)
    timeline = Timeline(0.0, task.start, limits)
    timeline.splice(0, random_velocities(rng, task.start, math.ceil(steps / BLOCK_STEPS), limits))
    motion = timeline.sample(dt * np.arange(steps + 1))
    sim.set_trajectory(motion.times_s, motion.positions, motion.velocities)
    return _watch(task, sim)


def play_towards(task: PushTask, sim: ArmSim, seed: int, number: int) -> Outcome:
    """What the player of the recordings reaches when it is told the goal and sees the block: a bound, no baseline."""
    rng = np.random.default_rng(np.random.SeedSequence((_HELD_OUT, seed, number, 0, 2)))
    _set_out(task, sim)
    player = Player(sim, rng, wander=False)
    player.target = task.goal_block[:2].copy()
    errors: list[float] = []
    player.play(BUDGET_STEPS, lambda: errors.append(_error_m(task, sim)), lambda player: player.phase == "rest")
    sim.step(BLOCK_STEPS * sim.control_dt_s)
    final = _error_m(task, sim)
    return Outcome(final <= tolerance_m(sim), min([final, *errors]) <= tolerance_m(sim), final)


def _set_out(task: PushTask, sim: ArmSim) -> None:
    sim.reset(joint_positions=task.start)
    sim.set_block_pose(task.block)


def _error_m(task: PushTask, sim: ArmSim) -> float:
    return float(np.linalg.norm((sim.block_pose() - task.goal_block)[:2]))


def _watch(task: PushTask, sim: ArmSim) -> Outcome:
    count = round(task.budget_s / SAMPLE_S)
    errors = np.empty(count + 1)
    for i in range(count + 1):
        if i:
            sim.step(SAMPLE_S)
        errors[i] = _error_m(task, sim)
    return score(SAMPLE_S * np.arange(count + 1), errors, task.budget_s, tolerance_m(sim))
