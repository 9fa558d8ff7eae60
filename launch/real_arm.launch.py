# SPDX-License-Identifier: Apache-2.0
"""Brings up a real arm's trajectory controller and the planning nodes, disarmed, with the files of config/arms.

    ros2 launch lewm_ros real_arm.launch.py arm:=ur5e model:=models/my_ur5e image_topic:=/camera/color/image_raw

Start the driver of the arm before; it has the controller manager and joint_state_broadcaster. docs/real-arm.md
describes every step. Not run on a real arm.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
ARM_FILES = SHARE / "config" / "arms"
ARMS = sorted(file.stem for file in ARM_FILES.glob("*.yaml") if not file.stem.endswith("_controllers"))

FIXED = {"sim": "none", "enable": "false"}  # of plan.launch.py: the arm is real, and a person arms it

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


def refuse_others(context: LaunchContext) -> None:
    """Ends the launch when it is given another value of a fixed argument, which would otherwise change nothing."""
    for name, value in FIXED.items():
        given = context.launch_configurations.get(name, value)
        if given.lower() != value:
            raise RuntimeError(
                f"{name}:={given} cannot be given to real_arm.launch.py, which always has {name}:={value}; leave it "
                "out, and arm with ~/enable of planner_node when you stand beside the arm (docs/real-arm.md)"
            )


def generate_launch_description() -> LaunchDescription:
    """The arguments of plan.launch.py can be given, too, except the fixed ones; --show-args lists them."""
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
        launch_arguments={**FIXED, **{name: LaunchConfiguration(name) for name in names}}.items(),
    )
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=refuse_others), spawner, plan])
