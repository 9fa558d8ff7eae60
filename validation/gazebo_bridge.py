# SPDX-License-Identifier: Apache-2.0
"""Stands in for ros_gz_bridge and topic_tools where their C++ is not installed, beside the wheels of ROS 2.

    python -m validation.gazebo_bridge --ros-args -p config_file:=config/gazebo_bridge.yaml

Passes the topics of a bridge's configuration between Gazebo Harmonic, by its own Python bindings, and ROS 2. It knows
the types that config/gazebo_bridge.yaml has. /clock is thinned out to CLOCK_HZ here, which a throttle does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import rclpy
import yaml
from builtin_interfaces.msg import Time
from gz.transport13 import Node as GazeboNode
from gz.transport13 import SubscribeOptions
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from lewm_ros.node import spin, start_ros, told_to_end

THINNED = "/gazebo/clock"  # its ROS name in the configuration; it is published as /clock
CLOCK_HZ = 100
QUEUE = 10


def to_clock(message: Any) -> Clock:
    return Clock(clock=Time(sec=message.sim.sec, nanosec=message.sim.nsec))


def to_image(message: Any) -> Image:
    """
    :raises ValueError: the picture has another format than 8 bit RGB.
    """
    if message.pixel_format_type != 3:  # gz.msgs.PixelFormatType.RGB_INT8
        raise ValueError(f"a picture of Gazebo's pixel format {message.pixel_format_type}, where 3 is known (RGB_INT8)")
    image = Image(height=message.height, width=message.width, encoding="rgb8", step=message.step)
    image.data = message.data
    return _stamped(image, message.header)


def to_camera_info(message: Any) -> CameraInfo:
    info = CameraInfo(height=message.height, width=message.width, distortion_model="plumb_bob")
    info.d, info.k = list(message.distortion.k), list(message.intrinsics.k)
    info.p, info.r = list(message.projection.p), list(message.rectification_matrix)
    return _stamped(info, message.header)


def to_joint_state(message: Any) -> JointState:
    state = _stamped(JointState(), message.header)
    state.name = [joint.name for joint in message.joint]
    state.position = [joint.axis1.position for joint in message.joint]
    state.velocity = [joint.axis1.velocity for joint in message.joint]
    state.effort = [joint.axis1.force for joint in message.joint]
    return state


def to_gazebo_trajectory(message: JointTrajectory, trajectory: Any) -> Any:
    """Fills and returns `trajectory`, a gz.msgs.JointTrajectory."""
    trajectory.header.stamp.sec, trajectory.header.stamp.nsec = message.header.stamp.sec, message.header.stamp.nanosec
    trajectory.joint_names.extend(message.joint_names)
    for point in message.points:
        own = trajectory.points.add()
        own.positions.extend(point.positions)
        own.velocities.extend(point.velocities)
        own.accelerations.extend(point.accelerations)
        own.effort.extend(point.effort)
        own.time_from_start.sec, own.time_from_start.nsec = point.time_from_start.sec, point.time_from_start.nanosec
    return trajectory


def _stamped(message: Any, header: Any) -> Any:
    message.header.stamp = Time(sec=header.stamp.sec, nanosec=header.stamp.nsec)
    message.header.frame_id = next((entry.value[0] for entry in header.data if entry.key == "frame_id"), "")
    return message


TO_ROS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "gz.msgs.Clock": (Clock, to_clock),
    "gz.msgs.Image": (Image, to_image),
    "gz.msgs.CameraInfo": (CameraInfo, to_camera_info),
    "gz.msgs.Model": (JointState, to_joint_state),
}


def gazebo_type(name: str) -> Any:
    """The Python class of a Gazebo message type, such as "gz.msgs.JointTrajectory"."""
    kind = name.rpartition(".")[2]
    file = "".join("_" + letter.lower() if letter.isupper() else letter for letter in kind).lstrip("_")
    return getattr(import_module(f"gz.msgs10.{file}_pb2"), kind)


class GazeboBridge(Node):
    """One publisher and one subscription for each entry of the configuration."""

    def __init__(self) -> None:
        super().__init__("gazebo_bridge")
        file = self.declare_parameter("config_file", "config/gazebo_bridge.yaml").value
        self._gazebo = GazeboNode()
        self._passed: list[Any] = []  # publishers to Gazebo, which end with their last reference
        for entry in yaml.safe_load(Path(file).read_text()):
            name, kind = entry["ros_topic_name"], entry["gz_type_name"]
            if entry["direction"] == "GZ_TO_ROS":
                ros_type, convert = TO_ROS[kind]
                publisher = self.create_publisher(
                    ros_type,
                    "/clock" if name == THINNED else name,
                    QoSProfile(depth=entry.get("publisher_queue", QUEUE)),
                )
                options = SubscribeOptions()
                if name == THINNED:
                    options.msgs_per_sec = CLOCK_HZ
                pass_on = partial(self._to_ros, publisher, convert)
                self._gazebo.subscribe(gazebo_type(kind), entry["gz_topic_name"], pass_on, options)
            else:
                taker = self._gazebo.advertise(entry["gz_topic_name"], gazebo_type(kind))
                self._passed.append(taker)
                queue = QoSProfile(depth=entry.get("subscriber_queue", QUEUE))
                pass_on = partial(self._to_gazebo, taker, gazebo_type(kind))
                self.create_subscription(JointTrajectory, name, pass_on, queue)

    @staticmethod
    def _to_ros(publisher: Any, convert: Callable[[Any], Any], message: Any) -> None:
        if rclpy.ok():  # Gazebo's threads go on for a moment after the end
            publisher.publish(convert(message))

    @staticmethod
    def _to_gazebo(taker: Any, kind: Any, message: JointTrajectory) -> None:
        taker.publish(to_gazebo_trajectory(message, kind()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    start_ros(arguments)
    ended = told_to_end()
    node, executor = GazeboBridge(), SingleThreadedExecutor()
    executor.add_node(node)
    spin(executor, lambda: not ended.is_set(), node)
    executor.shutdown()
    node.destroy_node()
    del node  # and with it Gazebo's own node, whose threads must have ended before the process does
    rclpy.shutdown()


if __name__ == "__main__":
    main()
