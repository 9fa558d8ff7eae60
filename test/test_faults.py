# SPDX-License-Identifier: Apache-2.0
"""`make faults`, short: its checks find violations, and each fault is injected once."""

import os
from io import StringIO

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")

from rich.console import Console

from lewm_model.planning.motion import KnotLimits, Timeline, Trajectory
from lewm_model.sim.arm import ArmSim
from validation import faults
from validation.rig import Command, CommandedMotion, parting_time_s

BLOCK_S = 0.25


@pytest.fixture(scope="module")
def limits():
    with ArmSim(render=False) as sim:
        return sim.limits


def motion_of(limits, *knots: tuple[float, float], start_s: float = 0.0, position=(0.0, 0.0)) -> Trajectory:
    """A motion from rest through velocity knots (rad/s), one block apart, to a stop."""
    timeline = Timeline(start_s, np.array(position), KnotLimits(limits, BLOCK_S))
    timeline.splice(0, np.array(knots))
    return timeline.sample(np.arange(start_s, timeline.end_s + 0.1, 0.05))


def command(sent_s: float, trajectory: Trajectory) -> Command:
    return Command(sent_s, sent_s, trajectory)


def test_a_commanded_motion_is_at_rest_from_where_it_ends_and_only_if_it_stays_there(limits):
    motion = CommandedMotion(limits)
    assert motion.rest_since(0.0, 1.0) == 0.0
    assert motion.add(command(0.0, motion_of(limits, (1.0, 0.0), (1.0, 0.0))), np.zeros(2)) is None
    assert motion.rest_since(0.2, 2.0) == pytest.approx(0.75, abs=0.03)
    assert motion.rest_since(0.2, 0.6) is None
    # It sets off again: that was a pause, not the end of the motion.
    there = np.array([0.5, 0.0])
    assert motion.add(command(1.5, motion_of(limits, (0.0, -1.0), start_s=1.5, position=there)), there) is None
    assert motion.rest_since(0.2, 1.4) == pytest.approx(0.75, abs=0.03)
    assert motion.rest_since(0.2, 1.8) is None
    assert motion.rest_since(0.2, 3.0) == pytest.approx(2.0, abs=0.03)


def test_a_command_that_breaks_a_limit_or_jumps_is_a_violation(limits):
    way = motion_of(limits, (1.0, 0.0), (1.0, 0.0))
    fast = Trajectory(way.times_s, 3 * way.positions, 3 * way.velocities)
    assert CommandedMotion(limits).add(command(0.0, fast), np.zeros(2)).startswith("velocity")
    motion = CommandedMotion(limits)
    assert motion.add(command(0.0, way), np.zeros(2)) is None
    still = motion_of(limits, (0.0, 0.0), start_s=0.4)
    assert motion.add(command(0.4, still), np.array([0.2, 0.0])).startswith("jump")


def test_after_a_rest_a_motion_may_start_where_the_arm_is_measured_and_nowhere_else(limits):
    motion = CommandedMotion(limits)
    assert motion.add(command(0.0, motion_of(limits, (1.0, 0.0))), np.zeros(2)) is None
    elsewhere = np.array([-1.0, 0.3])
    again = motion_of(limits, (1.0, 0.0), start_s=5.0, position=elsewhere)
    assert motion.add(command(5.0, again), elsewhere) is None
    assert motion.late == 0
    over = motion_of(limits, (1.0, 0.0), start_s=9.0, position=(1.0, 1.0))
    assert motion.add(command(9.0, over), elsewhere).startswith("jump")


def test_a_command_that_was_right_a_moment_ago_is_late_and_no_violation(limits):
    motion = CommandedMotion(limits)
    long, short = motion_of(limits, (1.0, 0.0), (1.0, 0.0)), motion_of(limits, (1.0, 0.0))
    assert motion.add(command(0.0, long), np.zeros(2)) is None
    assert motion.add(command(0.2, long), np.zeros(2)) is None
    assert motion.late == 0
    assert motion.add(command(0.36, short), np.zeros(2)) is None
    assert motion.late == 1


def test_two_motions_part_where_they_differ(limits):
    long, short = motion_of(limits, (1.0, 0.0), (1.0, 0.0)), motion_of(limits, (1.0, 0.0))
    assert parting_time_s(long, short, 0.7) == pytest.approx(0.25, abs=0.1)
    assert parting_time_s(long, long, 0.7) == 0.7


@pytest.fixture
def quiet(monkeypatch) -> Console:
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ["ROS_DOMAIN_ID"])  # the rig takes one of its own
    return Console(file=StringIO())


def test_after_each_fault_the_arm_is_within_its_limits_says_why_it_held_and_goes_on(tmp_path, quiet):
    done = faults.measure(faults.FAULTS, 1, 0, tmp_path, quiet)
    assert [run.fault for run in done] == [fault.name for fault in faults.FAULTS]
    for run, fault in zip(done, faults.FAULTS, strict=True):
        assert not run.violations, run
        assert run.recovered_s is not None, run
        assert not run.unnamed, run
        assert run.hold_ms is not None or not fault.holds, run
    summary = faults.summarise(faults.FAULTS, done, tmp_path / "summary.json", "test")
    figures = {figure["name"]: figure["value"] for figure in summary["figures"]}
    assert figures["faults.runs"] == len(faults.FAULTS)
    assert figures["faults.limit_violations"] == figures["faults.unrecovered"] == figures["faults.unnamed"] == 0
    assert 0 < figures["faults.hold_ms_p99"] < 1e3 * faults.LONGEST_S


def test_without_its_watchdog_the_planner_would_be_late_and_nobody_would_say_why(tmp_path, quiet):
    (stop,) = (fault for fault in faults.FAULTS if fault.name == "camera_stop")
    runs = faults.measure([stop], 3, 0, tmp_path, quiet, planner={"shield.frame_timeout_s": 10.0})
    late = [run for run in runs if run.late]
    assert len(late) >= 2, "an arm that is about to arrive rests in time by itself"
    for run in late:
        assert run.failed
        assert "late" in faults.complaint(run)
