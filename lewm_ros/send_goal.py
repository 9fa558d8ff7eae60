# SPDX-License-Identifier: Apache-2.0
"""Sends a picture file as the goal and reports whether it is accepted: `ros2 run lewm_ros send_goal goal.png`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args

from lewm_ros.client import GoalClient
from lewm_ros.goals import GoalError, read_picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Waits until a camera_node has examined the picture; exit status 1 when it is refused."""
    arguments = sys.argv if arguments is None else arguments
    files = remove_ros_args(arguments)[1:]
    if len(files) != 1:
        sys.exit("usage: send_goal PICTURE [--ros-args -r goal_image:=OTHER_TOPIC]")
    try:
        picture = read_picture(Path(files[0]))
    except GoalError as error:
        sys.exit(f"send_goal: {error}")
    rclpy.init(args=arguments)
    try:
        with GoalClient(node=rclpy.create_node("send_goal")) as client:
            log = client.node.get_logger()
            client.send(picture)
            problem = client.judgement(
                math.inf, lambda: log.warning("the goal was not examined yet; is camera_node active?")
            )
            if problem is not None:
                sys.exit(f"send_goal: {problem.text}")
            log.info(f"sent {files[0]}; it is accepted")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
