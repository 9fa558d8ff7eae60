# SPDX-License-Identifier: Apache-2.0
"""What each launch file would start: executed with ROS 2's launch system, or where it is missing with a stand-in."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from launch_stand_in import HAS_LAUNCH, Process, launched, read_yaml

from lewm_model.config import resource
from lewm_model.robot.observation import Camera

CASES: tuple[tuple[str, dict[str, str]], ...] = (
    ("plan.launch.py", {}),
    ("plan.launch.py", {"sim": "none", "namespace": "cell", "enable": "true", "viewer": "true", "respawn": "false"}),
    ("plan.launch.py", {"composed": "true", "goal_image": "a goal.png", "rviz": "true", "deadman_button": "3"}),
    ("plan.launch.py", {"autostart": "false", "enable": "true", "robot": "tabletop", "use_sim_time": "true"}),
    ("two_arms.launch.py", {"left_goal_image": "left.png", "dry_run": "true"}),
    ("real_arm.launch.py", {"arm": "ur5e", "model": "m", "namespace": "left", "image_topic": "/color/image_raw"}),
    ("record.launch.py", {"namespace": "left", "output": "a b"}),
    ("explore.launch.py", {"robot": "tabletop", "sim": "mujoco", "out": "a b.mcap", "enable": "true"}),
    ("explore.launch.py", {"robot": "tabletop", "sim": "gazebo"}),
    ("gazebo.launch.py", {"headless": "false", "world": "/a folder/world.sdf", "namespace": "left"}),
)


@pytest.fixture(autouse=True)
def with_gazebo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fake package ros_gz_sim, whose launch file prints its arguments."""
    launch = tmp_path / "share" / "ros_gz_sim" / "launch"
    launch.mkdir(parents=True)
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "ros_gz_sim").touch()
    (launch / "gz_sim.launch.py").write_text(
        "from launch import LaunchDescription\nfrom launch.actions import ExecuteProcess\n"
        "from launch.substitutions import LaunchConfiguration\n"
        "def generate_launch_description():\n"
        "    return LaunchDescription([ExecuteProcess(cmd=['gz', LaunchConfiguration('gz_args')])])\n"
    )
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}:{os.environ.get('AMENT_PREFIX_PATH', '')}")


def by_name(processes: list[Process]) -> dict[str, Process]:
    """Processes by executable; by namespace and executable where there are several."""
    found = {process.executable: process for process in processes}
    assert len(found) == len(processes)
    return found


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_every_launch_file_is_executed_and_says_what_would_run(name: str, arguments: dict[str, str]) -> None:
    processes = launched(name, **arguments)
    assert processes
    for process in processes:
        for file in process.after("--params-file"):
            assert read_yaml(file), file
        if process.package == "lewm_ros":
            assert (Path(__file__).parent.parent / "lewm_ros" / f"{process.executable}.py").is_file()


@pytest.mark.skipif(not HAS_LAUNCH, reason="ROS 2's launch, to compare the stand-in with, is not installed")
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_the_stand_in_says_what_the_launch_system_of_ros_says(name: str, arguments: dict[str, str]) -> None:
    def said(process: Process) -> tuple[object, ...]:
        command = [re.sub(r"/tmp/\S*launch_params_\S+|/tmp/lewm_\S+yaml", "FILE", word) for word in process.command]
        node = process.package == "lewm_ros"
        return process.package, process.executable, command, process.respawn, process.parameters() if node else {}

    ours, theirs = (list(map(said, launched(name, stand_in=which, **arguments))) for which in (True, False))
    assert ours == theirs


# ---- explore.launch.py -----------------------------------------------------------------------------------------------


def test_an_arm_that_explores_is_recorded_on_the_topics_that_it_is_commanded_on() -> None:
    arguments = {"robot": "so101", "minutes": "2", "out": "~/a.mcap", "command_topic": "/left/arm/joint_trajectory"}
    found = by_name(launched("explore.launch.py", image_topic="/lens/image_raw", images="compressed", **arguments))
    assert set(found) == {"record", "explore_node", "lifecycle_manager"}, "a real arm is not simulated"
    assert found["explore_node"].parameters()["minutes"] == 2.0
    assert found["record"].parameters()["out"] == str(Path("~/a.mcap").expanduser())
    assert found["lifecycle_manager"].parameters()["nodes"] == ["explore_node"]
    assert found["lifecycle_manager"].parameters()["enable"] == "", "a real arm is enabled by hand"
    for process in (found["record"], found["explore_node"]):
        assert process.remappings["arm_controller/joint_trajectory"] == "/left/arm/joint_trajectory"
        assert process.remappings["arm_controller/controller_state"] == "/left/arm/controller_state"
        assert process.remappings["camera/image_raw/compressed"] == "/lens/image_raw/compressed"


def test_an_arm_that_explores_in_gazebo_takes_its_time_from_there() -> None:
    found = by_name(launched("explore.launch.py", robot="tabletop", sim="gazebo", world="/a/world.sdf"))
    gazebo = {"gz", "parameter_bridge", "throttle", "gazebo_commands"}
    assert set(found) == {"record", "explore_node", "lifecycle_manager"} | gazebo
    assert found["explore_node"].parameters()["use_sim_time"] is True
    assert found["lifecycle_manager"].parameters()["nodes"] == ["explore_node"]


# ---- plan.launch.py --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sim", ["mujoco", "gazebo", "none"])
def test_nodes_know_the_model_their_topics_and_whose_time_it_is(sim: str) -> None:
    given = {"namespace": "cell", "image_topic": "/color/image_raw", "command_topic": "jtc/joint_trajectory"}
    found = by_name(launched("plan.launch.py", sim=sim, model="/models/mine", **given))
    gazebo = {"gz", "parameter_bridge", "throttle", "gazebo_commands"}
    simulator = {"mujoco": {"sim_node"}, "gazebo": gazebo, "none": set()}[sim]
    assert found.keys() == {"camera_node", "planner_node", "lifecycle_manager"} | simulator
    for name in ("camera_node", "planner_node"):
        assert found[name].parameters()["model"] == "/models/mine"
        assert found[name].parameters()["use_sim_time"] is (sim == "gazebo")
        assert found[name].remappings["camera/image_raw"] == "/color/image_raw"
        assert found[name].remappings["arm_controller/joint_trajectory"] == "jtc/joint_trajectory"
        assert found[name].remappings["__ns"] == "/cell"
        assert found[name].respawn
    managed = ["camera_node", "planner_node"]
    assert found["lifecycle_manager"].parameters()["nodes"] == (["sim_node", *managed] if sim == "mujoco" else managed)
    assert found["lifecycle_manager"].parameters()["enable"] == ""


def test_arguments_that_are_paths_may_begin_with_a_tilde_and_have_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my arm.yaml").write_text("/**:\n  ros__parameters: {speed_scale: 0.25}\n")
    given = {"model": "~/my model", "goal_image": "~/my goal.png", "params_file": "~/my arm.yaml", "robot": "~/r.yaml"}
    found = by_name(launched("plan.launch.py", goal_folder="~/my goals", **given))
    planner = found["planner_node"].parameters()
    assert (planner["model"], planner["speed_scale"]) == (f"{tmp_path}/my model", 0.25)
    assert planner["robot"] == f"{tmp_path}/r.yaml"
    assert found["camera_node"].parameters()["goal_folder"] == f"{tmp_path}/my goals"
    assert f"{tmp_path}/my goal.png" in found["send_goal"].command


def test_a_robot_is_simulated_in_the_scene_of_the_models_task_or_in_its_own_or_in_yours(tmp_path: Path) -> None:
    def world(**arguments: str) -> str:
        return by_name(launched("plan.launch.py", **arguments))["sim_node"].parameters().get("world", "")

    (tmp_path / "model.json").write_text('{"task": "reach_so101"}')
    assert world(robot="so101", model=str(tmp_path)).endswith("config/scenes/so101_reach.yaml")
    assert world(robot="so101").endswith("config/scenes/so101.yaml") and world() == ""
    assert world(robot="so101", scene="/my/scene.yaml") == "/my/scene.yaml"


def test_cameras_whose_pose_the_robot_file_gave_have_their_place_in_tf(tmp_path: Path) -> None:
    posed = Camera("front", 64, 64, frame="front_optical", parent="base", pose=(0.1, 0.0, 0.9, 3.1416, 0.0, -1.5))
    cameras = [asdict(camera) for camera in (posed, Camera("wrist", 64, 64, "wrist/image_raw"))]
    (tmp_path / "model.json").write_text(json.dumps({"cameras": cameras}))
    found = by_name(launched("real_arm.launch.py", arm="ur5e", model=str(tmp_path), namespace="left"))
    process = found["static_transform_publisher"]
    assert process.package == "tf2_ros"
    words = process.command[1:13]
    given = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    assert given == dict(zip(("--x", "--y", "--z", "--roll", "--pitch", "--yaw"), posed.pose, strict=True))
    assert (process.after("--frame-id"), process.after("--child-frame-id")) == (["base"], ["front_optical"])


def test_a_params_file_that_is_not_there_starts_nothing() -> None:
    with pytest.raises(RuntimeError, match=r"params_file: there is no file /nowhere\.yaml"):
        launched("plan.launch.py", params_file="/nowhere.yaml")


def test_a_dead_man_button_that_is_no_number_and_a_sim_that_is_none_are_refused() -> None:
    with pytest.raises(RuntimeError, match="deadman_button is 'trigger'; it must be the number of a button"):
        launched("plan.launch.py", deadman_button="trigger")
    with pytest.raises(RuntimeError, match="is not valid"):
        launched("plan.launch.py", sim="isaac")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, set()),
        ({"viewer": "true"}, {"viewer_node"}),
        ({"rviz": "true"}, {"viewer_node", "rviz2"}),
        ({"viewer": "true", "sim": "none"}, {"viewer_node"}),
    ],
)
def test_the_viewer_is_started_where_it_is_asked_for_and_by_rviz(arguments: dict[str, str], expected: set[str]) -> None:
    found = by_name(launched("plan.launch.py", **arguments))
    assert found.keys() & {"viewer_node", "rviz2"} == expected


def test_composed_nodes_get_their_own_parameters_each() -> None:
    found = by_name(launched("plan.launch.py", composed="true", deadman_button="3", goal_folder="/goals"))
    assert "camera_node" not in found and "__node" not in found["composed"].remappings
    assert found["composed"].parameters("planner_node")["deadman_button"] == 3
    assert found["composed"].parameters("camera_node")["goal_folder"] == "/goals"
    assert "goal_folder" not in found["composed"].parameters("planner_node")


# ---- the others ------------------------------------------------------------------------------------------------------


def test_two_arms_share_nothing_but_what_is_asked_for_both() -> None:
    given = {"left_model": "/left", "right_model": "/right", "right_goal_image": "g.png"}
    found = launched("two_arms.launch.py", dry_run="true", **given)
    models = {p.remappings["__ns"]: p.parameters()["model"] for p in found if p.executable == "planner_node"}
    assert models == {"/left": "/left", "/right": "/right"}
    assert all(p.parameters()["dry_run"] for p in found if p.executable == "planner_node")
    assert [p.remappings["__ns"] for p in found if p.executable == "send_goal"] == ["/right"]


@pytest.mark.parametrize("arm", ["fr3", "so101", "ur5e"])
def test_a_real_arm_gets_its_controller_and_the_planner_disarmed(arm: str) -> None:
    given = {"arm": arm, "model": "m", "namespace": "left", "image_topic": "/color/image_raw"}
    found = by_name(launched("real_arm.launch.py", **given))
    assert found.keys() == {"spawner", "camera_node", "planner_node", "lifecycle_manager"}
    assert found["spawner"].package == "controller_manager"
    assert found["spawner"].command[1] == "arm_controller"
    assert found["spawner"].after("--param-file") == [str(resource("config", "arms", f"{arm}_controllers.yaml"))]
    assert found["planner_node"].after("--params-file")[0] == str(resource("config", "arms", f"{arm}.yaml"))
    assert found["planner_node"].remappings["camera/image_raw"] == "/color/image_raw"
    assert not found["planner_node"].parameters()["enable_on_start"]
    assert found["lifecycle_manager"].parameters()["enable"] == ""
    assert {process.remappings["__ns"] for process in found.values()} == {"/left"}


@pytest.mark.parametrize("given", [{"enable": "true"}, {"enable": "True"}, {"sim": "mujoco"}])
def test_a_real_arm_is_not_armed_or_simulated_by_its_launch_file(given: dict[str, str]) -> None:
    (name, value), *_ = given.items()
    with pytest.raises(RuntimeError, match=f"{name}:={value} cannot be given"):
        launched("real_arm.launch.py", arm="ur5e", model="m", **given)
    assert launched("real_arm.launch.py", arm="ur5e", model="m", enable="false", sim="none")


def test_a_real_arm_needs_a_model() -> None:
    with pytest.raises(RuntimeError, match="model"):
        launched("real_arm.launch.py", arm="ur5e")


@pytest.mark.parametrize(("distribution", "flag"), [("jazzy", True), ("humble", False)])
@pytest.mark.parametrize(("namespace", "prefix"), [("", ""), ("left", "/left"), ("/left/", "/left")])
def test_a_recording_has_the_topics_that_a_conversion_needs(
    monkeypatch: pytest.MonkeyPatch, distribution: str, flag: bool, namespace: str, prefix: str
) -> None:
    monkeypatch.setenv("ROS_DISTRO", distribution)
    (process,) = launched("record.launch.py", namespace=namespace, output="~/a session")
    words = process.command
    assert words[:5] == ["ros2", "bag", "record", "--storage", "mcap"]
    assert ("--topics" in words) == flag
    (output,) = process.after("--output")
    assert output == os.path.expanduser("~/a session")
    topics = words[words.index(output) + (2 if flag else 1) :]
    assert topics == [
        f"{prefix}/camera/image_raw/compressed",
        f"{prefix}/camera/camera_info",
        f"{prefix}/joint_states",
        f"{prefix}/arm_controller/joint_trajectory",
        f"{prefix}/arm_controller/controller_state",
        f"{prefix}/goal_image",
        f"{prefix}/episode",
    ]
    (qos,) = process.after("--qos-profile-overrides-path")
    profiles = yaml.safe_load(Path(qos).read_text())
    Path(qos).unlink()
    assert list(profiles) == sorted(topics)
    assert profiles[f"{prefix}/joint_states"]["reliability"] == "best_effort"
    assert profiles[f"{prefix}/goal_image"]["durability"] == "transient_local"
    assert profiles[f"{prefix}/arm_controller/joint_trajectory"]["reliability"] == "reliable"
    (file,) = process.after("--storage-config-file")
    storage = yaml.safe_load(Path(file).read_text())
    assert storage["noChunking"] is False
    assert storage["noChunkCRC"] is False


def test_raw_pictures_of_an_absolute_topic_are_recorded_where_they_are() -> None:
    (process,) = launched("record.launch.py", images="raw", image_topic="/wrist/color/image_raw")
    assert {"/wrist/color/image_raw", "/wrist/color/camera_info"} <= set(process.command)
    (process,) = launched("record.launch.py", namespace="left", image_topic="image", command_topic="commands")
    assert {"/left/image/compressed", "/left/camera_info", "/left/controller_state"} <= set(process.command)
    assert "--output" not in process.command


def test_a_recording_that_fails_fails_the_launch() -> None:
    (process,) = launched("record.launch.py", stand_in=True)

    class Exit:
        returncode = 2

    with pytest.raises(RuntimeError, match="the recording failed: ros2 bag record ended with 2"):
        process.action.on_exit(Exit(), process.context)


def test_gazebo_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    for name in ("gazebo.launch.py", "plan.launch.py"):
        with pytest.raises(RuntimeError, match="apt install"):
            launched(name, sim="gazebo")


@pytest.mark.parametrize(("headless", "flags"), [("true", "-r -s --headless-rendering"), ("false", "-r")])
def test_gazebo_gets_the_world_and_the_bridge_its_file(headless: str, flags: str) -> None:
    found = by_name(launched("plan.launch.py", sim="gazebo", headless=headless, world="/a b/w.sdf", namespace="left"))
    assert found["gz"].command == ["gz", f"{flags} {shlex.quote('/a b/w.sdf')}"]
    assert found["parameter_bridge"].package == "ros_gz_bridge"
    for name in ("parameter_bridge", "gazebo_commands"):
        assert found[name].remappings["__ns"] == "/left"
    # Gazebo's clock is bridged to a topic of its own, and reaches /clock through a throttle.
    (bridge,) = (read_yaml(file) for file in found["parameter_bridge"].after("--params-file"))
    bridged = yaml.safe_load(Path(next(iter(bridge.values()))["ros__parameters"]["config_file"]).read_text())
    (clock,) = (entry for entry in bridged if entry["gz_topic_name"] == "/clock")
    assert found["throttle"].command[1:5] == ["messages", clock["ros_topic_name"], "100.0", "/clock"]


# ---- and really started ----------------------------------------------------------------------------------------------


def test_what_plan_launch_py_describes_comes_up_takes_the_goal_and_ends_in_order(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2's Python client is not installed (make setup, or a sourced ROS 2)")
    import cv2
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

    from lewm_model.sim.arm import ArmSim
    from lewm_ros.camera_node import LATCHED
    from lewm_ros.graph import Graph, end_with_parent, set_environment

    set_environment()
    with ArmSim() as sim:
        sim.reset(joint_positions=[0.9, -0.8])
        cv2.imwrite(str(tmp_path / "my goal.png"), sim.render()[..., ::-1])
    processes = launched("plan.launch.py", namespace="cell", goal_image=str(tmp_path / "my goal.png"))
    said: dict[str, str] = {}
    judged: list[bytes] = []
    with Graph("watcher", tmp_path) as graph:
        graph.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: said.update({s.name: s.message for s in m.status}), 10
        )
        graph.node.create_subscription(
            DiagnosticStatus, "/cell/goal_status", lambda message: judged.append(message.level), LATCHED
        )
        running = {
            process.executable: subprocess.Popen(
                [sys.executable, "-m", f"lewm_ros.{process.executable}", *process.command[1:]],
                preexec_fn=end_with_parent,
            )
            for process in processes
        }
        try:
            graph.spin_until(
                lambda: said.get("cell/lifecycle_manager") == "every node is active", 60, "every node to be active"
            )
            graph.spin_until(lambda: judged, 30, "the goal to be looked at")
            assert judged[-1] == DiagnosticStatus.OK
            assert running["send_goal"].wait(10) == 0
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            end_s = time.monotonic() + 20
            codes = {name: process.wait(max(0.1, end_s - time.monotonic())) for name, process in running.items()}
    nodes = ("sim_node", "camera_node", "planner_node", "lifecycle_manager", "send_goal")
    assert codes == dict.fromkeys(nodes, 0)
