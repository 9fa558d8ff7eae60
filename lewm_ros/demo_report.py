# SPDX-License-Identifier: Apache-2.0
"""The tables, figures and pictures of the demo, from its recorded episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lewm_model.evaluation.figures import write_figures
from lewm_model.evaluation.statistics import Rate, first_hit, held
from lewm_model.robot.limits import JointLimits
from lewm_model.tasks.registry import Suite
from lewm_model.tasks.task import Outcome
from lewm_ros.commanded import GRID_S, count_broken, latest_arrival_s, longest_pause_s, stitch
from lewm_ros.demo_pictures import Episode, save_failure, save_summary, save_velocities
from lewm_ros.safety import ShieldConfig


@dataclass
class Results:
    """Everything that a run of the demo recorded."""

    suite: Suite
    episodes: list[Episode]
    stopped: list[Episode]  # some goals of the last task again, by a planner that stops the arm to plan
    outcomes: Mapping[tuple[str, str], Sequence[Outcome]]  # by (task, policy)
    limits: JointLimits
    tolerance_m: Mapping[str, float]  # by task
    diameter_m: float
    planner: Mapping[str, str]  # last diagnostics of the nodes
    camera: Mapping[str, str]
    simulator: Mapping[str, str]
    camera_rate_hz: float
    first_command_s: float  # s after the start of the program
    nodes_started_s: float  # s after the start of the program
    resets: int
    light: str = "constant"  # or "changing"

    @property
    def interventions(self) -> int:
        """Number of interventions of the shield."""
        return sum(int(value) for key, value in self.planner.items() if key.startswith("interventions"))

    @property
    def hurt(self) -> int:
        """How often the simulated arm collided with itself or the table, or a joint left its limits."""
        return sum(int(self.simulator.get(name, 0)) for name in ("collisions", "beyond_limits"))


def report(results: Results, console: Console, out: Path, command: str) -> dict[str, Any]:
    """Prints the tables, writes summary.json and the pictures; returns what summary.json holds."""
    latencies_ms = np.concatenate([episode.latencies_ms for episode in results.episodes])
    rates = {key: held(found) for key, found in results.outcomes.items()}
    found = [*_success(results), *_latency(results, latencies_ms), *_motion(results)]
    values = {name: value for name, value, _ in found}
    console.print(_success_table(results, rates))
    console.print(_latency_table(results, latencies_ms))
    failures = [_failure(episode, results, out) for episode in results.episodes if not _of(episode).held]
    figures = {results.suite.figure_name(f"{results.suite.demo}.{name}"): (value, unit) for name, value, unit in found}
    if results.light == "changing":
        every = held([_of(episode) for episode in results.episodes])
        for end, value in zip(("", "_low", "_high"), (every.percent, *every.interval), strict=True):
            unit = f"% of {every.trials} goals while light, table and camera change"
            figures[f"{results.suite.demo}.success_held_in_changing_light{end}"] = (value, unit)
    summary = write_figures(out / "summary.json", figures, command, failures=failures)
    save_summary(out / "summary.png", results.episodes, rates, latencies_ms, results.tolerance_m)
    if results.stopped:
        pair = [next(e for e in results.episodes if e.trial is results.stopped[0].trial), results.stopped[0]]
        titles = ("planning while the arm moves", "stopping to plan")
        save_velocities(out / "velocity.png", titles, pair, results.limits.names)
    console.print(
        f"first command {results.first_command_s - results.nodes_started_s:.1f} s after the nodes were started "
        f"({results.first_command_s:.1f} s after the program was); camera {results.camera_rate_hz:.1f} Hz, "
        f"{results.camera.get('frames_dropped', '?')} frames dropped; {results.interventions} interventions of the "
        f"shield; longest gap between commands {values['longest_command_gap_ms']:.0f} ms; "
        f"{values['violations']:.0f} violations of limits and collisions"
        + (
            f"; {values['goals_per_minute']:.1f} goals per minute, {values['goals_per_minute_stopping']:.1f} by "
            "stopping to plan"
            if results.stopped
            else ""
        )
    )
    missed = f"{len(failures)} of {len(results.episodes)} goals were not held" if failures else "every goal was held"
    console.print(f"{missed}; the figures are in {out}/summary.json, a film of it in {out}/demo.mp4", soft_wrap=True)
    return summary


Figures = list[tuple[str, float, str]]  # name, value, unit


def _of(episode: Episode) -> Outcome:
    assert episode.outcome is not None
    return episode.outcome


def _success(results: Results) -> Figures:
    figures: Figures = []
    last = results.suite.tasks[-1].name  # its figures have no suffix
    for kind in (last, *(task.name for task in results.suite.tasks[:-1])):
        suffix = "" if kind == last else f"_{kind}"
        found = results.outcomes[kind, "planner"]
        rate = held(found)
        errors_m = np.array([outcome.final_error for outcome in found])
        figures += [
            (f"success_held{suffix}", rate.percent, "%"),
            (f"success_held{suffix}_low", rate.interval[0], "%, 95 % Wilson interval"),
            (f"success_held{suffix}_high", rate.interval[1], "%, 95 % Wilson interval"),
            (f"success_held_random{suffix}", held(results.outcomes[kind, "random"]).percent, "%"),
            (f"success_held_hold{suffix}", held(results.outcomes[kind, "hold"]).percent, "%"),
            (f"success_first_hit{suffix}", first_hit(found).percent, "%"),
            (f"final_error_mm_p50{suffix}", 1e3 * float(np.median(errors_m)), "mm"),
            (
                f"final_error_percent_p50{suffix}",
                100 * float(np.median(errors_m)) / results.diameter_m,
                "% of diameter",
            ),
            (f"goals{suffix}", len(errors_m), "goals"),
        ]
    return figures


def _latency(results: Results, latencies_ms: np.ndarray) -> Figures:
    figures: Figures = []
    for percent in (50, 95):
        value = float(np.percentile(latencies_ms, percent)) if len(latencies_ms) else np.nan
        figures.append((f"frame_to_command_ms_p{percent}", value, "ms"))
        for name, values in (("encode", results.camera), ("plan", results.planner)):
            figures.append((f"{name}_ms_p{percent}", float(values.get(f"{name}_ms_p{percent}", "nan")), "ms"))
    return [
        *figures,
        ("first_command_s", results.first_command_s - results.nodes_started_s, "s after the nodes were started"),
        ("first_command_of_program_s", results.first_command_s, "s after the program was started"),
        ("camera_rate_hz", results.camera_rate_hz, "Hz"),
        ("dropped_frames", int(results.camera.get("frames_dropped", 0)), "frames"),
        ("plans", int(results.planner.get("plans", 0)), "plans"),
        ("plans_late", int(results.planner.get("plans_late", 0)), "plans"),
        ("shield_interventions", results.interventions, "interventions"),
        ("stop_resets", results.resets, "resets"),
    ]


def _motion(results: Results) -> Figures:
    """Smoothness: gaps between commands, limit violations, and goals per minute compared with stopping to plan.

    A gap is a time in which the arm still followed an old command after the new one had departed from it, or in which
    it was commanded to rest before it had first been at the goal. Moments at which the command jumped are counted by
    the simulated controller, which knows when each command took over.
    """
    gap_s, violations = 0.0, int(results.simulator["jerk_violations"])
    for episode in results.episodes:
        if not episode.commands:
            continue
        gap_s = max(gap_s, latest_arrival_s(episode.commands, ShieldConfig()))
        violations += count_broken(episode.commands, results.limits)
        hits = np.flatnonzero(episode.errors_m <= results.tolerance_m[episode.name])
        until_s = float(episode.times_s[hits[0]]) if len(hits) else episode.trial.budget_s
        _, velocities = stitch(episode.commands, np.arange(0.0, until_s, GRID_S))
        gap_s = max(gap_s, longest_pause_s(velocities, results.limits))
    smooth: Figures = [
        ("longest_command_gap_ms", 1e3 * gap_s, "ms"),
        ("jerk_violations", violations, "commands and moments"),
        ("largest_step_rad", float(results.simulator["largest_step_rad"]), "rad that the command jumped"),
        ("collisions", int(results.simulator.get("collisions", 0)), "times"),
        ("violations", violations + results.hurt, "of limits, and collisions with itself or the table"),
    ]
    if not results.stopped:
        return smooth
    again = [next(e for e in results.episodes if e.trial is episode.trial) for episode in results.stopped]
    tolerance_m = results.tolerance_m[again[0].name]
    ours, theirs = (_goals_per_minute(some, tolerance_m) for some in (again, results.stopped))
    return [
        *smooth,
        ("goals_per_minute", ours, "goals/min, moving"),
        ("goals_per_minute_stopping", theirs, "goals/min, stopping to plan"),
        ("goals_per_minute_ratio", ours / theirs if theirs else np.nan, "times"),
        ("goals_per_minute_goals", len(again), "goals"),
    ]


def _goals_per_minute(episodes: Sequence[Episode], tolerance_m: float) -> float:
    """Goals held per minute of the time until the arm was there to stay; one not held takes its whole budget."""
    reached, spent_s = 0, 0.0
    for episode in episodes:
        inside = (episode.times_s >= 0) & (episode.times_s <= episode.trial.budget_s)
        times, bad = episode.times_s[inside], np.flatnonzero(episode.errors_m[inside] > tolerance_m)
        if _of(episode).held and len(times):
            reached += 1
            spent_s += float(times[bad[-1]]) if len(bad) else 0.0
        else:
            spent_s += episode.trial.budget_s
    return 60 * reached / spent_s if spent_s else 0.0


def _success_table(results: Results, rates: Mapping[tuple[str, str], Rate]) -> Table:
    subjects = {task.name: task.subject for task in results.suite.tasks}
    within = {f"{subjects[name]} within {1e3 * limit:.1f} mm" for name, limit in results.tolerance_m.items()}
    title = f"{results.suite.name} over ROS: {len(results.episodes)} goals, held with the {' or '.join(sorted(within))}"
    table = Table(title=title)
    for heading in ("goals", "policy", "held (95 %)", "hit ever", "final error, p50 / p90"):
        table.add_column(heading, no_wrap=True)
    kinds = list(dict.fromkeys(episode.name for episode in results.episodes))
    for (kind, policy), found in sorted(results.outcomes.items(), key=lambda item: kinds.index(item[0][0])):
        p50, p90 = np.percentile([outcome.final_error for outcome in found], (50, 90))
        table.add_row(
            kind,
            policy,
            str(rates[kind, policy]),
            f"{first_hit(found).percent:.1f} %",
            f"{1e3 * p50:.0f} / {1e3 * p90:.0f} mm ({100 * p50 / results.diameter_m:.1f} %)",
        )
    return table


def _latency_table(results: Results, latencies_ms: np.ndarray) -> Table:
    planner, camera = results.planner, results.camera
    stages = Table(title=f"{planner.get('plans', 0)} plans, {planner.get('plans_late', 0)} late")
    for heading in ("stage", "p50 ms", "p95 ms"):
        stages.add_column(heading)
    for label, values, name in (
        ("encode a frame", camera, "encode"),
        ("camera frame to latent", camera, "frame_to_latent"),
        ("plan", planner, "plan"),
        ("camera frame to command sent", planner, "frame_to_command"),
    ):
        stages.add_row(label, values.get(f"{name}_ms_p50", "-"), values.get(f"{name}_ms_p95", "-"))
    p50, p95 = np.percentile(latencies_ms, (50, 95)) if len(latencies_ms) else (np.nan, np.nan)
    stages.add_row("camera frame to command received", f"{p50:.2f}", f"{p95:.2f}")
    return stages


def _failure(episode: Episode, results: Results, out: Path) -> dict[str, Any]:
    outcome = _of(episode)
    return {
        "kind": episode.name,
        "number": episode.number,
        "start": episode.trial.start.joints.tolist(),
        "goal": episode.trial.goal.joints.tolist(),
        "final_error_m": outcome.final_error,
        "final_error_percent": 100 * outcome.final_error / results.diameter_m,
        "least_error_m": float(episode.errors_m.min()) if len(episode.errors_m) else None,
        "first_hit": outcome.first_hit,
        "note": episode.note,
        "picture": str(save_failure(out / "failures", episode).relative_to(out)),
    }
