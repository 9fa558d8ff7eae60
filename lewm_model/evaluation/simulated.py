# SPDX-License-Identifier: Apache-2.0
"""How often a model succeeds in trials that are drawn in simulation, beside policies without a model: `lewm eval`.

"random" moves as the recordings of random motion do, "hold" does not move. "scripted" knows the state that the robot
only sees in a picture; it is not a baseline but shows what the budget allows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from tqdm import tqdm

from lewm_model.evaluation.figures import Figures
from lewm_model.evaluation.statistics import Rate, first_hit, held
from lewm_model.runtime import Runtime
from lewm_model.sim.arm import ArmSim
from lewm_model.tasks.registry import Suite
from lewm_model.tasks.task import (
    Outcome,
    Task,
    Trial,
    amount,
    attempt,
    draw_trials,
    hold_still,
    move_randomly,
    run_scripted,
)


@dataclass(frozen=True)
class Tried:
    """The outcomes of the trials of one task, by policy: "model", "random", "hold" and "scripted"."""

    task: Task[ArmSim]
    trials: list[Trial]
    tolerance: float
    outcomes: dict[str, list[Outcome]]
    plan_s: list[float]  # how long each of the model's plans took

    @property
    def held(self) -> dict[str, Rate]:
        """How many trials each policy held."""
        return {who: held(outcomes) for who, outcomes in self.outcomes.items()}

    @property
    def table(self) -> Table:
        """The results, for the terminal."""
        before, unit = [trial.before for trial in self.trials], self.task.unit
        return outcome_table(
            f"{self.task.name}: {self.task.subject} within {amount(self.tolerance, unit)}, "
            f"budget {self.trials[0].budget_s:g} s, {amount(min(before), unit)} to {amount(max(before), unit)} away "
            f"(median {amount(float(np.median(before)), unit)})",
            self.outcomes,
            unit,
        )

    @property
    def figures(self) -> Figures:
        """The figures of the model, and of the other policies with their name at the end."""
        start = f"eval.{self.task.name}"
        figures: Figures = {f"{start}_goals": (len(self.trials), "")}
        for who, rate in self.held.items():
            name = f"{start}_success_held" + ("" if who == "model" else f"_{who}")
            low, high = rate.interval
            figures |= {name: (rate.percent, "%"), f"{name}_low": (low, "%"), f"{name}_high": (high, "%")}
        figures[f"{start}_first_hit"] = (first_hit(self.outcomes["model"]).percent, "%")
        figures[f"{start}_plan_ms"] = (1000 * float(np.median(self.plan_s)) if self.plan_s else None, "ms")
        return figures


def try_suite(suite: Suite, runtime: Runtime, count: int, seed: int, world: Path | None = None) -> Iterator[Tried]:
    """Tries `count` trials of each task of a suite; the same seed gives the same trials."""
    with ArmSim(world or suite.world_file) as sim:
        for task in suite.tasks:
            trials = draw_trials(task, count, seed, sim)
            outcomes: dict[str, list[Outcome]] = {"model": [], "random": [], "hold": [], "scripted": []}
            plan_s: list[float] = []
            bar = tqdm(trials, task.name, unit="goal", disable=not sys.stderr.isatty())
            for number, trial in enumerate(bar):
                result = attempt(trial, sim, runtime, suite.plan, number)
                plan_s += result.plan_s
                outcomes["model"].append(result.outcome)
                outcomes["random"].append(move_randomly(trial, sim, seed, number))
                outcomes["hold"].append(hold_still(trial, sim))
                outcomes["scripted"].append(run_scripted(trial, sim, seed, number))
            yield Tried(task, trials, task.tolerance(sim), outcomes, plan_s)


def outcome_table(title: str, outcomes: Mapping[str, Sequence[Outcome]], unit: str) -> Table:
    """A row for each policy."""
    table = Table(title=title)
    for heading in ("", "goals", "held at the end (95 %)", "first hit", "median final error"):
        table.add_column(heading)
    for who, found in outcomes.items():
        error = amount(float(np.median([outcome.final_error for outcome in found])), unit)
        label = "scripted, which is told the goal" if who == "scripted" else who
        table.add_row(label, str(len(found)), str(held(found)), str(first_hit(found)), error)
    return table
