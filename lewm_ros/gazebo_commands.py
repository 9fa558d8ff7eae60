# SPDX-License-Identifier: Apache-2.0
"""Adapts the planner's trajectories to Gazebo's own trajectory controller.

The planner's trajectories begin at the stamp of a camera frame, which is past when they arrive, and are to be
interpolated, as ros2_control's controller does. gz-sim's JointTrajectoryController (as read in the sources of gz-sim 8
and main) begins every trajectory when it arrives, since its `use_header_start_time` is read from an attribute of
<plugin> that SDF does not allow, and it holds each point instead of interpolating. So this node forwards the rest of a
trajectory from now on, in steps small enough to be held.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from lewm_model.planning.motion import Trajectory
from lewm_model.robot.trajectory import JointTrajectory
from lewm_ros.messages import NANOSECONDS, MessageError, message_to_trajectory, nanoseconds, trajectory_to_message
from lewm_ros.node import spin, start_ros, told_to_end

STEP_S = 0.01  # between the points that are sent to Gazebo
SAME = 1e-6  # s and rad: greatest differences of the ends of two copies of a trajectory
LONGEST_S = 60.0  # of the rest of a trajectory, each step of which becomes a point
COMMAND = QoSProfile(depth=1)
# By controller: arm, and gripper with the robot file's default topic. gazebo_bridge.yaml has the second topics.
TOPICS = {
    "arm_controller/joint_trajectory": "gazebo/joint_trajectory",
    "gripper_controller/joint_trajectory": "gazebo/gripper_trajectory",
}


def held_points(motion: JointTrajectory, now_s: float, step_s: float = STEP_S) -> Trajectory:
    """The rest of a motion, as points each of which may be held for a step.

    Gazebo holds point i from time i - 1 to time i, so point i is the state in the middle of that step; the last point
    is the end of the motion, at rest. Times count from `now_s`.
    """
    steps = max(1, int(np.ceil((motion.at_s[-1] - now_s) / step_s - 1e-9)) + 1)
    edges_s = now_s + step_s * np.arange(-1, steps + 1)
    middles = motion.sample(edges_s[:-1] + 0.5 * step_s)
    middles[0], middles[-1] = motion.sample([now_s])[0], motion.positions[-1]
    velocities = np.diff(motion.sample(edges_s), axis=0) / step_s
    velocities[0], velocities[-1] = velocities[1], 0.0
    return Trajectory(edges_s[1:] - now_s, middles, velocities)


class GazeboCommands(Node):
    """`arm_controller/joint_trajectory` -> `gazebo/joint_trajectory`, and the gripper's alike (`TOPICS`); from there to
    Gazebo by gazebo_bridge.yaml.

    Needs use_sim_time: stamps are simulated time.
    """

    def __init__(self) -> None:
        super().__init__("gazebo_commands")
        self._motions: dict[str, JointTrajectory] = {}  # newest, by topic
        for topic, onward in TOPICS.items():
            publisher = self.create_publisher(JointTrajectoryMessage, onward, COMMAND)
            take = partial(self._on_command, topic, publisher)
            self.create_subscription(JointTrajectoryMessage, topic, take, COMMAND)

    def _on_command(self, topic: str, publisher: Publisher, message: JointTrajectoryMessage) -> None:
        names = list(message.joint_names)
        now_ns = self.get_clock().now().nanoseconds
        try:
            points = message_to_trajectory(message, names)
            stamp_ns = nanoseconds(message.header.stamp)
            if stamp_ns and self._executed(topic, stamp_ns / NANOSECONDS + points.times_s[-1], points.positions[-1]):
                return
            # A trajectory that begins later is approached from the newest commanded position.
            was = points.positions[0]
            before = self._motions.get(topic)
            if before is not None and before.positions.shape[1] == len(names):
                was = before.sample([now_ns / NANOSECONDS])[0]
            start_ns = stamp_ns or now_ns
            now_s = now_ns / NANOSECONDS
            motion = JointTrajectory(
                points.times_s,
                points.positions,
                points.velocities,
                start_s=start_ns / NANOSECONDS,
                now_s=now_s,
                position_now=was,
                velocity_now=np.zeros(len(names)),
            )
            left_s = motion.at_s[-1] - now_s
            if left_s > LONGEST_S:
                raise MessageError(f"it lasts {left_s:.3g} s from now on, at most {LONGEST_S:.0f} s can be forwarded")
        except (MessageError, ValueError) as error:
            self.get_logger().error(f"trajectory not forwarded: {error}", throttle_duration_sec=1.0)
            return
        self._motions[topic] = motion
        publisher.publish(trajectory_to_message(held_points(motion, now_s), names, now_ns))

    def _executed(self, topic: str, end_s: float, end: np.ndarray) -> bool:
        """Whether the motion that was forwarded last has ended there and then: the planner repeats its commands."""
        motion = self._motions.get(topic)
        if motion is None or motion.positions[-1].shape != end.shape:
            return False
        over = end_s <= self.get_clock().now().nanoseconds / NANOSECONDS
        same = abs(motion.at_s[-1] - end_s) < SAME and np.abs(motion.positions[-1] - end).max() < SAME
        return bool(over and same)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the node."""
    start_ros(arguments)
    ended = told_to_end()
    node, executor = GazeboCommands(), SingleThreadedExecutor()
    executor.add_node(node)
    spin(executor, lambda: not ended.is_set(), node)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
