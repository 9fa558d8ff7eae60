"""The launch files for Gazebo, recording and a real arm: what they would start, without starting it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

launch = pytest.importorskip("launch", reason="ROS 2's launch is not installed (a sourced ROS 2 has it)")
pytest.importorskip("launch_ros", reason="ROS 2's launch_ros is not installed (a sourced ROS 2 has it)")

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch_ros.actions import Node

from lewm_model.config import resource


def actions(name: str, **arguments: str) -> list[Any]:
    """What `ros2 launch lewm_ros <name> argument:=value ...` would do."""
    file = runpy.run_path(str(resource("launch", name)))
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    for entity in file["generate_launch_description"]().entities:
        if isinstance(entity, DeclareLaunchArgument):
            assert len(entity.description) > 20
            entity.visit(context)
    return [(action, context) for action in file["start"](context)]


def texts(context: LaunchContext, substitutions: Any) -> str:
    return "".join(part.perform(context) for part in substitutions)


def command(action: ExecuteProcess, context: LaunchContext) -> list[str]:
    return [texts(context, word) for word in action.cmd]


def included(action: IncludeLaunchDescription, context: LaunchContext) -> dict[str, str]:
    def text(value: Any) -> str:
        return value if isinstance(value, str) else texts(context, value)

    return {text(name): text(value) for name, value in action.launch_arguments}


@pytest.mark.parametrize(("distribution", "flag"), [("jazzy", True), ("humble", False)])
@pytest.mark.parametrize(("namespace", "prefix"), [("", ""), ("left", "/left"), ("/left/", "/left")])
def test_a_recording_has_the_topics_that_a_conversion_needs(
    monkeypatch: pytest.MonkeyPatch, distribution: str, flag: bool, namespace: str, prefix: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    ((action, context),) = actions("record.launch.py", namespace=namespace, output="session")
    words = command(action, context)
    assert words[:5] == ["ros2", "bag", "record", "--storage", "mcap"]
    assert ("--topics" in words) == flag
    topics = words[words.index("session") + (2 if flag else 1) :]
    assert topics == [
        f"{prefix}/camera/image_raw/compressed",
        f"{prefix}/camera/camera_info",
        f"{prefix}/joint_states",
        f"{prefix}/arm_controller/joint_trajectory",
        f"{prefix}/goal_image",
        f"{prefix}/episode",
    ]
    qos = Path(words[words.index("--qos-profile-overrides-path") + 1])
    profiles = yaml.safe_load(qos.read_text())
    qos.unlink()
    assert list(profiles) == sorted(topics)
    assert profiles[f"{prefix}/joint_states"]["reliability"] == "best_effort"
    assert profiles[f"{prefix}/goal_image"]["durability"] == "transient_local"
    assert profiles[f"{prefix}/arm_controller/joint_trajectory"]["reliability"] == "reliable"
    storage = yaml.safe_load(Path(words[words.index("--storage-config-file") + 1]).read_text())
    assert storage["noChunking"] is False
    assert storage["noChunkCRC"] is False


def test_raw_pictures_of_an_absolute_topic_are_recorded_where_they_are() -> None:
    ((action, context),) = actions("record.launch.py", images="raw", image_topic="/wrist/color/image_raw")
    words = command(action, context)
    assert "/wrist/color/image_raw" in words
    assert "/wrist/color/camera_info" in words
    assert "--output" not in words


def test_gazebo_without_its_packages_says_what_to_install() -> None:
    with pytest.raises(RuntimeError, match="apt install"):
        actions("gazebo.launch.py")


@pytest.mark.parametrize(("headless", "flags"), [("true", "-r -s --headless-rendering"), ("false", "-r")])
def test_gazebo_gets_the_world_and_the_bridge_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, headless: str, flags: str
) -> None:
    share = tmp_path / "share"
    (share / "ros_gz_sim" / "launch").mkdir(parents=True)
    index = share / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "ros_gz_sim").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    world = "/a folder/world.sdf"
    found = actions("gazebo.launch.py", headless=headless, world=world, namespace="left")
    (include, context), (bridge, _), (adapter, _) = found
    assert included(include, context)["gz_args"] == f"{flags} '{world}'"
    for node, executable in ((bridge, "parameter_bridge"), (adapter, "gazebo_commands")):
        assert isinstance(node, Node)
        assert node.node_executable == executable
        node._perform_substitutions(context)
        assert node.expanded_node_namespace == "/left"


@pytest.mark.parametrize("arm", ["fr3", "so101", "ur5e"])
def test_a_real_arm_gets_its_controller_and_the_planner_disarmed(arm: str) -> None:
    (spawner, context), (plan, _) = actions("real_arm.launch.py", arm=arm, model="m", namespace="left", enable="true")
    arguments = [texts(context, word) if not isinstance(word, str) else word for word in spawner._Node__arguments]
    assert arguments[0] == "arm_controller"
    assert Path(arguments[-1]) == resource("config", "arms", f"{arm}_controllers.yaml")
    values = included(plan, context)
    assert values["sim"] == "none"
    assert values["enable"] == "false"
    assert Path(values["params_file"]) == resource("config", "arms", f"{arm}.yaml")
    assert values["namespace"] == "left"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, set()),
        ({"viewer": "true"}, {("lewm_ros", "viewer_node")}),
        ({"rviz": "true"}, {("lewm_ros", "viewer_node"), ("rviz2", "rviz2")}),
        ({"viewer": "true", "sim": "none"}, {("lewm_ros", "viewer_node")}),
    ],
)
def test_the_viewer_is_started_where_it_is_asked_for_and_by_rviz(
    arguments: dict[str, str], expected: set[tuple[str, str]]
) -> None:
    found = {
        (action.node_package, action.node_executable): action
        for action, _ in actions("plan.launch.py", **arguments)
        if isinstance(action, Node)
    }
    lookers = {("lewm_ros", "viewer_node"), ("rviz2", "rviz2")}
    assert found.keys() & lookers == expected
    assert {("lewm_ros", "camera_node"), ("lewm_ros", "planner_node")} <= found.keys()
