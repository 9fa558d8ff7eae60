"""Joint trajectories between their points, as ros2_control's joint_trajectory_controller follows them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST = 1e10  # s, rad or rad/s: beyond it sums and products of finite numbers end in NaN, and the arm with them


class JointTrajectory:
    """Points of a joint trajectory, and the desired state at any time.

    Between two points the position is linear when the trajectory has positions only, and the cubic (Hermite)
    polynomial through positions and velocities when it has both. Before the first point it goes from the state at
    receipt to that point in the same way. After the last point it stays there, at rest.
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
    ) -> None:
        """
        :param times_s: (T,) time from start of each point, s, 0 or more, strictly increasing.
        :param positions: (T, A) rad.
        :param velocities: (T, A) rad/s, or None.
        :param start_s: what `times_s` counts from, in the clock of `now_s`, s.
        :param now_s: time of receipt, s.
        :param position_now: (A,) state at receipt, rad.
        :param velocity_now: (A,) state at receipt, rad/s.
        :raises ValueError: wrong shape, not finite, beyond MOST, times not increasing (in the clock of `start_s`), or
            all points in the past.
        """
        times = np.asarray(times_s, dtype=np.float64)
        position = np.asarray(positions, dtype=np.float64)
        joints = position_now.shape[0]
        if times.ndim != 1 or times.size == 0:
            raise ValueError(f"times_s has shape {times.shape}; give one time per point, (T,) with T of 1 or more")
        if position.shape != (times.size, joints):
            raise ValueError(f"positions have shape {position.shape}; {times.size} points of {joints} joints expected")
        velocity = None
        if velocities is not None:
            velocity = np.asarray(velocities, dtype=np.float64)
            if velocity.shape != position.shape:
                raise ValueError(f"velocities have shape {velocity.shape}, positions {position.shape}; give the same")
        for name, values in (("times_s", times), ("positions", position), ("velocities", velocity)):
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} hold NaN or infinity; every value must be finite")
            if values is not None and (np.abs(values) > MOST).any():
                raise ValueError(f"{name} hold {np.abs(values).max():.3g}; no joint moves beyond {MOST:.0e}")
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
        self.at_s = at
        self.positions = position
        self.velocities = velocity

    def sample(self, times_s: npt.ArrayLike) -> np.ndarray:
        """Desired positions, (N, A) rad, at `times_s` (N,) s."""
        times = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
        if self.at_s.size == 1:
            return np.repeat(self.positions, times.size, axis=0)
        segment = np.clip(np.searchsorted(self.at_s, times, side="right") - 1, 0, self.at_s.size - 2)
        duration = (self.at_s[segment + 1] - self.at_s[segment])[:, None]
        u = np.clip((times - self.at_s[segment])[:, None] / duration, 0.0, 1.0)
        p0, p1 = self.positions[segment], self.positions[segment + 1]
        if self.velocities is None:
            return p0 + (p1 - p0) * u
        m0, m1 = self.velocities[segment] * duration, self.velocities[segment + 1] * duration
        # Hermite basis: position 1, 0 and slope m0, m1 at the ends.
        return (
            p0 * (1.0 - u) ** 2 * (1.0 + 2.0 * u)
            + p1 * u**2 * (3.0 - 2.0 * u)
            + m0 * u * (1.0 - u) ** 2
            + m1 * u**2 * (u - 1.0)
        )
