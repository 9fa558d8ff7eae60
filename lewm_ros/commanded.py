# SPDX-License-Identifier: Apache-2.0
"""What a stream of joint trajectories told the arm to do, put together as a trajectory controller executes it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_ros.safety import ShieldConfig, find_violation, state_at

GRID_S = 0.005  # on which commanded motions are compared
RESTING = 0.005  # of full speed: slower joints are at rest
JERK_STEP_S = 0.05  # over which acceleration and jerk are taken; the points of a command lie this far apart
JERK_ROUNDING = 1.1  # cubic pieces between points, and the switch from one command to the next, add this much


@dataclass(frozen=True)
class Command:
    """A trajectory, and when it arrived, s on the same clock."""

    received_s: float
    trajectory: Trajectory


def stitch(commands: Sequence[Command], times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Commanded positions (T, A) rad and velocities (T, A) rad/s at times (T,): the newest command that had arrived.

    Before the first one arrives the arm counts as resting where that begins.
    """
    received = np.array([command.received_s for command in commands])
    newest = np.searchsorted(received, times_s, side="right") - 1
    positions = np.tile(commands[0].trajectory.positions[0], (len(times_s), 1))
    velocities = np.zeros_like(positions)
    for i, command in enumerate(commands):
        now = newest == i
        positions[now], velocities[now] = state_at(command.trajectory, times_s[now])
    return positions, velocities


def latest_arrival_s(commands: Sequence[Command], config: ShieldConfig) -> float:
    """How long the arm followed an old command after the new one had turned away from it, at most, s; 0 when never."""
    worst = 0.0
    for old, new in itertools.pairwise(commands):
        times = np.arange(new.trajectory.times_s[0], new.received_s, GRID_S)
        (q0, v0), (q1, v1) = (state_at(command.trajectory, times) for command in (old, new))
        apart = (np.abs(q1 - q0) > config.jump_tolerance_rad) | (np.abs(v1 - v0) > config.jump_tolerance_rad_s)
        turned = np.flatnonzero(apart.any(1))
        if len(turned):
            worst = max(worst, new.received_s - float(times[turned[0]]))
    return worst


def longest_pause_s(velocities: np.ndarray, limits: JointLimits) -> float:
    """Longest rest between two motions in commanded velocities (T, A) on a grid of GRID_S, s.

    A joint that turns round rests for an instant only, and not while another one moves.
    """
    moves = (np.abs(velocities) > RESTING * limits.velocity).any(1)
    at = np.flatnonzero(moves)
    return float(max(0, np.diff(at).max() - 1) * GRID_S) if len(at) > 1 else 0.0


def count_violations(commands: Sequence[Command], limits: JointLimits) -> int:
    """Commands that break a limit by themselves, and moments at which the stitched motion exceeds the jerk limit."""
    broken = sum(find_violation(command.trajectory, limits) is not None for command in commands)
    times = np.arange(commands[0].received_s, commands[-1].trajectory.times_s[-1] + 3 * JERK_STEP_S, JERK_STEP_S)
    _, velocities = stitch(commands, times)
    jerks = np.diff(velocities, n=2, axis=0) / JERK_STEP_S**2
    return broken + int((np.abs(jerks) > JERK_ROUNDING * limits.jerk).any(1).sum())
