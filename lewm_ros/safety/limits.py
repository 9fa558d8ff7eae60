# SPDX-License-Identifier: Apache-2.0
"""Checks a single trajectory against the limits of the arm, at its points and between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.limits import JointLimits
from lewm_model.robot.trajectory import cubic

ROUNDING = 1e-6  # relative tolerance: times are rounded to nanoseconds in messages
# How far cubic pieces between the points may exceed the position (rad) and velocity (share) limits that the points
# keep. A feasible motion with points every 0.05 s needs 2e-4 rad and 0.4 %.
CUBIC_RAD, CUBIC_SHARE = 5e-4, 0.01
REST_RAD_S = 1e-6  # commanded speed up to which a joint counts as resting: rounding
MIN_STEP_S = 1e-3  # between points: at less, differences amplify rounding, and controllers of 1 kHz skip points
MAX_STEP_S = 0.1  # between points: at more, too much of the motion is left to the controller's interpolation


class Reason(Enum):
    """Why the shield intervened."""

    NOT_ARMED = "not armed"
    STALE_FRAME = "stale frame"
    STALE_JOINTS = "stale joint state"
    STALE_PLAN = "stale plan"
    NO_CONTROLLER = "no controller"
    PAUSED = "paused"
    NOT_FINITE = "not finite"
    TIMES = "times"
    POSITION = "position limit"
    VELOCITY = "velocity limit"
    ACCELERATION = "acceleration limit"
    JERK = "jerk limit"
    NO_STOP = "no stop at the end"
    JUMP = "jump"
    LOST = "lost command"
    SCALING = "speed scaling"
    WORKSPACE = "workspace"
    SELF_COLLISION = "self-collision"
    TRACKING = "tracking error"
    EFFORT = "effort limit"
    DEADMAN = "dead-man's button"
    SURPRISE = "surprise"
    CLOCK = "clock"
    STOP = "stop"


@dataclass(frozen=True)
class Intervention:
    """A decision of the shield against a motion: the reason, by which it is counted, and a sentence for people."""

    reason: Reason
    text: str


def state_at(trajectory: Trajectory, time_s: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (…, A) rad and velocities (…, A) rad/s at times (…): cubic between the points, at rest outside them."""
    times, at = trajectory.times_s, np.asarray(time_s, float)
    i = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    h = (times[i + 1] - times[i])[..., None]
    u = np.clip((at - times[i])[..., None] / h, 0.0, 1.0)
    positions, velocities = trajectory.positions, trajectory.velocities
    position, velocity = cubic(u, h, positions[i], positions[i + 1], velocities[i], velocities[i + 1])
    inside = (at >= times[0]) & (at <= times[-1])
    return position, np.where(inside[..., None], velocity, 0.0)


@np.errstate(all="ignore")  # values that overflow are refused
def find_violation(trajectory: Trajectory, limits: JointLimits) -> Intervention | None:
    """The reason why a trajectory must not be executed, whatever came before it; None when it may be.

    Positions and velocities are checked at the points and, since the controller interpolates with cubic polynomials, at
    the extremes between them, which may exceed the limits by CUBIC_RAD and CUBIC_SHARE. Acceleration and jerk are
    finite differences of the velocities at the points; neither exceeds the greatest of the motion that was sampled.
    Positions must agree with velocities as far as the jerk limit requires.
    """
    times, positions, velocities = trajectory.times_s, trajectory.positions, trajectory.velocities
    joints = len(limits.names)
    shape = (times.size, joints)
    if times.ndim != 1 or times.size < 2 or positions.shape != shape or velocities.shape != shape:
        return Intervention(
            Reason.TIMES,
            f"{times.shape} times, {positions.shape} positions and {velocities.shape} velocities are no trajectory "
            f"of {joints} joints",
        )
    if not (np.isfinite(times).all() and np.isfinite(positions).all() and np.isfinite(velocities).all()):
        return Intervention(Reason.NOT_FINITE, "the trajectory holds NaN or infinity")
    steps = np.diff(times)
    if steps.min() < MIN_STEP_S * (1 - ROUNDING):
        return Intervention(Reason.TIMES, f"the points lie {steps.min():.3g} s apart, {MIN_STEP_S} s is the least")
    if steps.max() > MAX_STEP_S * (1 + ROUNDING):
        return Intervention(Reason.TIMES, f"the points lie {steps.max():.3f} s apart, {MAX_STEP_S} s is the most")

    def over(reason: Reason, values: np.ndarray, limit: np.ndarray, unit: str) -> Intervention | None:
        """Compares values (…, A) with a limit (A,) and names the worst joint."""
        excess = (np.abs(values) - limit * (1 + ROUNDING) - 1e-9).reshape(-1, joints).max(0)
        if (excess <= 0).all():  # written so that NaN does not pass
            return None
        j = int((excess / limit).argmax())
        worst = float(np.abs(values).reshape(-1, joints)[:, j].max())
        return Intervention(
            reason, f"joint '{limits.names[j]}' would reach {worst:.4g} {unit}, {limit[j]:.4g} is allowed"
        )

    if (np.abs(velocities[-1]) > REST_RAD_S).any():
        return Intervention(Reason.NO_STOP, f"the trajectory ends at {velocities[-1]} rad/s and not at rest")
    extreme_positions, extreme_velocities = _extremes(steps[:, None], positions, velocities)
    middle, half = 0.5 * (limits.upper + limits.lower), 0.5 * (limits.upper - limits.lower)
    if over(Reason.POSITION, positions - middle, half, "rad") or over(
        Reason.POSITION, extreme_positions - middle, half + CUBIC_RAD, "rad"
    ):
        j = int((np.abs(extreme_positions - middle) / half).reshape(-1, joints).max(0).argmax())
        low, high = float(extreme_positions[..., j].min()), float(extreme_positions[..., j].max())
        return Intervention(
            Reason.POSITION,
            f"joint '{limits.names[j]}' would move between {low:.4g} and {high:.4g} rad, "
            f"{limits.lower[j]:.4g} to {limits.upper[j]:.4g} is allowed",
        )
    # A virtual point after the end, where the arm rests, so that coming to rest is checked too.
    h = np.append(steps, steps[-1])[:, None]
    accelerations = np.diff(velocities, axis=0, append=velocities[-1:]) / h
    jerks = np.diff(accelerations, axis=0) / (0.5 * (h[1:] + h[:-1]))
    # The error of the trapezoidal rule is at most h^3 / 12 times the greatest second derivative of velocity, the jerk.
    drift = (np.diff(positions, axis=0) - 0.5 * h[:-1] * (velocities[1:] + velocities[:-1])) / (h[:-1] ** 3 / 12)
    return (
        over(Reason.VELOCITY, velocities, limits.velocity, "rad/s")
        or over(Reason.VELOCITY, extreme_velocities, limits.velocity * (1 + CUBIC_SHARE), "rad/s")
        or over(Reason.ACCELERATION, accelerations, limits.acceleration, "rad/s^2")
        or over(Reason.JERK, jerks, limits.jerk, "rad/s^3")
        or over(Reason.JERK, np.where(np.abs(drift) * h[:-1] ** 3 / 12 < 1e-9, 0.0, drift), limits.jerk, "rad/s^3")
    )


def _extremes(h: np.ndarray, positions: np.ndarray, velocities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (K, T - 1, A) that contain the extremes of each cubic piece; h (T - 1, 1) s."""
    p0, p1, v0, v1 = positions[:-1], positions[1:], velocities[:-1], velocities[1:]
    slope = (p1 - p0) / h
    # v(u) = v0 + b u + a u^2 on u in [0, 1]; its vertex bounds the velocity, its roots the position.
    a, b = 3 * (v0 + v1) - 6 * slope, 6 * slope - 4 * v0 - 2 * v1
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -b / (2 * a)
        root = np.sqrt(b * b - 4 * a * v0)
        # Each root in both forms, since one suffers from cancellation when a is small.
        roots = np.stack([(-b + root) / (2 * a), (-b - root) / (2 * a), 2 * v0 / (-b + root), 2 * v0 / (-b - root)])
    candidates = np.concatenate([np.stack([np.zeros_like(p0), np.ones_like(p0), vertex]), roots])
    u = np.clip(np.where(np.isfinite(candidates), candidates, 0.0), 0.0, 1.0)
    return p0 + h * (v0 * u + b * u**2 / 2 + a * u**3 / 3), v0 + b * u + a * u**2
