# SPDX-License-Identifier: Apache-2.0
"""The tasks that LeWM was published with, at a size that can be trained on a CPU: `make seed-task TASK=reacher`.

The environments are those of stable-worldmodel 0.1.1 and ogbench 1.2.2, their pictures 64 pixels wide. For each:

- Episodes are recorded here: the play of a scripted policy with noise in one half, random motion in the other.
- The network of `small`, its latent read from all tokens, is trained by this trainer, and one of the same sizes that
  both implement (with patches, GELU and the CLS token) by the authors' code, on the same batches, for the same steps.
- Goals are taken from episodes outside the training data: start at a frame, goal is the picture 25 control steps later.
  A start that already counts as success is drawn again. The budget is 50 steps.

"success" is their criterion, "reached" after any step of the budget. "held" is strict: after each of the last 10. The
tasks are tasks of `lewm_model.tasks`, whose trials can be drawn without a recording as well. The rows differ by who
trained the model and who plans; for 25 steps the reference's search tries 3000 candidates, ours at most 1920, or 9600
where it plans anew after each step:

- displacement: this trainer's model and the planner node's search (iCEM, `PlanConfig`'s defaults): one action for each
  block of 5 steps, inside the recorded range, judged by the mean distance of the displacement embedding over the
  horizon; a new plan after each block, from up to `history` frames.
- latent: the same search over the squared distance of latents, where it is least within the horizon; a new plan after
  each step.
- policy: the model's goal-conditioned policy alone, asked before each block to arrive within HASTE of the time that the
  temporal distance gives.
- follow: that policy followed in imagination 32 times, the best of which by the temporal distance is executed, as
  `models/push` is planned with.
- ours: the one of these four that the task is planned with, chosen on goals of another recording (seed 1000).
- their_planner: the same model with the reference's search, whose plans of 25 steps are executed to their end.
- reference: the authors' model with their CEMSolver. reference_our_planner: the same, imported, planned for as ours.
- random: uniform actions. hold: zero actions. replay: the recorded actions, then zero ones: an upper bound that knows
  the solution.

Results of a task stay in the folder and in the summary when other tasks are run later.

    python -m benchmarks.seed_tasks --tasks two_room reacher --goals 200 --seed 0
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks import reference
from benchmarks.comparison import PATCHES, reference_bundle
from benchmarks.seed_attempts import BUDGET_STEPS, TASKS, Goal, Past, Planner, attempt, cut_goals, record
from benchmarks.seed_environments import Environment
from benchmarks.seed_latents import physics, surprise
from benchmarks.seed_planners import ROWS, Ours, baselines, reference_planner
from lewm_model.config import MODEL_SIZES, TRAIN_SIZES, ModelConfig, TrainConfig, from_dict
from lewm_model.evaluation.figures import Figures, write_figures
from lewm_model.evaluation.statistics import first_hit, held
from lewm_model.robot.actions import ActionSpec
from lewm_model.training.trainer import train

ROOT = Path(__file__).resolve().parent.parent
STEPS, BATCH = 2000, 64  # of the world model
HEAD_STEPS = 2000  # training steps of the displacement embedding, on frozen latents
POLICY_STEPS = 4000  # the same of policy and temporal distance
# Where dot and links are is a matter of a few pixels, which the CLS token tells less exactly (docs/seed-tasks.md).
TOKENS = {"readout": "all", "latent_dim": 32}
GOAL_SEED = 1_000_000  # of the recording that goals are taken from; nothing was chosen on them


def decision_s(env: Environment, goals: Sequence[Goal], planner: Callable[[Goal], Planner], spec: ActionSpec) -> float:
    """Mean CPU time of a decision in attempts at `goals`, pictures encoded."""
    times: list[float] = []

    def timed(plan: Planner, past: Past) -> np.ndarray:
        began = time.thread_time()
        actions = plan(past)
        times.append(time.thread_time() - began)
        return actions

    for goal in goals:
        attempt(env, goal, partial(timed, planner(goal)), spec)
    return float(np.mean(times))


def run(name: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """Records, trains and evaluates a task; returns its figures."""
    task = TASKS[name]
    env = task.environment()
    data = record(env, folder / "episodes.h5", arguments.episodes or task.episodes, arguments.seed)
    unseen = record(env, folder / "unseen.h5", arguments.goals, GOAL_SEED)
    goals = cut_goals(task, env, unseen, arguments.seed)
    c = from_dict(ModelConfig, {**TOKENS, **task.model}, MODEL_SIZES["small"])
    theirs = from_dict(ModelConfig, {**PATCHES, **task.model}, MODEL_SIZES["small"])
    values = {"steps": STEPS, "batch": BATCH, "seed": arguments.seed, "head_steps": HEAD_STEPS, "threads": 1}
    values |= {"augment": {"share": 0.0}, **task.train}  # the authors' code does not augment
    if arguments.steps:
        values["steps"] = arguments.steps
    config = from_dict(TrainConfig, values, TRAIN_SIZES["small"])
    with_policy = replace(config, policy_steps=POLICY_STEPS, policy_delay_s=0.0, goal_horizon=BUDGET_STEPS)
    figures: Figures = {}

    def add(key: str, value: float, unit: str) -> None:
        figures[f"seed.{name}_{key}"] = (round(value, 1), unit)

    began = time.monotonic()
    mine = train(data, folder / "ours/bundle", folder / "ours/run", c, with_policy)
    add("training_ours", time.monotonic() - began, "s, heads included, one thread")
    ours, spec = Ours(mine, arguments.seed), mine.actions
    planners: dict[str, Callable[[Goal], Planner]] = {row: getattr(ours, row) for row in ROWS}
    if not arguments.ours:
        planners["their_planner"] = ours.their_planner
        began = time.monotonic()
        imported = reference_bundle(data, folder / "reference", theirs, config)
        add("training_reference", time.monotonic() - began, "s, heads included, one thread")
        network = reference.network(theirs)
        network.load_state_dict(torch.load(folder / "reference/checkpoint/weights.pt", weights_only=True))
        mixed = Ours(imported, arguments.seed)
        planners["reference"] = reference_planner(network.eval(), mixed.model, spec, arguments.seed)
        planners["reference_our_planner"] = mixed.displacement
    planners |= baselines(spec, arguments.seed)
    for row, planner in planners.items():
        bar = tqdm(goals, desc=f"{name} {row}", mininterval=5)
        outcomes = [attempt(env, goal, planner(goal), spec) for goal in bar]
        for what, rate in (("success", first_hit(outcomes)), ("success_held", held(outcomes))):
            low, high = rate.interval
            for end, value in (("", rate.percent), ("_low", low), ("_high", high)):
                add(f"{what}_{row}{end}", value, "%")
                if row == task.planned:
                    add(what + end, value, "%")
    theirs_planner = reference_planner(reference.planning_counterpart(ours.model), ours.model, spec, arguments.seed)
    slow, quick = (decision_s(env, goals[:3], each, spec) for each in (theirs_planner, planners[task.planned]))
    add("decision_ratio", slow / quick, "times as fast as the authors' planner with the same weights")
    add("decision_ms", 1e3 * quick, "ms of CPU time, one thread")
    for measure in (physics, surprise):
        found = measure(mine, env, unseen, arguments.seed)
        figures |= {f"seed.{name}_{measure.__name__}_{key}": value for key, value in found.items()}
    return figures


def of_all(figures: list[dict[str, Any]]) -> Figures:
    """The mean of the held goals of all tasks, and the least decision ratio, once all were run."""
    values = {figure["name"]: figure["value"] for figure in figures}
    if not all(f"seed.{task}_decision_ratio" in values for task in TASKS):
        return {}
    shares, ratios = ([values[f"seed.{task}_{key}"] for task in TASKS] for key in ("success_held", "decision_ratio"))
    return {
        "seed.strict_mean": (float(np.mean(shares)), "%, mean of the tasks' held goals"),
        "seed.decision_ratio": (min(ratios), "times, the least of the tasks"),
    }


def show(figures: list[dict[str, Any]]) -> None:
    """Prints the figures of the tasks, a table row for each planner."""
    values = {figure["name"]: figure["value"] for figure in figures}

    def rate(name: str) -> str:
        return f"{values[name]} % ({values[name + '_low']:.0f} to {values[name + '_high']:.0f})"

    table = Table("task", "model and planner", "success", "held", title="their criterion, and the strict one")
    for task in TASKS:
        start = f"seed.{task}_success_held"
        rows = [name[len(start) :] for name in values if name.startswith(start) and name + "_low" in values]
        for row in rows:
            success, held = (rate(f"seed.{task}_{what}{row}") for what in ("success", "success_held"))
            table.add_row(task, row[1:] or "ours", success, held)
        if not rows:
            table.add_row(task, "", "not run", "not run")
    Console().print(table)
    others = Table("figure", "", "", title="training, decisions, physics and surprise")
    for figure in figures:
        if figure["unit"] != "%":
            value = figure["value"]  # None where it cannot be told, as r of what does not change
            others.add_row(figure["name"], "-" if value is None else f"{value:.3g}", figure["unit"])
    Console().print(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--goals", type=int, default=200)
    parser.add_argument("--episodes", type=int, help="to record, instead of the task's number")
    parser.add_argument("--steps", type=int, help="of training the world model, instead of the task's number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ours", action="store_true", help="leave out their code and planner, which take most of the time"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out/seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks:
        folder = arguments.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        given = ((key, getattr(arguments, key)) for key in ("goals", "episodes", "steps", "seed"))
        options = "".join(f" --{key} {value}" for key, value in given if value is not None)
        command = f"python -m benchmarks.seed_tasks --tasks {name}{options}" + (" --ours" if arguments.ours else "")
        path = arguments.out / "summary.json"
        found = write_figures(path, run(name, folder, arguments), command, keep=True)["figures"]
        show(write_figures(path, of_all(found), f'make seed-task TASK="{" ".join(TASKS)}"', keep=True)["figures"])


if __name__ == "__main__":
    main()
