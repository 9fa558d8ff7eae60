"""Sends a picture file as the goal image: `ros2 run lewm_ros send_goal goal.png`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from lewm_ros.camera_node import LATCHED
from lewm_ros.goals import GoalError, read_picture
from lewm_ros.messages import rgb_to_message

REMIND_S = 10.0


def _camera_listens(node: Node, topic: str) -> bool:
    """Whether a camera_node does; a viewer, say, may have been there before it, and would be the only one to hear."""
    return any(end.node_name == "camera_node" for end in node.get_subscriptions_info_by_topic(topic))


def main(arguments: Sequence[str] | None = None) -> None:
    """Waits for a camera_node, hands it the picture, and ends once it has arrived."""
    arguments = sys.argv if arguments is None else arguments
    files = remove_ros_args(arguments)[1:]
    if len(files) != 1:
        sys.exit("usage: send_goal PICTURE [--ros-args -r goal_image:=OTHER_TOPIC]")
    try:
        picture = read_picture(Path(files[0]))
    except GoalError as error:
        sys.exit(f"send_goal: {error}")
    rclpy.init(args=arguments)
    node = rclpy.create_node("send_goal")
    try:
        publisher = node.create_publisher(Image, "goal_image", LATCHED)
        remind = time.monotonic() + REMIND_S
        while not _camera_listens(node, publisher.topic_name):
            rclpy.spin_once(node, timeout_sec=0.1)
            if time.monotonic() > remind:
                node.get_logger().warning(f"no camera_node listens on {publisher.topic_name} yet; is it active?")
                remind += REMIND_S
        publisher.publish(rgb_to_message(picture, node.get_clock().now().nanoseconds))
        if not publisher.wait_for_all_acked(Duration(seconds=5)):
            sys.exit(f"send_goal: {publisher.topic_name} did not take the picture within 5 s; look at camera_node")
        node.get_logger().info(f"sent {files[0]} to {publisher.topic_name}")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
