# SPDX-License-Identifier: Apache-2.0
"""Interpolation of joint trajectories, as in ros2_control's joint_trajectory_controller (Jazzy)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST = 1e10  # magnitude in s, rad, rad/s or rad/s^2: sums and products of greater numbers may overflow to NaN


def cubic(
    u: np.ndarray, duration: np.ndarray, p0: np.ndarray, p1: np.ndarray, v0: np.ndarray, v1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at the fraction `u` of a segment of `duration` s between positions p0, p1 and velocities
    v0, v1. Broadcasts.
    """
    position = p0 * (1 - u) ** 2 * (1 + 2 * u) + p1 * u * u * (3 - 2 * u)
    position = position + duration * (v0 * u * (1 - u) ** 2 + v1 * u * u * (u - 1))
    velocity = 6 * u * (1 - u) * (p1 - p0) / duration + v0 * (1 - u) * (1 - 3 * u) + v1 * u * (3 * u - 2)
    return position, velocity


class JointTrajectory:
    """Points of a joint trajectory, and the desired state at any time.

    A segment is a straight line, a cubic polynomial with velocities, and a quintic with accelerations as well. Up to
    the first point the segment starts from the state at receipt. If the first point is in the past, the desired state
    jumps to where the trajectory is at receipt. After the last point the arm stays there, at rest.
    """

    def __init__(
        self,
        times_s: npt.ArrayLike,
        positions: npt.ArrayLike,
        velocities: npt.ArrayLike | None,
        start_s: float,
        now_s: float,
        position_now: np.ndarray,
        velocity_now: np.ndarray,
        accelerations: npt.ArrayLike | None = None,
        acceleration_now: np.ndarray | None = None,
    ) -> None:
        """
        :param times_s: (T,) time from start of each point, s, 0 or more, strictly increasing.
        :param positions: (T, A) rad.
        :param velocities: (T, A) rad/s, or None.
        :param start_s: time that `times_s` starts from, s, on the clock of `now_s`.
        :param now_s: time of receipt, s.
        :param position_now: (A,) state at receipt, rad.
        :param velocity_now: (A,) state at receipt, rad/s.
        :param accelerations: (T, A) rad/s^2, or None; only with velocities.
        :param acceleration_now: (A,) state at receipt, rad/s^2; None for 0.
        :raises ValueError: wrong shapes, numbers that are not finite or beyond MOST, accelerations without velocities,
            times that do not increase (also after rounding, with `start_s` added), or all points in the past.
        """
        times = np.asarray(times_s, dtype=np.float64)
        position = np.asarray(positions, dtype=np.float64)
        joints = position_now.shape[0]
        if times.ndim != 1 or times.size == 0:
            raise ValueError(f"times_s has shape {times.shape}; give one time per point, (T,) with T of 1 or more")
        if position.shape != (times.size, joints):
            raise ValueError(f"positions have shape {position.shape}; {times.size} points of {joints} joints expected")
        velocity, acceleration = (
            None if values is None else np.asarray(values, dtype=np.float64) for values in (velocities, accelerations)
        )
        if acceleration is not None and velocity is None:
            raise ValueError("the trajectory has accelerations but no velocities; give both, or positions alone")
        for name, values in (("velocities", velocity), ("accelerations", acceleration)):
            if values is not None and values.shape != position.shape:
                raise ValueError(f"{name} have shape {values.shape}, positions {position.shape}; give the same")
        for name, values in (
            ("times_s", times),
            ("positions", position),
            ("velocities", velocity),
            ("accelerations", acceleration),
        ):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} hold NaN or infinity; every value must be finite")
            if values is not None and (np.abs(values) > MOST).any():
                raise ValueError(f"{name} hold {np.abs(values).max():.3g}; at most {MOST:.0e} is allowed")
        if not np.isfinite(start_s):
            raise ValueError(f"start_s is {start_s}; it must be finite")
        at = start_s + times
        if times[0] < 0.0 or (np.diff(times) <= 0.0).any() or (np.diff(at) <= 0.0).any():
            raise ValueError("times_s must start at 0 or later and increase from point to point")
        if at[-1] < now_s - 1e-9:
            raise ValueError(
                f"the trajectory ended at {at[-1]:.3f} s and it is {now_s:.3f} s; send one that ends later"
            )
        if at[0] > now_s + 1e-9:
            at = np.concatenate([[now_s], at])
            position = np.concatenate([position_now[None], position])
            if velocity is not None:
                velocity = np.concatenate([velocity_now[None], velocity])
            if acceleration is not None:
                before = np.zeros(joints) if acceleration_now is None else acceleration_now
                acceleration = np.concatenate([before[None], acceleration])
        self.at_s = at
        self.positions = position
        self.velocities = velocity
        self.accelerations = acceleration

    def sample(self, times_s: npt.ArrayLike) -> np.ndarray:
        """Desired positions, (N, A) rad, at `times_s` (N,) s."""
        return self.state(times_s)[0]

    def state(self, times_s: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Desired positions, velocities and accelerations, each (N, A), at `times_s` (N,) s; at rest after the end."""
        times = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
        if self.at_s.size == 1:
            still = np.zeros((times.size, self.positions.shape[1]))
            return np.repeat(self.positions, times.size, axis=0), still, still
        i = np.clip(np.searchsorted(self.at_s, times, side="right") - 1, 0, self.at_s.size - 2)
        h = (self.at_s[i + 1] - self.at_s[i])[:, None]
        u = np.clip((times - self.at_s[i])[:, None] / h, 0.0, 1.0)
        p0, p1 = self.positions[i], self.positions[i + 1]
        if self.velocities is None:
            position, velocity, acceleration = p0 + (p1 - p0) * u, (p1 - p0) / h, np.zeros_like(p0)
        else:
            v0, v1 = self.velocities[i], self.velocities[i + 1]
            position, velocity = cubic(u, h, p0, p1, v0, v1)
            acceleration = (6 * (p1 - p0) * (1 - 2 * u) / h + v0 * (6 * u - 4) + v1 * (6 * u - 2)) / h
            if self.accelerations is not None:
                a0, a1 = self.accelerations[i], self.accelerations[i + 1]
                # Corrects the cubic's accelerations at its ends by a polynomial that leaves positions and velocities
                # there.
                left = a0 - (6 * (p1 - p0) / h - 4 * v0 - 2 * v1) / h
                right = a1 - (-6 * (p1 - p0) / h + 2 * v0 + 4 * v1) / h
                lack, change = left * (1 - u) + right * u, right - left
                s, ds, dds = (u * (1 - u)) ** 2, 2 * u * (1 - u) * (1 - 2 * u), 2 - 12 * u + 12 * u * u
                position = position + h * h / 2 * s * lack
                velocity = velocity + h / 2 * (ds * lack + s * change)
                acceleration = acceleration + (dds * lack + 2 * ds * change) / 2
        moves = (times < self.at_s[-1])[:, None]
        return position, np.where(moves, velocity, 0.0), np.where(moves, acceleration, 0.0)
