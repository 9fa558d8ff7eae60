# SPDX-License-Identifier: Apache-2.0
"""The sample SROS2 policy: it is one that sros2 accepts, nodes can work under it, and one node can move the arm."""

from __future__ import annotations

import ast
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lewm_model.config import resource

POLICY = ElementTree.parse(resource("config", "sros2", "policy.xml")).getroot()
ROOT = Path(__file__).resolve().parent.parent
COMMAND = "/arm_controller/joint_trajectory"


def allowed(profile: ElementTree.Element) -> dict[str, set[str]]:
    """Full names by right: publish, subscribe, reply, request."""
    rights: dict[str, set[str]] = {right: set() for right in ("publish", "subscribe", "reply", "request", "execute")}
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


def test_only_the_planner_may_command_the_arm() -> None:
    assert [node for node, rights in PROFILES.items() if COMMAND in rights["publish"]] == ["planner_node"]
    assert COMMAND in PROFILES["arm_controller"]["subscribe"]


def test_only_the_operator_may_enable_and_everything_needed_for_it_is_answered() -> None:
    asked = [f"planner_node/{service}" for service in ("enable", "stop", "reset", "cancel")]
    for service in (*asked, "camera_node/capture_goal"):
        askers = {node for node, rights in PROFILES.items() if f"/{service}" in rights["request"]}
        assert askers == {"operator"} | ({"send_goal", "reach_goal"} if service.endswith("cancel") else set())
        assert f"/{service}" in PROFILES[service.partition("/")[0]]["reply"]


def test_a_service_that_one_may_ask_for_another_answers() -> None:
    answered = set().union(*(rights["reply"] for rights in PROFILES.values()))
    for node, rights in PROFILES.items():
        assert rights["request"] <= answered, f"{node} asks for {rights['request'] - answered}, which nobody answers"


def test_the_lifecycle_manager_may_bring_up_every_lifecycle_node_and_nothing_else() -> None:
    ours = ("camera_node", "planner_node")
    lifecycle = {name for node in ours for name in PROFILES[node]["reply"] if name.endswith("/change_state")}
    states = {name.replace("change_state", "get_state") for name in lifecycle}
    assert PROFILES["lifecycle_manager"]["request"] == lifecycle | states
    assert len(lifecycle) == 2


def test_what_one_listens_to_another_may_say() -> None:
    said = set().union(*(rights["publish"] for rights in PROFILES.values())) | {"/clock", "/robot_description"}
    for node, rights in PROFILES.items():
        assert rights["subscribe"] <= said, f"{node} waits for {rights['subscribe'] - said}, which nobody may publish"


@pytest.mark.parametrize("node", ["camera_node", "planner_node", "viewer_node", "recorder", "lifecycle_manager"])
def test_the_policy_allows_every_topic_and_service_that_a_node_makes(node: str) -> None:
    alone = {"recorder": ["record"], "lifecycle_manager": ["lifecycle_manager"], "viewer_node": ["viewer_node"]}
    files = alone.get(node, [node, "node"])
    rights = {"create_publisher": "publish", "create_subscription": "subscribe", "create_service": "reply"}
    rights |= {"_keep": "subscribe", "_subscribe": "subscribe"}
    found = 0
    for file in files:
        for call in ast.walk(ast.parse((ROOT / "lewm_ros" / f"{file}.py").read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in rights):
                continue
            names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if not names:
                continue
            name, right = full_name(names[-1], node), rights[call.func.attr]
            assert name in PROFILES[node][right], f"config/sros2/policy.xml does not let {node} {right} {name}"
            found += 1
    assert found >= (1 if node == "lifecycle_manager" else 4)


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
    assert not any(process.after("--enclave") for process in launched("plan.launch.py"))
