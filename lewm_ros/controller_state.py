# SPDX-License-Identifier: Apache-2.0
"""The state that ros2_control's joint_trajectory_controller publishes: its reference, that is what it executes.

The message type is installed together with the controller. Where it cannot be imported, there is no such topic either,
and what is executed has to be inferred from the joint states.
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
    """The topic on which the controller that takes trajectories on `command_topic` publishes its state."""
    return f"{command_topic.rpartition('/')[0]}/controller_state"


@dataclass(frozen=True)
class Reference:
    """The reference of a controller at a time: positions (A,) rad, and by what factor it slows trajectories down."""

    stamp_ns: int
    positions: np.ndarray
    speed_scaling: float


def message_to_reference(message: Any, names: Sequence[str]) -> Reference:
    """The reference of a controller's state, in the order of `names`.

    :raises MessageError: a joint is missing, or a position is not finite.
    """
    point = message.reference if hasattr(message, "reference") else message.desired  # the field's name before Iron
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
    """The state of a controller whose reference is `desired`: positions, velocities, accelerations, (A,) each."""
    positions, velocities, accelerations = (array.array("d", np.asarray(values, float).tobytes()) for values in desired)
    return ControllerState(
        header=Header(stamp=time_message(stamp_ns)),
        joint_names=list(names),
        reference=JointTrajectoryPoint(positions=positions, velocities=velocities, accelerations=accelerations),
        feedback=JointTrajectoryPoint(positions=array.array("d", np.asarray(measured, float).tobytes())),
        speed_scaling_factor=float(speed_scaling),
    )
