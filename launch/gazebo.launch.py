# SPDX-License-Identifier: Apache-2.0
"""Starts Gazebo with the world, the bridge to ROS 2 and the adapter for commands, in place of sim_node.

    ros2 launch lewm_ros plan.launch.py sim:=gazebo        includes this file; the nodes then take the time from /clock
    ros2 launch lewm_ros gazebo.launch.py headless:=false  Gazebo alone, with its window

Needs ros_gz and topic_tools (apt install ros-jazzy-ros-gz ros-jazzy-topic-tools). Run with gz-sim 8.14, but with a
stand-in for the bridge and the throttle (docs/gazebo.md).
"""

import shlex
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CLOCK_HZ = "100.0"  # of /clock: Gazebo's 500 messages a second would cost each Python node a third of a core

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout

ARGUMENTS = [
    DeclareLaunchArgument(
        "world", default_value=str(SHARE / "worlds" / "tabletop.sdf"), description="SDF world that Gazebo loads."
    ),
    DeclareLaunchArgument(
        "headless",
        default_value="true",
        choices=["true", "false"],
        description="Server only, rendering through EGL without a display; false opens Gazebo's window.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the ROS topics and nodes."),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The actions for the given arguments."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    try:
        gazebo = Path(get_package_share_directory("ros_gz_sim")) / "launch" / "gz_sim.launch.py"
    except PackageNotFoundError as error:
        raise RuntimeError(
            "Gazebo's ROS 2 packages are not installed: apt install ros-$ROS_DISTRO-ros-gz "
            "ros-$ROS_DISTRO-topic-tools, or use sim:=mujoco, "
            "the same world embedded"
        ) from error
    flags = "-r -s --headless-rendering" if values["headless"] == "true" else "-r"
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(gazebo)),
            launch_arguments={
                "gz_args": f"{flags} {shlex.quote(values['world'])}",
                "on_exit_shutdown": "true",
            }.items(),
        ),
        Node(
            package="ros_gz_bridge",
            executable="parameter_bridge",
            name="gazebo_bridge",
            namespace=values["namespace"],
            parameters=[{"config_file": str(SHARE / "config" / "gazebo_bridge.yaml")}],
            output="screen",
        ),
        Node(
            package="topic_tools",
            executable="throttle",
            name="clock_throttle",
            arguments=["messages", "/gazebo/clock", CLOCK_HZ, "/clock"],
            output="screen",
        ),
        Node(
            package="lewm_ros",
            executable="gazebo_commands",
            name="gazebo_commands",
            namespace=values["namespace"],
            parameters=[{"use_sim_time": True}],
            output="screen",
        ),
    ]
