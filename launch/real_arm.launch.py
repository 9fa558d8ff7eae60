# SPDX-License-Identifier: Apache-2.0
"""Brings up a real arm's trajectory controller and the planning nodes, disarmed, with the files of config/arms.

    ros2 launch lewm_ros real_arm.launch.py arm:=ur5e model:=models/my_ur5e image_topic:=/camera/color/image_raw

Start the driver of the arm before; it has the controller manager and joint_state_broadcaster. docs/real-arm.md
describes every step. Not run on a real arm.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
ARM_FILES = SHARE / "config" / "arms"
ARMS = sorted(file.stem for file in ARM_FILES.glob("*.yaml") if not file.stem.endswith("_controllers"))

ARGUMENTS = [
    DeclareLaunchArgument("arm", choices=ARMS, description="Which config/arms/<arm>.yaml: limits and controller."),
    DeclareLaunchArgument("model", description="Folder of the model bundle, trained on recordings of this arm."),
    DeclareLaunchArgument(
        "params_file",
        default_value=[f"{ARM_FILES}/", LaunchConfiguration("arm"), ".yaml"],
        description="Params file of the nodes, your copy of config/arms/<arm>.yaml.",
    ),
    DeclareLaunchArgument(
        "controller_manager", default_value="controller_manager", description="The driver's controller manager."
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of driver, nodes and topics."),
]


def generate_launch_description() -> LaunchDescription:
    """The arguments of plan.launch.py can be given, too; --show-args lists them."""
    names = ("model", "namespace", "params_file")
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        namespace=LaunchConfiguration("namespace"),
        arguments=[
            "arm_controller",
            "--controller-manager",
            LaunchConfiguration("controller_manager"),
            "--param-file",
            [f"{ARM_FILES}/", LaunchConfiguration("arm"), "_controllers.yaml"],
        ],
        output="screen",
    )
    plan = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "plan.launch.py")),
        launch_arguments={
            "sim": "none",
            "enable": "false",
            **{name: LaunchConfiguration(name) for name in names},
        }.items(),
    )
    return LaunchDescription([*ARGUMENTS, spawner, plan])
