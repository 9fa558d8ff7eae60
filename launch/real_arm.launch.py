"""Brings up the trajectory controller of a real arm, with the limits of config/arms, and the planning nodes, disarmed.

    ros2 launch lewm_ros real_arm.launch.py arm:=ur5e model:=models/my_ur5e image_topic:=/camera/color/image_raw

The arm's own driver runs already: it has the controller manager and joint_state_broadcaster. docs/real-arm.md goes
through it step by step. Not run on an arm.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
ARMS = sorted(
    file.stem for file in (SHARE / "config" / "arms").glob("*.yaml") if not file.stem.endswith("_controllers")
)

ARGUMENTS = [
    DeclareLaunchArgument("arm", choices=ARMS, description="Which config/arms/<arm>.yaml: limits and controller."),
    DeclareLaunchArgument("model", description="Folder of the model bundle, trained on recordings of this arm."),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="Parameters of the nodes, your copy of config/arms/<arm>.yaml; empty takes that file.",
    ),
    DeclareLaunchArgument(
        "controller_manager", default_value="controller_manager", description="The driver's controller manager."
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of driver, nodes and topics."),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The actions that the arguments' values ask for. The other arguments of plan.launch.py are passed on to it."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    arms = SHARE / "config" / "arms"
    controller = ["arm_controller", "--controller-manager", values["controller_manager"]]
    return [
        Node(
            package="controller_manager",
            executable="spawner",
            namespace=values["namespace"],
            arguments=[*controller, "--param-file", str(arms / f"{values['arm']}_controllers.yaml")],
            output="screen",
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / "launch" / "plan.launch.py")),
            launch_arguments={
                "sim": "none",
                "enable": "false",
                "model": values["model"],
                "namespace": values["namespace"],
                "params_file": values["params_file"] or str(arms / f"{values['arm']}.yaml"),
            }.items(),
        ),
    ]
