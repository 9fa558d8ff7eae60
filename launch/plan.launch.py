"""Brings up camera_node and planner_node, and the simulated arm where one is asked for.

    ros2 launch lewm_ros plan.launch.py goal_image:=goal.png enable:=true      the simulated arm goes to the picture
    ros2 launch lewm_ros plan.launch.py sim:=none params_file:=my_arm.yaml     a real arm; disarmed until ~/enable

`ros2 launch lewm_ros plan.launch.py --show-args` describes every argument.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

SHARE = Path(__file__).resolve().parent.parent  # share/lewm_ros, or the checkout
BOOLEAN = ["true", "false"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "model", default_value=str(SHARE / "models" / "reach"), description="Folder of the model bundle."
    ),
    DeclareLaunchArgument(
        "sim",
        default_value="mujoco",
        choices=["mujoco", "gazebo", "none"],
        description="What stands behind the topics: the embedded simulator, Gazebo, or none for a real arm and camera.",
    ),
    DeclareLaunchArgument(
        "goal_image",
        default_value="",
        description="Picture file of how the workspace should look; empty waits for one on the goal_image topic.",
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
        description="Parameters of the nodes: limits of the arm, planner, shield, rates.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and relative topics."),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        choices=["auto", *BOOLEAN],
        description="Take the time from /clock, which sim_node then publishes too; auto does so with sim:=gazebo only.",
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
        description="Configure and activate the nodes; otherwise `ros2 lifecycle set` does.",
    ),
    DeclareLaunchArgument(
        "enable",
        default_value="false",
        choices=BOOLEAN,
        description="Arm the planner as soon as frames and joint states arrive. Leave it off on a real arm.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Action]:
    """The actions that the arguments' values ask for."""
    values = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    gazebo_clock = values["use_sim_time"] == "auto" and values["sim"] == "gazebo"
    use_sim_time = {"use_sim_time": gazebo_clock or values["use_sim_time"] == "true"}
    model = {"model": values["model"], "backend": values["backend"], **use_sim_time}
    planner = {**model, "enable_on_start": values["enable"] == "true"}

    nodes = {
        "camera_node": lifecycle_node("camera_node", model, values),
        "planner_node": lifecycle_node("planner_node", planner, values),
    }
    if values["sim"] == "mujoco":
        nodes["sim_node"] = lifecycle_node("sim_node", use_sim_time, values)

    actions = fast_dds_profiles()
    if values["sim"] == "gazebo":  # before the nodes: where it is not installed, nothing has been started
        actions.append(gazebo(values["namespace"]))
    actions += nodes.values()
    if values["autostart"] == "true":
        actions += [action for name, node in nodes.items() for action in bring_up(name, node)]
    if values["goal_image"]:
        actions.append(
            Node(
                package="lewm_ros",
                executable="send_goal",
                namespace=values["namespace"],
                arguments=[values["goal_image"]],
                output="screen",
            )
        )
    return actions


def fast_dds_profiles() -> list[Action]:
    """Room for images in shared memory, unless the environment names a profile file of its own."""
    file = str(SHARE / "config" / "fastdds.xml")
    return [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=file))
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]


def lifecycle_node(name: str, parameters: dict[str, str | bool], values: dict[str, str]) -> LifecycleNode:
    """One of our nodes, unconfigured. Its end is everyone's: an arm without its camera must not go on."""
    return LifecycleNode(
        package="lewm_ros",
        executable=name,
        name=name,
        namespace=values["namespace"],
        parameters=[values["params_file"], parameters],
        remappings=[
            ("camera/image_raw", values["image_topic"]),
            ("arm_controller/joint_trajectory", values["command_topic"]),
        ],
        output="screen",
        sigterm_timeout="15",  # s to bring the arm to rest and free the model, also on a busy machine
        on_exit=fail(f"{name} has ended; the others end with it"),
    )


def bring_up(name: str, node: LifecycleNode) -> list[Action]:
    """Configures the node, then activates it. A refusal ends the launch; the node has said why."""
    configure, activate = (
        EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )

    def on(start_state: str, goal_state: str, *actions: Action) -> RegisterEventHandler:
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node, start_state=start_state, goal_state=goal_state, entities=list(actions)
            )
        )

    return [
        on("configuring", "inactive", activate),
        on("configuring", "unconfigured", fail(f"{name} could not be configured; its message above says what to do")),
        on("activating", "inactive", fail(f"{name} could not be activated; its message above says what to do")),
        configure,
    ]


def fail(message: str) -> Action:
    """Ends the launch, and its exit status says so; nothing while it is ending anyway."""

    def end(context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError(message)

    return OpaqueFunction(function=end)


def gazebo(namespace: str) -> Action:
    """Gazebo with the world, and its bridge, from their own launch file."""
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "gazebo.launch.py"))
    return IncludeLaunchDescription(source, launch_arguments={"namespace": namespace}.items())
