# SPDX-License-Identifier: Apache-2.0
"""How often a model and its planner reach goals of recordings that the model never saw: `lewm eval BUNDLE DATA`.

Start and goal are frames of held-out episodes; the goal is given as the recorded picture. Every planner and baseline
gets the same trials, so that two planners are compared trial by trial.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from tqdm import tqdm

from lewm_model.bundle.held_out import held_out_episodes
from lewm_model.config import PlanConfig
from lewm_model.data.clips import DataError, Episodes
from lewm_model.evaluation.statistics import Pair, Rate, compare, first_hit, held
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.sim.closed_loop import samples_a_step
from lewm_model.sim.world import State
from lewm_model.tasks.reach import NEAR, Reach
from lewm_model.tasks.registry import Suite
from lewm_model.tasks.task import Outcome, Trial, attempt, baselines, follow, run_scripted, trial_of

EPISODES = 200  # trials of each task
DRAWS = 50  # of a start in an episode, before the next episode is tried
SHOWN = 12  # rows of the gallery at most
PLANNERS = {
    "icem": PlanConfig(),
    "cem": PlanConfig(sampler="cem"),
    "proposal": PlanConfig(sampler="cem", samples=1, elites=1, iterations=1),  # the first guess, without a search
}
BASELINES = {
    "hold": "does not move",
    "random": "moves as the recordings do",
    "replay": "the recorded actions",
    "straight": "straight line in joint space; is told the goal's joint positions",
}


@dataclass(frozen=True)
class RecordedTrial:
    """A trial cut from a recording: rows of its start and goal, and the recorded picture of the goal, (S, S, 3)."""

    trial: Trial
    start_row: int
    goal_row: int
    goal_picture: np.ndarray
    path: np.ndarray | None  # (T, A) rad, recorded from start to goal, a control step apart; None: of two episodes


@dataclass
class Results:
    """The results of one planner or baseline in each trial."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    steps: list[int | None] = field(default_factory=list)  # control steps until the first hit; None: never hit
    plan_s: list[float] = field(default_factory=list)  # of every plan
    ends: list[np.ndarray] = field(default_factory=list)  # (S, S, 3) pictures at the end of the budget

    @property
    def held(self) -> Rate:
        return held(self.outcomes)

    @property
    def first_hit(self) -> Rate:
        return first_hit(self.outcomes)

    @property
    def final_error_mm(self) -> float:
        """Median, at the end of the budget."""
        return 1e3 * float(np.median([outcome.final_error for outcome in self.outcomes]))

    @property
    def steps_to_hit(self) -> float | None:
        """Median of the tasks that were hit."""
        hits = [steps for steps in self.steps if steps is not None]
        return float(np.median(hits)) if hits else None

    @property
    def plan_ms(self) -> float | None:
        return 1e3 * float(np.median(self.plan_s)) if self.plan_s else None

    def compared_with(self, other: Results) -> Pair:
        """How many trials each of the two held, trial by trial."""
        return compare(self.name, other.name, list(zip(self.outcomes, other.outcomes, strict=True)))


def cut_trials(
    task: Reach, count: int, seed: int, data: Episodes, episodes: np.ndarray, sim: ArmSim
) -> list[RecordedTrial]:
    """The first `count` trials from these episodes (K,), in turn; the same seed gives the same trials.

    Start and goal are two frames of an episode, the task's `goal_steps` control steps apart, or frames of two episodes
    if it has none. A start within the tolerance of its goal is drawn again.

    :raises DataError: the recording has no joint positions, other joints, or episodes that are too short or too few.
    """
    if data.proprio is None or data.action_names != sim.names or data.proprio.shape[1] != len(sim.names):
        raise DataError(
            f"{data.source}: trials in this simulated world need recorded positions ('proprio') of the joints "
            f"{', '.join(sim.names)}; record with `lewm collect`, or give the recording's world with --world"
        )
    steps = NEAR.goal_steps if task.goal_steps is None else task.goal_steps
    assert steps is not None
    long_enough = episodes[data.lengths[episodes] > steps]
    if len(long_enough) < 2:
        raise DataError(
            f"{data.source}: {len(long_enough)} held-out episodes have more than {steps} frames; 2 are needed, "
            "record more"
        )
    order = np.random.default_rng((seed, 0)).permutation(long_enough)
    trials = []
    for number in range(count):
        rng = np.random.default_rng((seed, 1, number))
        for draw in range(DRAWS * len(order)):  # DRAWS in the episode whose turn it is, then DRAWS in the next one
            first = int(order[(number + draw // DRAWS) % len(order)])
            start_row = int(data.offsets[first] + rng.integers(data.lengths[first] - steps))
            if task.goal_steps is not None:
                goal_row = start_row + task.goal_steps
            else:
                second = int(rng.choice(order[order != first]))
                goal_row = int(data.offsets[second] + rng.integers(data.lengths[second]))
            start, goal = (
                np.clip(data.proprio[row].astype(float), sim.limits.lower, sim.limits.upper)
                for row in (start_row, goal_row)
            )
            trial = trial_of(task, State(start), State(goal), sim)
            if trial.before > task.tolerance(sim):
                break
        else:
            raise DataError(f"{data.source}: the arm hardly moves in any episode; record some in which it does")
        path = None
        if task.goal_steps is not None:
            moved = np.cumsum(data.actions[start_row:goal_row] * data.control_dt_s, axis=0)
            path = np.concatenate([start[None], start + moved])
        trials.append(RecordedTrial(trial, start_row, goal_row, data.pixels[goal_row], path))
    return trials


def run_planner(
    name: str,
    trials: Sequence[RecordedTrial],
    sim: ArmSim,
    runtime: Runtime,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> Results:
    """Runs one of PLANNERS in the trials; trial i has the random numbers of `seed` + i."""
    results, samples = Results(name), samples_a_step(sim)
    for number, recorded in enumerate(trials):
        ran = attempt(recorded.trial, sim, runtime, PLANNERS[name], seed + number, recorded.goal_picture)
        hits = np.flatnonzero(ran.errors <= recorded.trial.task.tolerance(sim))
        results.outcomes.append(ran.outcome)
        results.steps.append(math.ceil(hits[0] / samples) if len(hits) else None)
        results.plan_s += ran.plan_s
        results.ends.append(sim.picture(runtime.bundle.observation))
        progress()
    return results


def run_baselines(recorded: Sequence[RecordedTrial], sim: ArmSim, seed: int) -> Iterator[Results]:
    """Runs BASELINES in the trials, without "replay" if start and goal are of two episodes."""
    trials = [each.trial for each in recorded]
    for name, outcomes in baselines(trials, sim, seed):
        yield Results(name, outcomes)
    if all(each.path is not None for each in recorded):
        yield Results("replay", [_replay(each, sim) for each in recorded])
    yield Results("straight", [run_scripted(trial, sim, seed, number) for number, trial in enumerate(trials)])


def _replay(recorded: RecordedTrial, sim: ArmSim) -> Outcome:
    assert recorded.path is not None
    return follow(recorded.trial, sim, sim.control_dt_s * np.arange(len(recorded.path)), recorded.path)


def as_dict(kind: str, trials: Sequence[RecordedTrial], results: Sequence[Results], pairs: Sequence[Pair]) -> dict:
    """All results of one task, for JSON."""

    def one(each: Results) -> dict[str, Any]:
        return {
            "held_percent": each.held.percent,
            "held_interval": each.held.interval,
            "first_hit_percent": each.first_hit.percent,
            "first_hit_interval": each.first_hit.interval,
            "final_error_mm_median": each.final_error_mm,
            "steps_to_hit_median": each.steps_to_hit,
            "plan_ms_median": each.plan_ms,
            "outcomes": [asdict(outcome) for outcome in each.outcomes],
            "steps": each.steps,
        }

    return {
        "kind": kind,
        "tasks": [{"start_row": trial.start_row, "goal_row": trial.goal_row} for trial in trials],
        "policies": {each.name: one(each) for each in results},
        "pairs": [{**asdict(pair), "p_value": pair.p_value, "difference_percent": pair.difference} for pair in pairs],
    }


def draw_gallery(path: Path, data: Episodes, trials: Sequence[RecordedTrial], results: Results) -> int:
    """Draws start, goal and end of the trials that were not held, worst first; if all were held, of the worst three.

    :return: the number of trials that were not held.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    outcomes = results.outcomes
    worst = sorted(range(len(trials)), key=lambda i: (outcomes[i].held, -outcomes[i].final_error))
    failed = [i for i in worst if not outcomes[i].held]
    shown = (failed or worst[:3])[:SHOWN]
    figure, rows = plt.subplots(
        len(shown), 3, figsize=(6.3, 2.2 * len(shown)), squeeze=False, layout="constrained", dpi=100
    )
    what = f"{len(failed)} of {len(trials)} not held" + ("" if failed else "; those that ended farthest")
    figure.suptitle(f"{results.name}, {trials[0].trial.task.name}: {what}", fontsize=10)
    for row, i in zip(rows, shown, strict=True):
        pictures = (data.pixels[trials[i].start_row], trials[i].goal_picture, results.ends[i])
        hit = ", had been there" if outcomes[i].first_hit and not outcomes[i].held else ""
        titles = (f"start {i}", "goal", f"end: {1e3 * outcomes[i].final_error:.0f} mm off{hit}")
        for axes, shot, title in zip(row, pictures, titles, strict=True):
            axes.imshow(shot)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return len(failed)


@dataclass(frozen=True)
class Evaluation:
    """All results of one task."""

    kind: str  # the name of the task
    results: list[Results]  # of the planners, then of the baselines
    pairs: list[Pair]  # the first planner with each other one


def evaluate_reach(
    suite: Suite,
    runtime: Runtime,
    data: Episodes,
    out: Path,
    episodes: int = EPISODES,
    seed: int = 0,
    planners: Sequence[str] = ("icem", "proposal"),
    world: Path | None = None,
) -> Iterator[Evaluation]:
    """Runs planners and baselines in `episodes` trials of each task, cut from the held-out episodes of `data`.

    Writes a gallery `out`/<task>_<planner>.png for each planner, and `out`/reach.json, which grows with each task.

    :param suite: the tasks, which must be to reach.
    :param world: SDF or scene file; by default the suite's.
    :raises DataError: the recording is not of this arm, has no held-out episodes, or no trials can be cut from it.
    :raises ValueError: a task is not to reach, or a planner is unknown.
    """
    tasks = [task for task in suite.tasks if isinstance(task, Reach)]
    if len(tasks) < len(suite.tasks):
        raise ValueError(
            f"goals of {suite.name} are drawn in simulation and cannot be cut from a recording; leave {data.path} out"
        )
    unknown = [name for name in planners if name not in PLANNERS]
    if unknown or not planners:
        raise ValueError(
            f"there is no planner {', '.join(unknown) or '(none named)'}; choose from {', '.join(PLANNERS)}"
        )
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; it must be 1 or more")
    kept = held_out_episodes(runtime.bundle, data)
    out.mkdir(parents=True, exist_ok=True)
    described: list[dict[str, Any]] = []
    progress = tqdm(desc="episodes", unit="ep", disable=not sys.stderr.isatty())
    with ArmSim(world or suite.world_file) as sim, progress as bar:
        bar.total = episodes * len(planners) * len(tasks)
        for task in tasks:
            trials = cut_trials(task, episodes, seed, data, kept, sim)
            results = [run_planner(name, trials, sim, runtime, seed, bar.update) for name in planners]
            pairs = [results[0].compared_with(other) for other in results[1:]]
            for each in results:
                draw_gallery(out / f"{task.name}_{each.name}.png", data, trials, each)
            results += run_baselines(trials, sim, seed)
            described.append(as_dict(task.name, trials, results, pairs))
            facts = {
                "bundle": str(runtime.bundle.folder),
                "data": {"source": data.source, "sha256": data.sha256, "held_out_episodes": len(kept)},
                "backend": runtime.backend,
                "seed": seed,
                "tasks": described,
            }
            (out / "reach.json").write_text(json.dumps(facts, indent=1) + "\n")
            yield Evaluation(task.name, results, pairs)


def table(evaluation: Evaluation) -> Table:
    """The results of one task, for the terminal."""
    first = evaluation.results[0]
    told = "; ".join(f"{each.name}: {BASELINES[each.name]}" for each in evaluation.results if each.name in BASELINES)
    shown = Table(title=f"{evaluation.kind}: {len(first.outcomes)} trials from held-out episodes", caption=told)
    for heading in ("", "held at the end (95 %)", "ever there", "final error, mm", "steps to it", "plan, ms"):
        shown.add_column(heading, justify="left" if heading in ("", "held at the end (95 %)") else "right")
    for each in evaluation.results:
        steps = "-" if each.steps_to_hit is None else f"{each.steps_to_hit:.0f}"
        plan = "-" if each.plan_ms is None else f"{each.plan_ms:.0f}"
        ever, error = f"{each.first_hit.percent:.1f} %", f"{each.final_error_mm:.0f}"
        shown.add_row(each.name, str(each.held), ever, error, steps, plan)
    return shown
