"""The push task on the simulated arm: bring the block to where a picture shows it.

A task is cut from play that no recording has (its seeds have another form): the arm rests somewhere, the block lies
somewhere else in every task; the goal is the picture that the player saw when it had pushed the block, backed off and
come to rest, and of it the robot gets the pixels alone. The block was moved by more than MOVED_M, so that an arm that
does nothing fails. Success is strict: the block's middle within TOLERANCE of the workspace diameter of its place in the
goal picture throughout the last half second of the budget.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from lewm_model.bundle.bundle import load_bundle
from lewm_model.config import PLAY_PLAN, PlanConfig
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.pictures import to_model_image
from lewm_model.runtime import Runtime, load_runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import drive
from lewm_model.sim.push_script import Player, play
from lewm_model.sim.random_motion import BLOCK_STEPS, random_velocities
from lewm_model.tasks.reach import Outcome, score

TOLERANCE = 0.05  # of the workspace diameter, between the block's middle and its place in the goal picture
MOVED_M = 0.08  # least way of the block from start to goal
BUDGET_STEPS = 400  # control steps: 20 s
MOST_STEPS = 240  # that the player may take to make a goal
_HELD_OUT = 0x50757368  # the tasks' seeds are (this, seed, task, attempt), those of recordings (seed, episode)


@dataclass(frozen=True)
class PushTask:
    """From arm at `start` (A,) rad and block at `block` (7,) to the block at `goal_block` (7,), the arm at `goal`."""

    kind: ClassVar[str] = "push"
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

    play(sim, rng, MOST_STEPS, look, roam=False, until=until)
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


def push(task: PushTask, sim: ArmSim, runtime: Runtime, config: PlanConfig, seed: int) -> tuple[Outcome, list[float]]:
    """Brings the block to where the picture of the task's goal shows it; the budget begins with the first command.

    Returns the outcome, and how long each plan took (s).
    """
    goal = runtime.encode(picture(sim, task.goal, task.goal_block, runtime.bundle.model.image_size))
    _set_out(task, sim)
    times, errors, plan_s = drive(sim, runtime, config, seed, goal, lambda: _error_m(task, sim), task.budget_s)
    return score(times, errors, task.budget_s, tolerance_m(sim)), plan_s


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
    player = Player(sim, rng, roam=False)
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
    dt = sim.control_dt_s
    errors = [_error_m(task, sim)]
    for _ in range(round(task.budget_s / dt)):
        sim.step(dt)
        errors.append(_error_m(task, sim))
    return score(dt * np.arange(len(errors)), np.array(errors), task.budget_s, tolerance_m(sim))


def outcome_table(title: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Table:
    """A row for each who tried."""
    table = Table(title=title)
    for heading in ("", "goals", "held at the end (95 %)", "first hit", "median final error"):
        table.add_column(heading)
    for who, found in outcomes.items():
        error_m = float(np.median([outcome.final_error_m for outcome in found]))
        label = "the player, who sees the block" if who == "player" else who
        table.add_row(label, str(len(found)), str(held(found)), str(first_hit(found)), f"{100 * error_m:.1f} cm")
    return table


def eval_push(folder: Path, goals: int, seed: int, out: Path) -> float:
    """Measures a bundle, its baselines and the player on `goals` tasks; prints a table, writes `out`/summary.json.

    Returns the strict success, percent.
    """
    runtime = load_runtime(load_bundle(folder))
    quiet = not sys.stderr.isatty()
    plan_s: list[float] = []
    results: dict[str, list[Outcome]] = {"model": [], "random": [], "hold": [], "player": []}
    with ArmSim() as sim:
        tasks = draw_tasks(goals, seed, sim)
        for number, task in enumerate(tqdm(tasks, "goals", unit="goal", disable=quiet)):
            outcome, times = push(task, sim, runtime, PLAY_PLAN, number)
            plan_s += times
            results["model"].append(outcome)
            results["random"].append(move_randomly(task, sim, seed, number))
            results["hold"].append(hold_still(task, sim))
            results["player"].append(play_towards(task, sim, seed, number))
        tolerance = tolerance_m(sim)
    ways = [task.way_m for task in tasks]
    title = (
        f"push: block within {100 * tolerance:.1f} cm, budget {tasks[0].budget_s:g} s, "
        f"moved {100 * min(ways):.0f} to {100 * max(ways):.0f} cm (median {100 * np.median(ways):.0f})"
    )
    names = {"model": "", "random": "_random", "hold": "_hold", "player": "_player"}
    values: dict[str, tuple[float, str]] = {"eval.push_goals": (goals, "")}
    for who, outcomes in results.items():
        low, high = held(outcomes).interval
        values[f"eval.push_success_held{names[who]}"] = (held(outcomes).percent, "%")
        values[f"eval.push_success_held{names[who]}_low"] = (round(low, 1), "%")
        values[f"eval.push_success_held{names[who]}_high"] = (round(high, 1), "%")
    values["eval.push_first_hit"] = (first_hit(results["model"]).percent, "%")
    values["eval.push_plan_ms"] = (round(1000 * float(np.median(plan_s)), 2), "ms")
    Console().print(outcome_table(title, results))
    out.mkdir(parents=True, exist_ok=True)
    command = f"make eval-push BUNDLE={folder} GOALS={goals} SEED={seed}"
    figures = [{"name": n, "value": v, "unit": unit, "command": command} for n, (v, unit) in values.items()]
    (out / "summary.json").write_text(json.dumps({"figures": figures}, indent=1) + "\n")
    return held(results["model"]).percent
