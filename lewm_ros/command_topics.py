# SPDX-License-Identifier: Apache-2.0
"""Sends commands: the arm's part to its trajectory controller, the gripper's part to the gripper's controller."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lewm_model.robot.robot import Gripper
from lewm_ros.node import QOS_OVERRIDES, Refusal

try:
    from control_msgs.action import GripperCommand
except ImportError:
    GripperCommand = None

ARM = "arm_controller/joint_trajectory"
COMMAND = QoSProfile(depth=1)
SAME = 1e-3  # rad or m: gripper goals closer to the last one are not sent, since each restarts the action


class Receiver(Protocol):
    """A controller that takes the commands of some of the joints."""

    def send(self, message: JointTrajectory) -> None:
        """Sends a trajectory of just these joints."""

    def missing(self) -> str | None:
        """A sentence when the controller is not there; None when it is."""

    @property
    def listeners(self) -> int:
        """Number of controllers that take the commands."""

    def destroy(self) -> None:
        """Destroys its publisher or client."""


class TrajectoryTopic:
    """A trajectory controller's topic."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node = node
        self._publisher = node.create_publisher(JointTrajectory, topic, COMMAND, qos_overriding_options=QOS_OVERRIDES)

    def send(self, message: JointTrajectory) -> None:
        self._publisher.publish(message)

    def missing(self) -> str | None:
        return None if self.listeners else f"no controller takes the commands on {self._publisher.topic_name}"

    @property
    def listeners(self) -> int:
        return int(self._publisher.get_subscription_count())

    def destroy(self) -> None:
        self._node.destroy_publisher(self._publisher)


class GripperAction:
    """A GripperCommand action server, which is sent the last position of each trajectory when that changes.

    :raises Refusal: control_msgs, which has the type of the action, is not installed.
    """

    def __init__(self, node: Node, gripper: Gripper) -> None:
        if GripperCommand is None:
            raise Refusal(
                f"the robot file moves its gripper with the action {gripper.action}, whose type is in control_msgs, "
                "which is not installed: `apt install ros-$ROS_DISTRO-control-msgs`, or give the gripper a topic and "
                "no action"
            )
        self._gripper, self._sent = gripper, float("nan")
        self._client: Any = ActionClient(node, GripperCommand, gripper.action)

    def send(self, message: JointTrajectory) -> None:
        position = float(message.points[-1].positions[0])
        if abs(position - self._sent) <= SAME:  # NaN before the first goal, which is then sent
            return
        self._sent = position
        goal = GripperCommand.Goal()
        goal.command.position, goal.command.max_effort = position, self._gripper.max_effort
        self._client.send_goal_async(goal)

    def missing(self) -> str | None:
        return None if self.listeners else f"there is no action server {self._gripper.action} for the gripper"

    @property
    def listeners(self) -> int:
        return int(self._client.server_is_ready())

    def destroy(self) -> None:
        self._client.destroy()


class CommandTopics:
    """Sends trajectories of all joints, split between the controllers of arm and gripper.

    :param names: of the joints; a gripper's joint is the last one.
    :param gripper: of the robot file, or None; it is sent its part if its joint is in `names`.
    :raises Refusal: see `GripperAction`.
    """

    def __init__(self, node: Node, names: Sequence[str], gripper: Gripper | None) -> None:
        self.arm, self.gripper = tuple(names), None if gripper is None or gripper.joint not in names else gripper
        receivers: list[tuple[tuple[str, ...], Receiver]] = []
        if self.gripper is not None:
            self.arm = tuple(name for name in names if name != self.gripper.joint)
            hand = (
                GripperAction(node, self.gripper) if self.gripper.action else TrajectoryTopic(node, self.gripper.topic)
            )
            receivers = [((self.gripper.joint,), hand)]
        self._receivers = [(self.arm, TrajectoryTopic(node, ARM)), *receivers]

    def send(self, message: JointTrajectory) -> None:
        """Publishes a trajectory of all joints."""
        for names, receiver in self._receivers:
            receiver.send(part_of(message, names))

    def missing(self) -> str | None:
        """A sentence about a controller that is not there; None when all are."""
        return next(filter(None, (receiver.missing() for _, receiver in self._receivers)), None)

    @property
    def listeners(self) -> int:
        """Number of controllers that take commands."""
        return sum(receiver.listeners for _, receiver in self._receivers)

    def destroy(self) -> None:
        """Destroys publishers and clients."""
        for _, receiver in self._receivers:
            receiver.destroy()


def part_of(message: JointTrajectory, names: Sequence[str]) -> JointTrajectory:
    """The trajectory message of some of its joints."""
    columns = [list(message.joint_names).index(name) for name in names]
    if columns == list(range(len(message.joint_names))):
        return message
    points = [
        JointTrajectoryPoint(
            positions=array.array("d", [point.positions[i] for i in columns]),
            velocities=array.array("d", [point.velocities[i] for i in columns] if point.velocities else []),
            time_from_start=point.time_from_start,
        )
        for point in message.points
    ]
    return JointTrajectory(header=message.header, joint_names=list(names), points=points)


def joined(parts: Sequence[JointTrajectory]) -> JointTrajectory:
    """Joins the parts of a trajectory: messages with the same stamp and the same times, of different joints."""
    points = [
        JointTrajectoryPoint(
            positions=array.array("d", [value for point in same for value in point.positions]),
            velocities=array.array("d", [value for point in same for value in point.velocities]),
            time_from_start=same[0].time_from_start,
        )
        for same in zip(*(part.points for part in parts), strict=True)
    ]
    names = [name for part in parts for name in part.joint_names]
    return JointTrajectory(header=parts[0].header, joint_names=names, points=points)
