# SPDX-License-Identifier: Apache-2.0
"""The motion that a sequence of joint trajectories commands, as a trajectory controller executes it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_ros.safety import ShieldConfig, find_violation, state_at

GRID_S = 0.005  # time step at which commanded motions are compared
RESTING = 0.005  # share of the velocity limit below which a joint counts as resting
JERK_STEP_S = 0.05  # for differences that give acceleration and jerk: the time between the points of a command
JERK_ROUNDING = 1.1  # tolerance: cubic pieces and the switch between commands add up to 10 %


@dataclass(frozen=True)
class Command:
    """A trajectory and when it arrived, s on the clock of its times."""

    received_s: float
    trajectory: Trajectory


def stitch(commands: Sequence[Command], times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Commanded positions (T, A) rad and velocities (T, A) rad/s at times (T,) s, each of the newest command that
    had arrived. Before the first command the arm rests at its start.
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
    """Longest time, s, that the arm followed an old command after the new one had departed from it; 0 when never."""
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
    """Longest rest between two motions, s, in commanded velocities (T, A) rad/s at steps of GRID_S.

    The arm rests while all joints do; a joint that reverses does so for an instant only.
    """
    moves = (np.abs(velocities) > RESTING * limits.velocity).any(1)
    at = np.flatnonzero(moves)
    return float(max(0, np.diff(at).max() - 1) * GRID_S) if len(at) > 1 else 0.0


def count_violations(commands: Sequence[Command], limits: JointLimits) -> int:
    """Number of commands that violate a limit, plus time steps at which the stitched motion exceeds the jerk limit."""
    times = np.arange(commands[0].received_s, commands[-1].trajectory.times_s[-1] + 3 * JERK_STEP_S, JERK_STEP_S)
    _, velocities = stitch(commands, times)
    return count_broken(commands, limits) + count_jerks(velocities, limits)


def count_broken(commands: Sequence[Command], limits: JointLimits) -> int:
    """Number of commands that violate a limit, each by itself."""
    return sum(find_violation(command.trajectory, limits) is not None for command in commands)


def count_jerks(velocities: np.ndarray, limits: JointLimits) -> int:
    """Number of moments at which commanded velocities (T, A) rad/s at steps of JERK_STEP_S exceed the jerk limit."""
    jerks = np.diff(velocities, n=2, axis=0) / JERK_STEP_S**2
    return int((np.abs(jerks) > JERK_ROUNDING * limits.jerk).any(1).sum())
