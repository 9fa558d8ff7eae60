# SPDX-License-Identifier: Apache-2.0
"""Soak test of the whole loop with the shipped model over real DDS: `make soak`.

    python -m validation.soak --minutes 30 --seed 0 --loss 1

Simulated arm, camera node and planner node run as three processes; the goal picture changes every 4 s; --loss percent
of the commands are lost. Every 10 s (more often in a run of less than two minutes) a sample is taken of: the memory of
each process (VmRSS), the latency of commands from the stamp of their frame to their arrival, dropped frames, and missed
command periods (a command that arrived after it had diverged from the one before, or none at all for an action block).
Growth is the difference of the medians of two windows: one begins when a fifteenth of the time is over (minutes 2 to 7
of 30), after the initial allocations, and the other ends with the run (the last 5 of 30). Memory growth is that of the
process that has grown most. Every hold and stop of the planner is listed with its cause; a stop is reset.

Writes summary.json with every sample, soak.png, and the logs of the nodes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lewm_model.bundle.bundle import load_bundle
from lewm_model.evaluation.figures import write_figures
from lewm_model.sim.arm import ArmSim
from lewm_ros.graph import GraphError
from validation.rig import AT_GOAL_RAD, MODEL, NODES, Command, Report, Rig, parting_time_s, start_rig

GOALS = 8
GOAL_S = 4.0  # between goals
WINDOW_S = 10.0
WARM_UP, SHARE = 1 / 15, 1 / 6  # of the whole time: before the first window, and length of each window
EARLY_S = 0.005  # a command that arrives sooner after its stamp is a stop, not planned from a frame


@dataclass(frozen=True)
class Sample:
    """A sample. Memory is in MiB by node; numbers of frames and periods are since the sample before."""

    time_s: float  # since the first goal
    rss_mib: dict[str, float]
    commands: int
    latency_ms_p50: float | None  # frame to command; None without commands
    latency_ms_p95: float | None
    missed_periods: int
    frames_in: int
    frames_dropped: int


class Watch:
    """Counts the commands between samples."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._block_s = load_bundle(MODEL).actions.block_s
        self._last: Command | None = None
        self._was_away = False
        self._latencies_ms: list[float] = []
        self._missed = 0
        self._frames = self._newest_frames()
        self._begin_s = rig.now_s
        self.state = ""  # of the planner
        self.holds: list[tuple[float, str]] = []  # (s since the beginning, message)
        rig.on_command, rig.on_report = self._on_command, self._on_report

    def _on_report(self, report: Report) -> None:
        state = report.values.get("state", self.state)
        if state != self.state and state in ("holding", "stopped"):
            self.holds.append((round(report.time_s - self._begin_s, 2), report.message))
        self.state = state

    def _on_command(self, command: Command) -> None:
        stamp_s = float(command.trajectory.times_s[0])
        latency_s = command.received_s - stamp_s
        again = self._last is not None and float(self._last.trajectory.times_s[0]) == stamp_s  # commands are repeated
        if latency_s > EARLY_S and not again:
            self._latencies_ms.append(1e3 * latency_s)
        if self._last is not None:
            if parting_time_s(self._last.trajectory, command.trajectory, command.received_s) < command.received_s:
                self._missed += 1
            elif self._was_away:  # at a goal no commands are sent
                self._missed += max(0, round((command.received_s - self._last.received_s) / self._block_s) - 1)
        self._last, self._was_away = command, self._rig.distance_rad() > AT_GOAL_RAD

    def _newest_frames(self) -> tuple[int, int]:
        """Frames that the camera node has received, and dropped, since it was activated."""
        for report in reversed(self._rig.reports):
            if "frames_in" in report.values:
                return int(report.values["frames_in"]), int(report.values["frames_dropped"])
        return 0, 0

    def sample(self, time_s: float) -> Sample:
        """Ends the window."""
        p50, p95 = np.percentile(self._latencies_ms, (50, 95)) if self._latencies_ms else (None, None)
        frames = self._newest_frames()
        sample = Sample(
            time_s=time_s,
            rss_mib={name: rss_mib(self._rig.graph.process(name).pid) for name in NODES},
            commands=len(self._latencies_ms),
            latency_ms_p50=p50,
            latency_ms_p95=p95,
            missed_periods=self._missed,
            frames_in=frames[0] - self._frames[0],
            frames_dropped=frames[1] - self._frames[1],
        )
        self._latencies_ms, self._missed, self._frames = [], 0, frames
        return sample


def rss_mib(process: int) -> float:
    """Resident memory of a process (VmRSS), MiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise GraphError(f"process {process} has ended")


def growth_percent(times_s: np.ndarray, values: np.ndarray) -> float:
    """Growth of the median from the first to the last window, percent."""
    whole_s = times_s[-1]
    first = (times_s > WARM_UP * whole_s) & (times_s <= (WARM_UP + SHARE) * whole_s)
    last = times_s > (1 - SHARE) * whole_s
    return float(100 * (np.nanmedian(values[last]) / np.nanmedian(values[first]) - 1))


@dataclass(frozen=True)
class Soak:
    """What was seen."""

    samples: list[Sample]
    holds: list[tuple[float, str]]  # (s since the goals began, message)
    violations: list[str]
    largest_step_rad: float = 0.0  # greatest jump of the controller's command
    time_lost_s: float = 0.0  # by a simulation that could not keep up; its arm then jumps along its trajectory


def measure(minutes: float, seed: int, out: Path, console: Console, loss: float = 0.0) -> Soak:
    """Runs the loop and takes samples.

    :raises GraphError: a node fails.
    """
    rng = np.random.default_rng(seed)
    count = max(round(60 * minutes / WINDOW_S), 12)
    window_s = 60 * minutes / count
    samples = []
    with ArmSim(render=False) as sim:
        inset = 0.1 * (sim.limits.upper - sim.limits.lower)
        poses = rng.uniform(sim.limits.lower + inset, sim.limits.upper - inset, (GOALS, len(sim.names)))
    with start_rig("soak", out / "logs", poses, seed, commands=loss > 0) as rig:
        if loss > 0:
            rig.disturb("commands_lost", seed, 0, share=loss)
        rig.show_goal(0)
        rig.arm()
        watch, begin_s, shown_s = Watch(rig), rig.now_s, rig.now_s
        for number in track(range(count), "soak", console=console):
            end_s = begin_s + (number + 1) * window_s
            while rig.now_s < end_s:
                if rig.now_s - shown_s > GOAL_S:
                    shown_s = rig.now_s
                    rig.show_goal(int((rig.goal + rng.integers(1, GOALS)) % GOALS))
                if watch.state == "stopped":
                    rig.trigger("reset")
                    rig.arm()
                rig.graph.spin_for(min(0.2, max(0.0, end_s - rig.now_s)))
            samples.append(watch.sample(rig.now_s - begin_s))
    return Soak(samples, watch.holds, rig.violations, rig.largest_step_rad, rig.time_lost_s)


def summarise(soak: Soak, minutes: float, path: Path, command: str) -> dict[str, Any]:
    """Writes the figures and all samples; returns the content of the file."""
    samples = soak.samples
    times = np.array([sample.time_s for sample in samples])
    latencies = np.array([sample.latency_ms_p50 for sample in samples], float)
    memory = {name: np.array([sample.rss_mib[name] for sample in samples]) for name in NODES}
    growth = {name: growth_percent(times, values) for name, values in memory.items()}
    commands = sum(sample.commands for sample in samples)
    values = (
        ("minutes", minutes, "min"),
        ("rss_growth_percent", max(growth.values()), "%, worst node"),
        *((f"rss_growth_percent_{name}", percent, "%") for name, percent in growth.items()),
        *((f"rss_mib_{name}", float(values[-1]), "MiB") for name, values in memory.items()),
        ("latency_growth_percent", growth_percent(times, latencies), "%"),
        ("frame_to_command_ms_p50", float(np.nanmedian(latencies)), "ms, median of the windows"),
        ("commands", commands, "commands"),
        ("missed_periods", sum(sample.missed_periods for sample in samples), "periods"),
        ("frames", sum(sample.frames_in for sample in samples), "frames"),
        ("frames_dropped", sum(sample.frames_dropped for sample in samples), "frames"),
        ("holds", len(soak.holds), "holds and stops"),
        ("limit_violations", len(soak.violations), "violations"),
        ("time_lost_s", soak.time_lost_s, "s that the simulation fell behind for good"),
        ("largest_step_rad", soak.largest_step_rad, "rad that the command jumped"),
    )
    figures = {f"soak.{name}": (value, unit) for name, value, unit in values}
    return write_figures(path, figures, command, **asdict(soak))


def report(console: Console, soak: Soak, summary: Mapping[str, Any]) -> None:
    """Prints a table of about 30 samples, the causes of holds, and the figures."""
    samples = soak.samples
    table = Table(title="windows; RSS in MiB, frame to command in ms")
    for column in ("min", *NODES, "p50", "p95", "commands", "missed", "frames", "dropped"):
        table.add_column(column, justify="right")
    for sample in samples[:: max(1, len(samples) // 30)]:
        table.add_row(
            f"{sample.time_s / 60:.1f}",
            *(f"{sample.rss_mib[name]:.1f}" for name in NODES),
            *("-" if ms is None else f"{ms:.0f}" for ms in (sample.latency_ms_p50, sample.latency_ms_p95)),
            *map(str, (sample.commands, sample.missed_periods, sample.frames_in, sample.frames_dropped)),
        )
    console.print(table)
    for time_s, message in soak.holds:
        console.print(f"{time_s / 60:.1f} min: {message}", highlight=False)
    for violation in dict.fromkeys(soak.violations):
        console.print(violation, style="red", highlight=False)
    for figure in summary["figures"]:
        console.print(f"{figure['name']} {figure['value']} {figure['unit']}", highlight=False)


def plot(path: Path, samples: Sequence[Sample]) -> None:
    """Draws memory, latency and missed periods over time."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    minutes = [sample.time_s / 60 for sample in samples]
    figure, (memory, latency, missed) = plt.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    for name in NODES:
        memory.plot(minutes, [sample.rss_mib[name] for sample in samples], label=name)
    memory.set(ylabel="memory (RSS), MiB", ylim=(0, None))
    memory.legend()
    for percentile, label in (("latency_ms_p50", "p50"), ("latency_ms_p95", "p95")):
        values = np.array([getattr(sample, percentile) for sample in samples], float)
        latency.plot(minutes, values, label=label)
    latency.set(ylabel="frame to command, ms", ylim=(0, None))
    latency.legend()
    missed.step(minutes, [sample.missed_periods for sample in samples], where="mid", label="missed command periods")
    missed.step(minutes, [sample.frames_dropped for sample in samples], where="mid", label="frames dropped")
    missed.set(xlabel="minutes", ylabel="in a window", ylim=(0, None))
    missed.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the goals and of the planner (default 0)")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the commands that are lost (default 0)")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder for the results")
    options = parser.parse_args(arguments)
    if options.minutes < 0.5:
        parser.error("--minutes must be 0.5 or more; a shorter run has no windows to compare")
    if not 0.0 <= options.loss < 100.0:
        parser.error("--loss must be 0 or more and below 100, percent")
    console = Console(width=None if sys.stdout.isatty() else 130)
    try:
        soak = measure(options.minutes, options.seed, options.out, console, options.loss / 100)
    except GraphError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    lost = f" LOSS={options.loss:g}" if options.loss else ""
    command = f"make soak MINUTES={options.minutes:g} SEED={options.seed}{lost}"
    summary = summarise(soak, options.minutes, options.out / "summary.json", command)
    report(console, soak, summary)
    plot(options.out / "soak.png", soak.samples)


if __name__ == "__main__":
    main()
