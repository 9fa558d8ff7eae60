# SPDX-License-Identifier: Apache-2.0
"""Moves an arm at random and records it: an hour of data for a world model in one command.

    ros2 launch lewm_ros explore.launch.py robot:=so101 minutes:=60 out:=recordings/session1.mcap deadman_button:=5
    ros2 service call /explore_node/enable std_srvs/srv/SetBool "{data: true}"
    ros2 launch lewm_ros explore.launch.py sim:=mujoco robot:=tabletop minutes:=5 out:=sim.mcap enable:=true
    ros2 launch lewm_ros explore.launch.py sim:=gazebo robot:=tabletop minutes:=5 out:=gazebo.mcap enable:=true

Start the driver and the camera of a real arm before (docs/real-arm.md). Not run on a real arm.
"""

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
BOOLEAN = ["true", "false"]

ARGUMENTS = [
    DeclareLaunchArgument("robot", description="Robot file, its name in config/robots or a path: limits, box, links."),
    DeclareLaunchArgument("minutes", default_value="60", description="Minutes of episodes, after which all nodes end."),
    DeclareLaunchArgument("out", default_value="", description="MCAP file to write; empty names it by date."),
    DeclareLaunchArgument(
        "seed", default_value="0", description="Seed of the motion; use another one for each session."
    ),
    DeclareLaunchArgument("speed_scale", default_value="0.3", description="Share of the joints' full speed, up to 1."),
    DeclareLaunchArgument(
        "deadman_button", default_value="-1", description="Button on the topic joy that must be held; -1: none."
    ),
    DeclareLaunchArgument(
        "params_file", default_value="", description="More parameters of explore_node: workspace.*, effort_limits, ..."
    ),
    DeclareLaunchArgument(
        "sim",
        default_value="none",
        choices=["none", "mujoco", "gazebo"],
        description="Simulator behind the topics: MuJoCo, Gazebo (its `world` as in gazebo.launch.py), or none for a "
        "real arm.",
    ),
    DeclareLaunchArgument(
        "image_topic", default_value="camera/image_raw", description="Topic of the camera's pictures."
    ),
    DeclareLaunchArgument(
        "images",
        default_value="raw",
        choices=["raw", "compressed"],
        description="Record <image_topic> and compress it, or <image_topic>/compressed unchanged.",
    ),
    DeclareLaunchArgument(
        "command_topic",
        default_value="arm_controller/joint_trajectory",
        description="Topic of the arm's trajectory controller; its controller_state is expected beside it.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and relative topics."),
    DeclareLaunchArgument(
        "enclave",
        default_value="",
        description="SROS2: the enclaves are <enclave>/<node>, as in config/sros2/policy.xml; empty: none.",
    ),
    DeclareLaunchArgument(
        "enable", default_value="false", choices=BOOLEAN, description="Arm once, on start. Not for a real arm."
    ),
]


def generate_launch_description() -> LaunchDescription:
    # Gazebo first: if it is not installed, the launch ends before a node was started.
    return LaunchDescription([*ARGUMENTS, gazebo(), OpaqueFunction(function=start)])


def gazebo() -> Action:
    """Includes gazebo.launch.py with sim:=gazebo; its arguments are also arguments of this file."""
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "gazebo.launch.py")),
        launch_arguments={"namespace": LaunchConfiguration("namespace")}.items(),
        condition=IfCondition(PythonExpression(["'", LaunchConfiguration("sim"), "' == 'gazebo'"])),
    )


def start(context: LaunchContext) -> list[Action]:
    """The actions for the given arguments."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    explore: dict[str, Any] = {
        "use_sim_time": values["sim"] == "gazebo",
        "robot": values["robot"],
        "minutes": float(values["minutes"]),
        "seed": int(values["seed"]),
        "speed_scale": float(values["speed_scale"]),
        "deadman_button": int(values["deadman_button"]),
    }
    record = {"out": str(Path(values["out"]).expanduser()) if values["out"] else "", "input": values["images"]}
    names = ["explore_node"]
    actions: list[Action] = []
    if values["sim"] == "mujoco":
        scene = SHARE / "config" / "scenes" / f"{Path(values['robot']).stem}.yaml"
        actions.append(process("sim_node", [{"world": str(scene)} if scene.is_file() else {}], values))
        names.insert(0, "sim_node")
    files = [values["params_file"]] if values["params_file"] else []
    enabled = {"nodes": names, "enable": "explore_node" if values["enable"] == "true" else ""}
    return [
        *actions,
        process("record", [record], values, on_exit=fail("the recorder has ended; its last message says why")),
        # It ends by itself after the given minutes, which ends the launch without an error.
        process("explore_node", [*files, explore], values, on_exit=Shutdown(reason="the exploration has ended")),
        process("lifecycle_manager", [enabled], values, on_exit=fail("a node could not be brought up; see above")),
    ]


def process(executable: str, parameters: list[Any], values: dict[str, str], on_exit: Action | None = None) -> Node:
    """A node of this package."""
    image, command = values["image_topic"], values["command_topic"]
    remappings = [("camera/image_raw", image), ("arm_controller/joint_trajectory", command)]
    remappings += [
        ("camera/image_raw/compressed", f"{image}/compressed"),
        ("camera/camera_info", beside(image, "camera_info")),
        ("arm_controller/controller_state", beside(command, "controller_state")),
    ]
    name = "recorder" if executable == "record" else executable
    return Node(
        package="lewm_ros",
        executable=executable,
        name=name,
        arguments=["--ros-args", "--enclave", f"{values['enclave']}/{name}"] if values["enclave"] else [],
        namespace=values["namespace"],
        parameters=[*filter(None, parameters)],
        remappings=remappings,
        output="screen",
        sigterm_timeout="15",  # s: time to bring the arm to rest, also on a busy machine
        on_exit=on_exit or fail(f"{executable} has ended"),
    )


def beside(topic: str, name: str) -> str:
    """The topic `name` in the namespace of `topic`."""
    return f"{topic.rpartition('/')[0]}/{name}" if "/" in topic else name


def fail(message: str) -> Action:
    """Ends the launch with an error; does nothing while it is shutting down anyway."""

    def end(context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError(f"{message}; the others end with it")

    return OpaqueFunction(function=end)
