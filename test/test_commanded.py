# SPDX-License-Identifier: Apache-2.0
"""The motion that a stream of trajectories commands: gaps, pauses and broken limits are found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lewm_model.planning.motion import KnotLimits, Timeline
from lewm_model.robot.limits import JointLimits
from lewm_ros.commanded import GRID_S, Command, count_violations, latest_arrival_s, longest_pause_s, stitch
from lewm_ros.safety import ShieldConfig

LIMITS = JointLimits(("a", "b"), np.full(2, -2.6), np.full(2, 2.6), np.full(2, 1.5), np.full(2, 9.0), np.full(2, 150.0))
SPEED = np.array([0.8, -0.5])


def stream(blocks: int = 6, delay_s: float = -0.02) -> list[Command]:
    """An arm that is told of each block `delay_s` after the block has begun."""
    timeline = Timeline(0.0, np.zeros(2), KnotLimits(LIMITS, 0.25))
    commands = []
    for knot in range(blocks):
        timeline.splice(knot, SPEED[None])
        begin = max(0.0, 0.25 * knot - 0.1)
        motion = timeline.sample(np.arange(begin, timeline.end_s + 0.05, 0.05))
        commands.append(Command(0.25 * knot + delay_s, motion))
    return commands


def test_commands_in_time_make_one_motion_without_gap_pause_or_violation():
    commands = stream()
    times = np.arange(0.0, 1.5, GRID_S)
    positions, velocities = stitch(commands, times)
    np.testing.assert_allclose(velocities[(times > 0.3) & (times < 1.4)], np.broadcast_to(SPEED, (219, 2)), atol=5e-3)
    assert positions[-1] == pytest.approx(SPEED * (times[-1] - 0.125), abs=2e-3)
    assert latest_arrival_s(commands, ShieldConfig()) == 0.0
    assert longest_pause_s(velocities, LIMITS) == 0.0
    assert count_violations(commands, LIMITS) == 0


def test_a_command_that_comes_late_is_a_gap_as_long_as_it_is_late():
    late = stream()
    late[3] = dataclasses.replace(late[3], received_s=late[3].received_s + 0.2)  # 0.18 s into its block
    gap_s = latest_arrival_s(late, ShieldConfig())
    assert 0.1 < gap_s <= 0.18
    assert count_violations(late, LIMITS) > 0, "the arm jumps where the late command takes over"


def test_a_rest_between_two_motions_is_a_pause():
    commands = stream(2)
    rest = Timeline(2.0, commands[-1].trajectory.positions[-1], KnotLimits(LIMITS, 0.25))
    rest.splice(0, SPEED[None])
    commands.append(Command(1.95, rest.sample(np.arange(1.9, rest.end_s + 0.05, 0.05))))
    _, velocities = stitch(commands, np.arange(0.0, 3.0, GRID_S))
    assert longest_pause_s(velocities, LIMITS) == pytest.approx(2.0 - 0.75, abs=0.1)


def test_before_the_first_command_the_arm_rests_where_that_begins():
    commands = stream(1, delay_s=0.1)
    positions, velocities = stitch(commands, np.array([-1.0, 0.0, 0.05]))
    assert not velocities.any() and not positions.any()
