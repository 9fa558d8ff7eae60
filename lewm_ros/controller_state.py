# SPDX-License-Identifier: Apache-2.0
"""What a trajectory controller says that it executes: `controller_state` of ros2_control's.

Its message type comes with every ROS installation that has the controller, and with no other: where it cannot be
imported there is nothing to hear, and whoever wants to know has to look at the joints.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectoryPoint

from lewm_ros.messages import MessageError, nanoseconds, time_message

try:
    from control_msgs.msg import JointTrajectoryControllerState as ControllerState
except ImportError:
    ControllerState = None


def controller_state_topic(command_topic: str) -> str:
    """Where a controller that takes trajectories on a topic tells what it executes."""
    return f"{command_topic.rpartition('/')[0]}/controller_state"


@dataclass(frozen=True)
class Reference:
    """What the controller demanded of the arm at a time: (A,) rad, and how fast it lets time pass on a trajectory."""

    stamp_ns: int
    positions: np.ndarray
    speed_scaling: float


def message_to_reference(message: Any, names: Sequence[str]) -> Reference:
    """The reference of a controller's state, in the order of `names`.

    :raises MessageError: other joints, no positions for them, or such that are not finite.
    """
    point = message.reference if hasattr(message, "reference") else message.desired  # before Iron
    found = dict(zip(message.joint_names, point.positions, strict=False))
    if missing := [name for name in names if name not in found]:
        raise MessageError(
            f"controller_state has no reference for {', '.join(missing)}; it has {', '.join(found) or 'none at all'}"
        )
    positions = np.array([found[name] for name in names])
    if not np.isfinite(positions).all():
        raise MessageError(f"controller_state holds positions {positions}, which are not finite")
    return Reference(nanoseconds(message.header.stamp), positions, float(getattr(message, "speed_scaling_factor", 1.0)))


def reference_message(
    names: Sequence[str], desired: Sequence[np.ndarray], measured: np.ndarray, speed_scaling: float, stamp_ns: int
) -> Any:
    """The state of a controller that demands `desired`: positions, velocities and accelerations, (A,) each."""
    positions, velocities, accelerations = (array.array("d", np.asarray(values, float).tobytes()) for values in desired)
    return ControllerState(
        header=Header(stamp=time_message(stamp_ns)),
        joint_names=list(names),
        reference=JointTrajectoryPoint(positions=positions, velocities=velocities, accelerations=accelerations),
        feedback=JointTrajectoryPoint(positions=array.array("d", np.asarray(measured, float).tobytes())),
        speed_scaling_factor=float(speed_scaling),
    )
