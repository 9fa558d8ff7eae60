# SPDX-License-Identifier: Apache-2.0
"""Brings up camera_node and planner_node, and by default a simulated arm.

    ros2 launch lewm_ros plan.launch.py goal_image:=goal.png enable:=true      the simulated arm reaches the picture
    ros2 launch lewm_ros plan.launch.py viewer:=true                           also publishes debug_image and markers
    ros2 launch lewm_ros plan.launch.py sim:=none params_file:=my_arm.yaml     a real arm; disarmed until ~/enable

`ros2 launch lewm_ros plan.launch.py --show-args` describes every argument.
"""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
BOOLEAN = ["true", "false"]
PATHS = ("model", "goal_image", "params_file", "goal_folder", "robot", "scene")  # arguments in which ~ is expanded
RESPAWN_DELAY_S = 1.0  # from the death of a process to its restart
MOST_DEATHS, DEATHS_WITHIN_S = 3, 60.0  # deaths of a process within this time that end the launch

ARGUMENTS = [
    DeclareLaunchArgument(
        "model", default_value=str(SHARE / "models" / "reach"), description="Folder of the model bundle."
    ),
    DeclareLaunchArgument(
        "sim",
        default_value="mujoco",
        choices=["mujoco", "gazebo", "none"],
        description="Simulator behind the topics: MuJoCo, Gazebo, or none for a real arm and camera.",
    ),
    DeclareLaunchArgument(
        "goal_image",
        default_value="",
        description="Picture file of the goal; empty waits for one on the topic goal_image.",
    ),
    DeclareLaunchArgument(
        "image_topic", default_value="camera/image_raw", description="Topic of the camera's images (sensor_msgs/Image)."
    ),
    DeclareLaunchArgument(
        "command_topic",
        default_value="arm_controller/joint_trajectory",
        description="Topic of the arm's trajectory controller (trajectory_msgs/JointTrajectory).",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "plan.yaml"),
        description="Params file of the nodes: robot, planner, shield, rates.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and relative topics."),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        choices=["auto", *BOOLEAN],
        description="Use the time of /clock, which sim_node then publishes; auto: with sim:=gazebo only.",
    ),
    DeclareLaunchArgument(
        "backend",
        default_value="auto",
        choices=["auto", "tensorrt", "onnxruntime", "torch"],
        description="What runs the model; auto takes the first that works on this machine.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=BOOLEAN,
        description="Configure and activate the nodes. Otherwise use `ros2 lifecycle set`; then none is restarted.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="true",
        choices=BOOLEAN,
        description="Restart a node that died; otherwise the end of one ends all. A restarted planner is disarmed.",
    ),
    DeclareLaunchArgument(
        "composed",
        default_value="false",
        choices=BOOLEAN,
        description="Run camera_node and planner_node in one process: less memory, slower plans.",
    ),
    DeclareLaunchArgument(
        "deadman_button",
        default_value="",
        description="Button on the topic joy that must be held for the arm to move; empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "goal_folder",
        default_value="",
        description="Folder of goal pictures, chosen by name on the topic goal_name; empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "viewer",
        default_value="false",
        choices=BOOLEAN,
        description="Start viewer_node: debug_image and plan_markers, drawn only while somebody looks.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=BOOLEAN,
        description="Start RViz with config/lewm.rviz, which shows what the viewer draws; needs rviz2 on this machine.",
    ),
    DeclareLaunchArgument(
        "robot",
        default_value="",
        description="Robot file, its name in config/robots or a path; simulated in the scene of the same name if there "
        "is one. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "scene",
        default_value="",
        description="Scene or SDF file that sim:=mujoco simulates; empty: that of config/scenes for the robot and the "
        "task of the model.",
    ),
    DeclareLaunchArgument(
        "enclave",
        default_value="",
        description="SROS2: the enclaves are <enclave>/<executable>, as in config/sros2/policy.xml; empty: none.",
    ),
    DeclareLaunchArgument(
        "dry_run",
        default_value="false",
        choices=BOOLEAN,
        description="Plan, publish and report as usual, but send nothing to the arm.",
    ),
    DeclareLaunchArgument(
        "enable",
        default_value="false",
        choices=BOOLEAN,
        description="Arm the planner once, when its inputs arrive, but not after a restart. Not for a real arm.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    # Gazebo first: if it is not installed, the launch ends before a node was started.
    return LaunchDescription([*ARGUMENTS, gazebo(), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The actions for the given arguments."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    for name in PATHS:
        values[name] = os.path.expanduser(values[name])  # the shell does not, in NAME:=~/file
    if not Path(values["params_file"]).is_file():  # launch would only warn, and start the nodes without it
        raise RuntimeError(f"params_file: there is no file {values['params_file']}")
    gazebo_clock = values["use_sim_time"] == "auto" and values["sim"] == "gazebo"
    use_sim_time: dict[str, Any] = {"use_sim_time": gazebo_clock or values["use_sim_time"] == "true"}
    model = {"model": values["model"], "backend": values["backend"], **use_sim_time}
    # The lifecycle manager arms it on start, since it can tell the first start from a restart.
    unmanaged = values["enable"] == "true" and values["autostart"] == "false"
    camera: dict[str, Any] = {}
    planner: dict[str, Any] = {"dry_run": values["dry_run"] == "true", "enable_on_start": unmanaged}
    if values["goal_folder"]:
        camera["goal_folder"] = values["goal_folder"]
    if values["robot"]:
        planner["robot"] = values["robot"]
    if values["deadman_button"]:
        planner["deadman_button"] = button(values["deadman_button"])

    actions = fast_dds_profiles()
    names = ["camera_node", "planner_node"]
    if values["composed"] == "true":
        actions.append(process("composed", [model, sections(camera_node=camera, planner_node=planner)], values))
    else:
        actions += [process("camera_node", [model, camera], values), process("planner_node", [model, planner], values)]
    if values["sim"] == "mujoco":
        actions.append(process("sim_node", [scene(values), use_sim_time], values))
        names.insert(0, "sim_node")
    if values["autostart"] == "true":
        actions.append(lifecycle_manager(names, values))
    if values["viewer"] == "true" or values["rviz"] == "true":
        actions.append(viewer(use_sim_time, values))
    if values["rviz"] == "true":
        actions.append(rviz(use_sim_time, values))
    actions += camera_frames(values)
    if values["goal_image"]:
        actions.append(
            Node(
                package="lewm_ros",
                executable="send_goal",
                namespace=values["namespace"],
                arguments=[values["goal_image"], *enclave("send_goal", values)],
                output="screen",
            )
        )
    return actions


def scene(values: dict[str, str]) -> dict[str, str]:
    """The simulator's parameter `world`; nothing where it is the demo's."""
    if values["scene"]:
        return {"world": values["scene"]}
    if not values["robot"]:
        return {}
    names = [robot := Path(values["robot"]).stem]
    task = str(description(values).get("task"))
    if task.endswith(f"_{robot}"):
        names.insert(0, f"{robot}_{task.removesuffix(f'_{robot}')}")
    files = (SHARE / "config" / "scenes" / f"{name}.yaml" for name in names)
    return next(({"world": str(file)} for file in files if file.is_file()), {})


def description(values: dict[str, str]) -> dict[str, Any]:
    """What the bundle says of itself; nothing where it cannot be read: the nodes report that."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((Path(values["model"]) / "model.json").read_text())
        return found if isinstance(found, dict) else {}
    return {}


def camera_frames(values: dict[str, str]) -> list[Action]:
    """Publishes on /tf_static where the cameras are, those whose pose the robot file gave when it was recorded."""
    names = ("--x", "--y", "--z", "--roll", "--pitch", "--yaw")
    return [
        Node(
            package="tf2_ros",
            executable="static_transform_publisher",
            namespace=values["namespace"],
            arguments=[
                *(word for name, number in zip(names, camera["pose"], strict=True) for word in (name, str(number))),
                *("--frame-id", camera["parent"], "--child-frame-id", camera["frame"]),
                *enclave("static_transform_publisher", values),
            ],
            output="screen",
        )
        for camera in description(values).get("cameras", [])
        if camera.get("pose")
    ]


def fast_dds_profiles() -> list[Action]:
    """Sets the Fast DDS profiles, with room for images in shared memory, unless the environment names others."""
    file = str(SHARE / "config" / "fastdds.xml")
    return [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=file))
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]


def sections(**nodes: dict[str, Any]) -> str:
    """Writes a params file with a section for each node by its name, since each refuses the other's parameters."""
    with tempfile.NamedTemporaryFile("w", prefix="lewm_ros_", suffix=".yaml", delete=False) as file:
        json.dump({f"/**/{node}": {"ros__parameters": found} for node, found in nodes.items() if found}, file)
    return file.name  # JSON is YAML


def process(executable: str, parameters: list[Any], values: dict[str, str]) -> Node:
    """A process of this package; its nodes are unconfigured at first."""
    respawn = values["respawn"] == values["autostart"] == "true"  # else nothing would bring a restarted node up
    return Node(
        package="lewm_ros",
        executable=executable,
        # launch gives `name` to every node of a process, so a process with two nodes must not have one.
        name=None if executable == "composed" else executable,
        namespace=values["namespace"],
        parameters=[values["params_file"], *filter(None, parameters)],
        arguments=enclave(executable, values),
        remappings=[
            ("camera/image_raw", values["image_topic"]),
            ("arm_controller/joint_trajectory", values["command_topic"]),
        ],
        output="screen",
        sigterm_timeout="15",  # s: time to bring the arm to rest and free the model, also on a busy machine
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY_S,
        on_exit=end_if_it_dies_again(executable) if respawn else fail(f"{executable} has ended"),
    )


def enclave(executable: str, values: dict[str, str]) -> list[str]:
    """The arguments that put a process into its SROS2 enclave."""
    return ["--ros-args", "--enclave", f"{values['enclave']}/{executable}"] if values["enclave"] else []


def viewer(use_sim_time: dict[str, Any], values: dict[str, str]) -> Node:
    """viewer_node, whose end ends nothing else. A real arm's URDF has to be in the params file."""
    arm = {"urdf": str(SHARE / "config" / "arms" / "tabletop.urdf"), "workspace.base": "base"}
    simulated = {**arm, "workspace.tip": "end_effector"} if values["sim"] != "none" else {}
    return Node(
        package="lewm_ros",
        executable="viewer_node",
        name="viewer_node",
        namespace=values["namespace"],
        parameters=[simulated, values["params_file"], {"model": values["model"], **use_sim_time}],
        arguments=enclave("viewer_node", values),
        remappings=[("camera/image_raw", values["image_topic"])],
        output="screen",
        sigterm_timeout="15",  # s: it may be slow to end, since it has the lowest priority
    )


def rviz(use_sim_time: dict[str, Any], values: dict[str, str]) -> Node:
    """RViz, in the namespace of the nodes: the topics in its configuration are relative."""
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        namespace=values["namespace"],
        arguments=["-d", str(SHARE / "config" / "lewm.rviz")],
        parameters=[use_sim_time],
        output="screen",
    )


def lifecycle_manager(names: list[str], values: dict[str, str]) -> Node:
    """The node that brings the others up, also after a restart. It ends when one refuses, and then all end."""
    return Node(
        package="lewm_ros",
        executable="lifecycle_manager",
        name="lifecycle_manager",
        namespace=values["namespace"],
        arguments=enclave("lifecycle_manager", values),
        parameters=[{"nodes": names, "enable": "planner_node" if values["enable"] == "true" else ""}],
        output="screen",
        sigterm_timeout="15",
        on_exit=fail("the lifecycle manager has ended; its last message says why"),
    )


def fail(message: str) -> Action:
    """Ends the launch with an error; does nothing while it is shutting down anyway."""

    def end(context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError(f"{message}; the others end with it")

    return OpaqueFunction(function=end)


def end_if_it_dies_again(name: str) -> Action:
    """Ends the launch when a process dies MOST_DEATHS times within DEATHS_WITHIN_S."""
    deaths_s: list[float] = []

    def count(context: LaunchContext) -> list[Action]:
        deaths_s.append(time.monotonic())
        recent = [death_s for death_s in deaths_s if death_s > deaths_s[-1] - DEATHS_WITHIN_S]
        if len(recent) < MOST_DEATHS:
            return []
        return [fail(f"{name} has ended {len(recent)} times within {DEATHS_WITHIN_S:.0f} s")]

    return OpaqueFunction(function=count)


def button(text: str) -> int:
    """The number of a joystick's button.

    :raises RuntimeError: the text is not a whole number of 0 or more.
    """
    if not text.isdecimal():
        raise RuntimeError(f"deadman_button is {text!r}; it must be the number of a button, 0 or greater")
    return int(text)


def gazebo() -> Action:
    """Includes gazebo.launch.py with sim:=gazebo; its arguments are also arguments of this file."""
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "gazebo.launch.py")),
        launch_arguments={"namespace": LaunchConfiguration("namespace")}.items(),
        condition=IfCondition(PythonExpression(["'", LaunchConfiguration("sim"), "' == 'gazebo'"])),
    )
