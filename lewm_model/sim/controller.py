# SPDX-License-Identifier: Apache-2.0
"""A simulated joint trajectory controller, which executes trajectories as that of ros2_control (Jazzy) does.

After its joint_trajectory_controller.cpp and trajectory.cpp. A new trajectory replaces the whole old one at the next
update. When its first point is in the past the controller does not blend: if the trajectory is then elsewhere than the
last command, the command jumps. `largest_step_rad` is the largest of these jumps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lewm_model.robot.trajectory import JointTrajectory

AT_REST = 1.2e-7  # rad/s, greatest velocity of a last point that counts as rest: ros2_control's, epsilon of float32


@dataclass(frozen=True)
class ControllerConfig:
    """Parameters of the controller, with the names of ros2_control. 0 switches a check off."""

    # From where a trajectory that begins later is approached: the desired state, or (False) the measured one.
    interpolate_from_desired_state: bool = True
    cmd_timeout: float = 0.0  # s after the end of the newest trajectory, after which it holds the measured position
    allow_nonzero_velocity_at_trajectory_end: bool = True  # ros2_control's own default is False
    trajectory_tolerance: float = 0.0  # rad between measured and desired position, beyond which it holds the measured


class TrajectoryController:
    """Follows the newest trajectory. Times are seconds on one clock, which starts at 0 and never goes back.

    :param position: (A,) rad, held until the first trajectory comes.
    """

    def __init__(self, position: np.ndarray, config: ControllerConfig) -> None:
        self.config = config
        self.speed_scaling = 1.0  # speed at which trajectories are executed, like the speed slider of a teach pendant
        self.largest_step_rad = 0.0
        self.desired = (position, np.zeros_like(position), np.zeros_like(position))  # rad, rad/s, rad/s^2, each (A,)
        self._now_s = 0.0
        self._hold(position)

    def take(
        self,
        times_s: npt.ArrayLike,
        positions: npt.ArrayLike,
        velocities: npt.ArrayLike | None,
        accelerations: npt.ArrayLike | None,
        start_s: float,
        measured: np.ndarray,
    ) -> None:
        """Follows a new trajectory from now on.

        :param times_s: (T,) s from `start_s`, strictly increasing.
        :param positions: (T, A) rad; velocities in rad/s and accelerations in rad/s^2 likewise, or None.
        :param measured: (A,) rad, the present position.
        :raises ValueError: the controller refuses the trajectory and continues with the old one: wrong shape, not
            finite, times not increasing, not at rest at the end, or all in the past.
        """
        position, velocity, acceleration = self.desired
        if not self.config.interpolate_from_desired_state:
            position, velocity, acceleration = measured, np.zeros_like(measured), np.zeros_like(measured)
        new = JointTrajectory(
            times_s, positions, velocities, start_s, self._now_s, position, velocity, accelerations, acceleration
        )
        fast = self.config.allow_nonzero_velocity_at_trajectory_end
        if not fast and new.velocities is not None and (np.abs(new.velocities[-1]) > AT_REST).any():
            raise ValueError(f"the trajectory ends at {new.velocities[-1]} rad/s; its last point must be at rest")
        step = float(np.abs(new.sample(self._now_s)[0] - self.desired[0]).max())
        self.largest_step_rad = max(self.largest_step_rad, step)
        self._followed, self._followed_s, self._holds = new, self._now_s, False

    def advance(self, times_s: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Desired positions (N, A) rad at the next times (N,) s; `measured` (A,) rad is the present position."""
        over_s = self._followed_s - self._followed.at_s[-1]
        timed_out = 0.0 < self.config.cmd_timeout < over_s
        error = np.abs(self.desired[0] - measured).max()
        strayed = over_s < 0.0 and 0.0 < self.config.trajectory_tolerance < error
        if not self._holds and (timed_out or strayed):
            self._hold(measured)
        on_its_time = self._followed_s + self.speed_scaling * (times_s - self._now_s)
        position, velocity, acceleration = self._followed.state(on_its_time)
        self.desired = position[-1], velocity[-1], acceleration[-1]
        self._now_s, self._followed_s = float(times_s[-1]), float(on_its_time[-1])
        return position

    def _hold(self, position: np.ndarray) -> None:
        """Follows a trajectory of one point, the position (A,) rad, without checks of tolerance and timeout."""
        still = np.zeros_like(position)
        self._followed = JointTrajectory([0.0], position[None], None, self._now_s, self._now_s, position, still)
        self._followed_s, self._holds = self._now_s, True
