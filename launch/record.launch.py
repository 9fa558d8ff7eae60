# SPDX-License-Identifier: Apache-2.0
"""Records with `ros2 bag record` what `lewm convert` needs: pictures, joint states, commands, goals, episode markers.

    ros2 launch lewm_ros record.launch.py output:=session_1

The camera's driver, or image_transport's republish node, has to publish compressed pictures; images:=raw records raw
ones, 28 MB a second at 640 x 480 and 30 Hz. The node lewm_ros/record.py records the same without rosbag2 and compresses
pictures itself. Mark episodes on the topic `episode`:

    ros2 topic pub --once /episode std_msgs/msg/String "data: start"       start, end, discard
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout

ARGUMENTS = [
    DeclareLaunchArgument("output", default_value="", description="Folder to record to; empty names it by date."),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the arm's topics."),
    DeclareLaunchArgument(
        "image_topic", default_value="camera/image_raw", description="Topic of the camera's pictures, uncompressed."
    ),
    DeclareLaunchArgument(
        "images",
        default_value="compressed",
        choices=["compressed", "raw"],
        description="Record <image_topic>/compressed, or <image_topic> itself.",
    ),
    DeclareLaunchArgument(
        "command_topic",
        default_value="arm_controller/joint_trajectory",
        description="Topic of the arm's trajectory controller.",
    ),
]
# rosbag2 adopts the QoS of the publishers that exist when it subscribes; these are for later ones. Best effort is
# compatible with every publisher.
STREAM: dict[str, str | int] = {
    "history": "keep_last",
    "depth": 50,
    "reliability": "best_effort",
    "durability": "volatile",
}
EVENT: dict[str, str | int] = {"history": "keep_last", "depth": 50, "reliability": "reliable", "durability": "volatile"}
LATCHED: dict[str, str | int] = {
    "history": "keep_last",
    "depth": 1,
    "reliability": "reliable",
    "durability": "transient_local",
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The recording process for the given arguments."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    topics = recorded_topics(values)
    with tempfile.NamedTemporaryFile("w", prefix="lewm_record_qos_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(topics, file)
    names = list(topics) if os.environ.get("ROS_DISTRO") == "humble" else ["--topics", *topics]
    command = ["ros2", "bag", "record", "--storage", "mcap"]
    command += ["--storage-config-file", str(SHARE / "config" / "record_mcap.yaml")]
    command += ["--qos-profile-overrides-path", file.name]
    command += ["--max-cache-size", "0"]  # no cache, which would be lost when the recorder is killed
    command += ["--output", str(Path(values["output"]).expanduser())] if values["output"] else []
    return [ExecuteProcess(cmd=[*command, *names], output="screen", on_exit=ended)]


def ended(event: Any, context: LaunchContext) -> None:
    """Makes `ros2 launch` fail when the recording fails.

    :raises RuntimeError: the recorder ended with an error status.
    """
    if event.returncode > 0:
        raise RuntimeError(f"the recording failed: ros2 bag record ended with {event.returncode}; see above")


def recorded_topics(values: dict[str, str]) -> dict[str, dict[str, str | int]]:
    """Full names of the recorded topics, with the QoS for their subscriptions."""
    suffix = "/compressed" if values["images"] == "compressed" else ""
    topics = {
        values["image_topic"] + suffix: STREAM,
        beside(values["image_topic"], "camera_info"): STREAM,
        "joint_states": STREAM,
        values["command_topic"]: EVENT,
        beside(values["command_topic"], "controller_state"): STREAM,  # has every motion
        "goal_image": LATCHED,
        "episode": EVENT,
    }
    root = "/" + values["namespace"].strip("/")
    return {name if name.startswith("/") else f"{root.rstrip('/')}/{name}": dict(qos) for name, qos in topics.items()}


def beside(topic: str, name: str) -> str:
    """The topic `name` in the namespace of `topic`."""
    return f"{topic.rpartition('/')[0]}/{name}" if "/" in topic else name
