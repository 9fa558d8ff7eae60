# SPDX-License-Identifier: Apache-2.0
"""Where the joints were commanded and measured at given times, from messages that came at other times.

All times are seconds since the same moment on one clock, positions are rad, A is the number of joints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lewm_model.data.converters.columns import TURN
from lewm_model.data.converters.rosbag2.messages import NS_PER_S, Command, State
from lewm_model.robot.trajectory import JointTrajectory

WRAP = 0.9 * TURN  # a joint whose number changes by more from message to message has wrapped at pi
WRAP_S = 0.1  # points of a trajectory farther apart in time may be a turn apart without having wrapped
SLOPE_S = 0.02  # to either side of a moment, over which the measured velocity is taken


def interpolated(times_s: np.ndarray, known_s: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each column of `known` (M, A), given at `known_s` (M,), at `times_s` (N,): (N, A), linearly."""
    return np.stack([np.interp(times_s, known_s, column) for column in known.T], axis=1)


def between_clocks(times_s: np.ndarray, from_s: np.ndarray, to_s: np.ndarray) -> np.ndarray:
    """`times_s` (N,) of one clock as times of another, from pairs (M,) of readings of both at the same moments.

    Before the first pair and after the last one both clocks are taken to run at the same rate.
    """
    outside = np.minimum(times_s - from_s[0], 0.0) + np.maximum(times_s - from_s[-1], 0.0)
    return np.interp(times_s, from_s, to_s) + outside


def commanded_positions(
    times_s: np.ndarray,
    commands: Sequence[Command],
    received_s: np.ndarray,
    epoch_ns: int,
    measured_s: np.ndarray,
    measured: np.ndarray,
    left_out: Counter[str],
) -> np.ndarray:
    """Commanded positions (N, A) at `times_s` (N,), as the controller interpolates trajectories; NaN while unknown.

    :param received_s: (C,) when the controller received each command; it applies until the next one.
    :param epoch_ns: stamp of the time 0.
    :param measured_s: (M,) times of `measured` (M, A), from which a trajectory that starts in the future is approached.
    :param left_out: counts the commands that the controller refuses.
    """
    positions = np.full((len(times_s), measured.shape[1]), np.nan)
    in_force: JointTrajectory | None = None
    for i, command in enumerate(commands):
        if len(command.times_s) == 0:
            in_force = None
            continue
        now = received_s[i]
        before, here, after = interpolated(now + SLOPE_S * np.array([-1.0, 0.0, 1.0]), measured_s, measured)
        start_s = (command.stamp_ns - epoch_ns) / NS_PER_S if command.stamp_ns else now
        points = command.positions
        if points is None:
            begin = here if in_force is None else in_force.sample(np.array([now]))[0]
            points = _integrated(command, begin, max(0.0, now - start_s))
        try:
            in_force = JointTrajectory(
                command.times_s,
                points,
                command.velocities,
                start_s=start_s,
                now_s=now,
                position_now=here,
                velocity_now=(after - before) / (2.0 * SLOPE_S),
                accelerations=command.accelerations,
            )
        except ValueError:
            left_out["JointTrajectory messages: malformed, or ended in the past: the controller refuses them"] += 1
        end_s = received_s[i + 1] if i + 1 < len(commands) else np.inf
        inside = (times_s >= now) & (times_s < end_s)
        if in_force is not None and inside.any():
            positions[inside] = in_force.sample(times_s[inside])
    return positions


def _integrated(command: Command, begin: np.ndarray, late_s: float) -> np.ndarray:
    """Points (T, A) of a command that has velocities only, which is at `begin` (A,) `late_s` after its start.

    The first point's velocity counts from the start on.
    """
    assert command.velocities is not None
    before = np.vstack([command.velocities[:1], command.velocities[:-1]])
    steps = 0.5 * (before + command.velocities) * np.diff(command.times_s, prepend=0.0)[:, None]
    way = np.cumsum(steps, axis=0)
    passed = interpolated(np.array([late_s]), np.append(0.0, command.times_s), np.vstack([np.zeros_like(begin), way]))
    points: np.ndarray = begin + way - passed
    return points


def demanded_positions(
    times_s: np.ndarray, references: Sequence[State], epoch_ns: int, longest_s: float, turning: np.ndarray
) -> np.ndarray:
    """The controller's reference positions (N, A) at `times_s` (N,), interpolated linearly.

    NaN where the references before and after are more than `longest_s` apart.

    :param turning: (N, A) measured positions of the joints whose numbers wrap at pi, NaN for others.
    """
    at_s = np.array([state.stamp_ns - epoch_ns for state in references]) / NS_PER_S
    demanded = np.array([state.positions for state in references])
    wraps = ~np.isnan(turning).all(0)
    demanded[:, wraps] = np.unwrap(demanded[:, wraps], axis=0)
    positions = interpolated(times_s, at_s, demanded)
    positions[:, wraps] += TURN * np.round((turning - positions)[:, wraps] / TURN)
    positions[~enclosed(times_s, at_s, longest_s)] = np.nan
    return positions


def joined_states(states: Sequence[State], longest_s: float) -> list[State]:
    """The states as they are, or, where each joint comes in messages of its own, those of all messages with the others'
    positions interpolated between theirs, which are at most `longest_s` apart.
    """
    if not np.isnan([one.positions for one in states]).any():
        return list(states)
    states = sorted(states, key=lambda one: one.stamp_ns)
    at_s = np.array([one.stamp_ns - states[0].stamp_ns for one in states]) / NS_PER_S
    logs_ns = np.maximum.accumulate([one.log_ns for one in states]).tolist()
    positions, good = np.stack([one.positions for one in states]), np.ones(len(states), bool)
    for column in positions.T:
        known = ~np.isnan(column)
        if known.sum() < 2:
            return []
        good &= known | enclosed(at_s, at_s[known], longest_s)
        column[:] = np.interp(at_s, at_s[known], column[known])
    return [State(logs_ns[i], states[i].stamp_ns, positions[i]) for i in np.flatnonzero(good)]


def enclosed(times_s: np.ndarray, known_s: np.ndarray, longest_s: float) -> np.ndarray:
    """(N,) bool: whether each time lies between two of `known_s` (M,), M >= 2, that are at most `longest_s` apart."""
    before = np.searchsorted(known_s, times_s, side="right") - 1
    apart_s = np.diff(known_s)[np.clip(before, 0, len(known_s) - 2)]
    inside: np.ndarray = (before >= 0) & (before < len(known_s) - 1) & (apart_s <= longest_s)
    return inside


def unwrapped(
    measured: np.ndarray, measured_s: np.ndarray, commands: list[Command], received_s: np.ndarray
) -> tuple[np.ndarray, list[Command], list[int]]:
    """Measured positions (M, A) and commands with the turns counted of joints whose numbers wrap at pi, and which
    joints those are.
    """
    wraps = (np.abs(np.diff(measured, axis=0)) > WRAP).any(0)
    for told in commands:
        if told.positions is not None and len(told.positions) > 1:
            short = np.diff(told.times_s)[:, None] < WRAP_S
            jumps = ((np.abs(np.diff(told.positions, axis=0)) > WRAP) & short).any(0)
            wraps[: len(jumps)] |= jumps
    if not wraps.any():
        return measured, commands, []
    measured = np.where(wraps, np.unwrap(measured, axis=0), measured)
    mended = []
    for told, now_s in zip(commands, received_s, strict=True):
        if told.positions is not None and len(told.positions):
            width = told.positions.shape[1]
            there = interpolated(np.array([now_s]), measured_s, measured)[0, :width]
            points = np.unwrap(told.positions, axis=0)
            at = int(np.clip(np.searchsorted(told.times_s, 0.0), 0, len(points) - 1))
            points += TURN * np.round((there - points[at]) / TURN)
            told = told._replace(positions=np.where(wraps[:width], points, told.positions))
        mended.append(told)
    return measured, mended, np.flatnonzero(wraps).tolist()
