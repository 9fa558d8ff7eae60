# SPDX-License-Identifier: Apache-2.0
"""Brings up two arms side by side, each with its own camera, planner and lifecycle manager, disarmed.

    ros2 launch lewm_ros two_arms.launch.py                                    two simulated arms
    ros2 service call /left/planner_node/enable std_srvs/srv/SetBool "{data: true}"

Nodes, topics and services are in the namespaces left and right; /diagnostics is shared. For two real arms call
real_arm.launch.py twice, with namespace:=left and namespace:=right.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
ARMS = ("left", "right")

MODEL, PARAMS = str(SHARE / "models" / "reach"), str(SHARE / "config" / "plan.yaml")

ARGUMENTS = [
    DeclareLaunchArgument("left_model", default_value=MODEL, description="Folder of the left arm's model bundle."),
    DeclareLaunchArgument("right_model", default_value=MODEL, description="Folder of the right arm's model bundle."),
    DeclareLaunchArgument(
        "left_params_file", default_value=PARAMS, description="Parameters of the left arm's nodes, as config/plan.yaml."
    ),
    DeclareLaunchArgument(
        "right_params_file", default_value=PARAMS, description="Parameters of the right arm's nodes."
    ),
    DeclareLaunchArgument("left_goal_image", default_value="", description="Picture file of the left arm's goal."),
    DeclareLaunchArgument("right_goal_image", default_value="", description="Picture file of the right arm's goal."),
]


def generate_launch_description() -> LaunchDescription:
    """Includes plan.launch.py for each arm. Its other arguments can be given for both; --show-args lists them."""
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "plan.launch.py"))

    def plan(arm: str) -> Action:
        own = {name: LaunchConfiguration(f"{arm}_{name}") for name in ("model", "params_file", "goal_image")}
        return GroupAction([IncludeLaunchDescription(source, launch_arguments={**own, "namespace": arm}.items())])

    return LaunchDescription([*ARGUMENTS, *(plan(arm) for arm in ARMS)])
