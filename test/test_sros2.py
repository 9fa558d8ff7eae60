# SPDX-License-Identifier: Apache-2.0
"""The sample SROS2 policy: it is one that sros2 accepts, nodes can work under it, and one node can move the arm."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from lewm_model.bundle.bundle import load_bundle, save_description
from lewm_model.config import resource
from lewm_model.robot.observation import Camera

POLICY = ElementTree.parse(resource("config", "sros2", "policy.xml")).getroot()
ROOT = Path(__file__).resolve().parent.parent


def allowed(profile: ElementTree.Element) -> dict[str, set[str]]:
    """Full names by right: publish, subscribe, reply, request."""
    kinds = ("publish", "subscribe", "reply", "request", "call", "execute")
    rights: dict[str, set[str]] = {right: set() for right in kinds}
    for rule in profile:
        for right, verdict in rule.attrib.items():
            assert verdict == "ALLOW"
            rights[right] |= {full_name(entry.text or "", profile.attrib["node"]) for entry in rule}
    return rights


def full_name(name: str, node: str) -> str:
    name = name.strip().replace("~", f"/{node}")
    assert "*" not in name
    assert name
    return name if name.startswith("/") else f"/{name}"


PROFILES = {profile.attrib["node"]: allowed(profile) for profile in POLICY.iter("profile")}


def test_the_policy_has_the_structure_that_sros2_wants() -> None:
    """Of sros2's policy.xsd, version 0.2.0."""
    assert (POLICY.tag, POLICY.attrib) == ("policy", {"version": "0.2.0"})
    (enclaves,) = POLICY
    paths = [enclave.attrib["path"] for enclave in enclaves]
    assert len(paths) == len(set(paths)) > 3
    assert len(PROFILES) == len(list(POLICY.iter("profile")))
    rights = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"call", "execute"}}
    for enclave in enclaves:
        (profiles,) = enclave
        for profile in profiles:
            assert set(profile.attrib) == {"ns", "node"}
            for rule in profile:
                assert set(rule.attrib) <= rights[rule.tag]
                assert rule.attrib
                assert len(rule) > 0
                assert {entry.tag for entry in rule} == {rule.tag.removesuffix("s")}


@pytest.mark.parametrize("hand", ["arm", "gripper"])
def test_only_the_planner_and_the_explorer_may_command_arm_and_gripper(hand: str) -> None:
    command = f"/{hand}_controller/joint_trajectory"
    may = [node for node, rights in PROFILES.items() if command in rights["publish"]]
    assert may == ["planner_node", "explore_node"]
    assert command in PROFILES[f"{hand}_controller"]["subscribe"]


def test_the_gripper_may_have_an_action_as_the_page_on_robots_names_it() -> None:
    (name,) = re.findall(r"`action: (\S+)`", (ROOT / "docs" / "robots.md").read_text())
    assert [node for node, rights in PROFILES.items() if f"/{name}" in rights["call"]] == [
        "planner_node",
        "explore_node",
    ]
    assert f"/{name}" in PROFILES["gripper_controller"]["execute"]


def test_only_the_operator_may_enable_and_everything_needed_for_it_is_answered() -> None:
    asked = [f"planner_node/{service}" for service in ("enable", "stop", "reset", "cancel")]
    for service in (*asked, "camera_node/capture_goal"):
        askers = {node for node, rights in PROFILES.items() if f"/{service}" in rights["request"]}
        operators = {"operator", "panel_node"}
        assert askers == operators | ({"send_goal", "reach_goal"} if service.endswith("cancel") else set())
        assert f"/{service}" in PROFILES[service.partition("/")[0]]["reply"]


def test_a_service_that_one_may_ask_for_another_answers() -> None:
    answered = set().union(*(rights["reply"] for rights in PROFILES.values()))
    for node, rights in PROFILES.items():
        assert rights["request"] <= answered, f"{node} asks for {rights['request'] - answered}, which nobody answers"


def test_the_lifecycle_manager_may_bring_up_every_lifecycle_node_and_nothing_else() -> None:
    ours = ("camera_node", "planner_node", "explore_node")
    lifecycle = {name for node in ours for name in PROFILES[node]["reply"] if name.endswith("/change_state")}
    states = {name.replace("change_state", "get_state") for name in lifecycle}
    assert PROFILES["lifecycle_manager"]["request"] == lifecycle | states
    assert len(lifecycle) == 3


def test_what_one_listens_to_another_may_say() -> None:
    said = set().union(*(rights["publish"] for rights in PROFILES.values())) | {"/clock", "/robot_description"}
    for node, rights in PROFILES.items():
        assert rights["subscribe"] <= said, f"{node} waits for {rights['subscribe'] - said}, which nobody may publish"


@pytest.fixture
def parameters(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Parameters with which a node makes all that it ever makes: a gripper, a camera to rectify."""
    rclpy = pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup)")
    camera = {"height": 64, "width": 64, "rectify": True}
    bundle = load_bundle(shutil.copytree(resource("models", "reach"), tmp_path / "reach"))
    cameras = (Camera("camera", **camera),)
    joint = {"lower": -2.0, "upper": 2.0, "velocity": 1.0, "acceleration": 5.0, "jerk": 100.0}
    robot = {"joints": dict.fromkeys(bundle.actions.names, joint), "cameras": {"camera": camera}}
    robot["gripper"] = {"joint": bundle.actions.names[-1], "open": 1.0, "closed": 0.0}
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(robot, sort_keys=False))
    rclpy.init()
    yield {"model": str(save_description(replace(bundle, cameras=cameras)).folder), "robot": f"{tmp_path}/robot.yaml"}
    rclpy.shutdown()


def lifecycle_node(name: str, parameters: dict[str, Any]) -> Any:
    """An active node of this process."""
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from lewm_ros.camera_node import CameraNode
    from lewm_ros.explore_node import ExploreNode
    from lewm_ros.planner_node import PlannerNode

    node = {"camera_node": CameraNode, "planner_node": PlannerNode, "explore_node": ExploreNode}[name]()
    given = {key: value for key, value in parameters.items() if node.has_parameter(key)}
    for key, value in (given | ({"gripper": True} if name == "explore_node" else {})).items():
        assert node.set_parameters([Parameter(key, value=value)])[0].successful
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    return node


def plain_node(name: str, parameters: dict[str, Any], tmp_path: Path) -> Any:
    """A node of this process that has no lifecycle."""
    import rclpy

    from lewm_ros.client import GoalClient
    from lewm_ros.lifecycle_manager import LifecycleManager
    from lewm_ros.panel.ros import PanelNode
    from lewm_ros.record import Recorder
    from lewm_ros.viewer_node import ViewerNode

    if name in ("send_goal", "reach_goal"):
        return GoalClient(node=rclpy.create_node(name)).node
    given = {
        "viewer_node": {"model": parameters["model"]},
        "panel_node": {"model": parameters["model"]},
        "recorder": {"robot": parameters["robot"], "out": f"{tmp_path}/a.mcap"},
        "lifecycle_manager": {"nodes": "[camera_node, planner_node, explore_node]"},
    }[name]
    rclpy.shutdown()
    rclpy.init(args=["--ros-args", *(word for key, value in given.items() for word in ("-p", f"{key}:={value}"))])
    kinds = {"viewer_node": ViewerNode, "panel_node": PanelNode, "recorder": Recorder}
    node = kinds.get(name, LifecycleManager)()
    if name == "panel_node":
        node.watched = True
        node._look()
    if name == "viewer_node":
        watcher = rclpy.create_node("watcher")
        for publisher in (node._pictures, node._markers):
            watcher.create_subscription(publisher.msg_type, publisher.topic_name, lambda _: None, 1)
        node._look()
        assert node._inputs
    return node


@pytest.mark.parametrize(
    "name",
    [
        *("camera_node", "planner_node", "explore_node", "viewer_node", "recorder", "lifecycle_manager", "panel_node"),
        *("send_goal", "reach_goal"),
    ],
)
def test_the_policy_allows_every_topic_and_service_that_a_running_node_has(
    name: str, parameters: dict[str, Any], tmp_path: Path
) -> None:
    active = name in ("camera_node", "planner_node", "explore_node")
    node = lifecycle_node(name, parameters) if active else plain_node(name, parameters, tmp_path)
    asked = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    try:
        assert node.get_name() == name
        for right, ask in asked.items():
            has = {topic for topic, _ in ask(name, "/")}
            assert has <= PROFILES[name][right], f"config/sros2/policy.xml does not let {name} {right} that"
            assert has or right in ("subscribe", "request")
    finally:
        if active:
            node.deactivate()
            node.cleanup()
        node.destroy_node()


def test_what_the_planner_tells_of_how_it_plans_the_viewer_may_hear() -> None:
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    from lewm_ros.planner_node import THOUGHTS

    told = {f"/planner_node/{name}" for name in (*THOUGHTS, "plan", "status")}
    assert told <= PROFILES["planner_node"]["publish"]
    assert told <= PROFILES["viewer_node"]["subscribe"]


def test_every_process_of_the_launch_files_has_an_enclave_of_its_own() -> None:
    from launch_stand_in import launched

    paths = {enclave.attrib["path"] for enclave in POLICY.iter("enclave")}
    given = {"enclave": "/lewm", "goal_image": "goal.png", "viewer": "true"}
    for process in launched("real_arm.launch.py", arm="ur5e", model="m", **given):
        if process.package == "lewm_ros":
            assert process.after("--enclave") == [f"/lewm/{process.executable}"]
        assert f"/lewm/{process.executable}" in paths
    for process in launched("explore.launch.py", robot="tabletop", enclave="/lewm"):
        name = process.remappings["__node"]
        assert process.after("--enclave") == [f"/lewm/{name}"] and f"/lewm/{name}" in paths
    assert not any(process.after("--enclave") for process in launched("plan.launch.py"))
